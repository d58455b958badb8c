"""References against the definition, and the published CSV dialect byte for byte."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ffhqref.core import tables
from ffhqref.core.recipe import RECIPES, load_recipe
from ffhqref.dataset import references
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.references import csv_path, farthest_points, write_references
from ffhqref.dataset.split import split_identities
from ffhqref.dataset.verify import verify_dataset
from tests.synthetic import at_distances, people, recipe, unit, write_embedded


def apart_in(vectors: np.ndarray) -> Callable[[int], np.ndarray]:
    """The distances of one of these rows to all."""
    wide = vectors.astype(np.float64)
    return lambda at: 1 - (wide * wide[at]).sum(axis=1)


def test_farthest_points_by_definition() -> None:
    vectors, _ = people([9], 3, spread=1.0)
    target = unit(np.random.default_rng(9).standard_normal((1, vectors.shape[1])))[0]
    distances = 1 - vectors.astype(np.float64) @ target.astype(np.float64)
    order = farthest_points(apart_in(vectors), distances)
    assert order[0] == np.argmin(distances)
    apart = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    for k in range(1, 9):  # each is the one whose nearest among those before is farthest
        rest = [i for i in range(9) if i not in order[:k]]
        best = max(rest, key=lambda i: (min(apart[i, j] for j in order[:k]), -i))
        assert order[k] == best
    assert farthest_points(apart_in(vectors), distances, "farthest")[0] == np.argmax(distances)
    assert sorted(order) == list(range(9))
    assert list(farthest_points(apart_in(vectors), distances, most=4)) == list(order[:4])


def test_farthest_points_do_not_depend_on_the_order_of_the_photos() -> None:
    vectors, _ = people([7], 1, spread=1.0)
    distances = np.linspace(0.1, 0.3, 7)
    shuffle = np.random.default_rng(0).permutation(7)
    assert list(shuffle[farthest_points(apart_in(vectors[shuffle]), distances[shuffle])]) == list(
        farthest_points(apart_in(vectors), distances)
    )


def built(tmp_path: Path, vectors: np.ndarray, names: list[str], **changes: object) -> Path:
    out = tmp_path / "out"
    write_embedded(out, names, vectors)
    chosen = recipe(**{"grouping": "components", **changes})
    for stage in (find_identities, split_identities, write_references):
        stage(out, chosen)
    return out


def rows(out: Path, split: str) -> dict[str, list[str]]:
    frame = pd.read_csv(csv_path(out, split))
    return {row.gt_image: ast.literal_eval(row.ref_image) for row in frame.itertuples()}


def test_rows_are_direct_neighbours_not_the_component(tmp_path: Path) -> None:
    """A chain a - b - c: a and c are one component and too far apart to be references."""
    angle = np.arccos(0.75)  # distance 0.25 between neighbours, 0.875 between the ends
    vectors = unit([[np.cos(k * angle), np.sin(k * angle), 0] for k in range(3)])
    out = built(tmp_path, vectors, ["a.png", "b.png", "c.png"])
    assert rows(out, "train") == {"a.png": ["b.png"], "b.png": ["a.png", "c.png"], "c.png": ["b.png"]}


def test_the_window_is_for_test_only(tmp_path: Path) -> None:
    """x has a near-duplicate at 0.05: a reference in train, none in test."""
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.05, 0.2, 0.25)
    names = ["x.png", "near.png", "r1.png", "r2.png"]
    out = built(tmp_path / "a", vectors, names)
    assert set(rows(out, "train")["x.png"]) == {"near.png", "r1.png", "r2.png"}
    out = built(tmp_path / "b", vectors, names, test_identities=1)
    assert rows(out, "test")["x.png"] == ["r1.png", "r2.png"]
    assert rows(out, "train") == {} == rows(out, "val")


def test_exact_copies_are_neither_target_nor_reference(tmp_path: Path) -> None:
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.0, 0.2)
    out = tmp_path / "out"
    write_embedded(out, ["a.png", "b.png", "c.png"], vectors, pixels=["p", "p", "q"])
    for stage in (find_identities, split_identities, write_references):
        stage(out, recipe(dedupe="exact", grouping="components"))
    assert rows(out, "train") == {"a.png": ["c.png"], "c.png": ["a.png"]}


def test_near_copies_are_no_targets(tmp_path: Path) -> None:
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.05, 0.2, 0.3)
    out = built(tmp_path, vectors, ["a.png", "b.png", "c.png", "d.png"], dedupe="near")
    found = rows(out, "train")
    assert set(found) == {"a.png", "c.png", "d.png"}
    assert "b.png" not in found["a.png"] and "b.png" in found["c.png"]


@pytest.mark.parametrize("order", ["fps", "nearest", "name"])
def test_order_and_greatest_number(tmp_path: Path, order: str) -> None:
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.30, 0.20, 0.15)
    out = built(tmp_path, vectors, ["x.png", "a.png", "b.png", "c.png"], order=order, max_references=2)
    wanted = {"fps": ["c.png", "a.png"], "nearest": ["c.png", "b.png"], "name": ["a.png", "b.png"]}
    assert rows(out, "train")["x.png"] == wanted[order]


def test_the_published_dialect(tmp_path: Path) -> None:
    """What pandas writes of the same frame, byte for byte; names that need quoting included."""
    vectors, _ = people([3, 4], 0, spread=0.4)
    names = ["a, b/01.png", "it's.png", 'say "x".png', "d.jpg", "é.png", "人.webp", "z z.png"]
    out = built(tmp_path, vectors, names, test_identities=1, test_references=(2, 9))
    for split in tables.SPLITS:
        mapping = tables.read_references(csv_path(out, split))
        columns = {"gt_image": list(mapping)}
        if split != "train":
            columns["lq_image"] = [name.rsplit(".", 1)[0] + ".png" for name in mapping]
        frame = pd.DataFrame({**columns, "ref_image": [str(refs) for refs in mapping.values()]})
        assert csv_path(out, split).read_bytes() == frame.to_csv(index=False).encode()
        assert rows(out, split) == mapping
    assert len(rows(out, "train")) + len(rows(out, "test")) == 7
    header = csv_path(out, "train").read_text().splitlines()[0]
    assert header == "gt_image,ref_image"
    assert csv_path(out, "test").read_text().splitlines()[0] == "gt_image,lq_image,ref_image"


def test_the_notes_count_references(tmp_path: Path) -> None:
    vectors, _ = people([3, 4, 1, 12], 0, spread=0.4)
    names = [f"{i:05d}.png" for i in range(20)]
    out = tmp_path / "out"
    write_embedded(out, names, vectors)
    for stage in (find_identities, split_identities):
        stage(out, recipe(grouping="components"))
    notes = write_references(out, recipe(grouping="components")).notes["train"]
    assert notes["targets"] == 19 and notes["references"] == 3 * 2 + 4 * 3 + 12 * 11
    assert notes["histogram_1_to_10_and_more"] == [0, 3, 4, 0, 0, 0, 0, 0, 0, 12]


def test_equal_embeddings_keep_their_references(tmp_path: Path) -> None:
    """1 - s of equal unit rows lies slightly below or above 0; nobody may lose a reference by that."""
    vectors, _ = people([1] * 40, 5, dimension=512)
    twice = np.repeat(vectors, 2, axis=0)
    rounded = 1 - (twice.astype(np.float64) ** 2).sum(axis=1)
    assert (rounded < 0).any() and (rounded > 0).any()
    names = [f"{i:03d}.png" for i in range(80)]
    out = built(tmp_path, twice, names, dedupe="off")
    assert len(rows(out, "train")) == 80
    assert (pd.read_parquet(out / "tables/pairs.parquet").distance >= 0).all()
    chosen = recipe(grouping="components", dedupe="off")
    report = verify_dataset(out, chosen)
    assert report.violations == [] and report.counts["references"] == 80


def test_work_for_a_person_of_many_photos_stops_at_the_greatest_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in distances that are taken: the same answer as without a bound, cut, for much less."""
    vectors, _ = people([60], 0, spread=0.4)
    names = [f"{i:05d}.png" for i in range(60)]
    out = built(tmp_path, vectors, names, max_references=None)
    whole = rows(out, "train")
    assert len(whole["00000.png"]) == 59
    asked = []
    real = references.farthest_points

    def counted(apart_from: Callable[[int], np.ndarray], *rest: object) -> np.ndarray:
        def one(at: int) -> np.ndarray:
            asked.append(at)
            return apart_from(at)

        return real(one, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(references, "farthest_points", counted)
    write_references(out, recipe(grouping="components", max_references=3))
    assert rows(out, "train") == {target: found[:3] for target, found in whole.items()}
    assert len(asked) == 60 * 3


def test_shipped_recipes_bound_references_above_all_published_numbers() -> None:
    """The paper's test targets have 2 to 9 references and at most 5 are used; FFHQ-Ref lists them all."""
    for name in RECIPES:
        assert load_recipe(name).max_references == 100
