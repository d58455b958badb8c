"""References against the definition, and the published CSV dialect byte for byte."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from ffhqref.core import lists, tables
from ffhqref.core.recipe import RECIPES, load_recipe
from ffhqref.core.store import Receipt, UserError, read_receipt
from ffhqref.dataset import references
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.looks import load as load_looks
from ffhqref.dataset.looks import looks_of
from ffhqref.dataset.neighbours import Neighbours
from ffhqref.dataset.references import csv_path, farthest_points, rows_of, write_references
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


def built(
    tmp_path: Path, vectors: np.ndarray, names: list[str], *, redraw: bool = False, **changes: object
) -> Path:
    out = tmp_path / "out"
    write_embedded(out, names, vectors)
    chosen = recipe(**{"grouping": "components", **changes})
    find_identities(out, chosen)
    split_identities(out, chosen, redraw=redraw)
    write_references(out, chosen)
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
    out = built(tmp_path / "c", vectors, names, val_identities=1)
    assert set(rows(out, "val")["x.png"]) == {"near.png", "r1.png", "r2.png"}


@pytest.mark.parametrize("dedupe", ["exact", "near"])
def test_exact_copies_are_neither_target_nor_reference(tmp_path: Path, dedupe: str) -> None:
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.0, 0.2)
    out = tmp_path / "out"
    write_embedded(out, ["a.png", "b.png", "c.png"], vectors, pixels=["p", "p", "q"])
    for stage in (find_identities, split_identities, write_references):
        stage(out, recipe(dedupe=dedupe, grouping="components"))
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


def test_references_by_name_come_from_both_sides_of_the_target(tmp_path: Path) -> None:
    vectors = at_distances(unit([[1.0] + [0.0] * 31])[0], 0.2, 0.2, 0.2)
    out = built(tmp_path, vectors, ["m.png", "z.png", "a.png", "n.png"], order="name")
    assert rows(out, "train")["m.png"] == ["a.png", "n.png", "z.png"]


def test_of_equally_near_references_the_first_by_name_comes_first(tmp_path: Path) -> None:
    vectors = at_distances(unit([[1.0] + [0.0] * 31])[0], 0.2, 0.3)[[0, 2, 1, 1, 2]]
    names = ["x.png", "a.png", "b.png", "c.png", "d.png"]
    out = built(tmp_path, vectors, names, order="nearest")
    assert rows(out, "train")["x.png"] == ["b.png", "c.png", "a.png", "d.png"]
    apart = (1 - vectors[1:].astype(np.float64) @ vectors[1:].T.astype(np.float64)).__getitem__
    assert farthest_points(apart, np.array([0.3, 0.2, 0.2, 0.3])).tolist()[0] == 1
    assert farthest_points(apart, np.array([0.3, 0.2, 0.2, 0.3]), "farthest").tolist()[0] == 0


def faces(turns: list[float], eyes: list[float]) -> npt.NDArray[np.float64]:
    """Five points of level faces: the nose so far from the middle, in distances of the eyes."""
    points = np.zeros((len(turns), 5, 2))
    for face, turn, width in zip(points, turns, eyes, strict=True):
        face[:] = [(0, 0), (width, 0), (width * (0.5 + turn), width), (0, 2 * width), (width, 2 * width)]
    return points


def test_references_by_pose_quality_and_chance() -> None:
    """Photos 1 to 4 may all serve photo 0, which is turned by 0.2."""
    count = 5
    edges = np.array([(a, b) for a in range(count) for b in range(count) if a != b], np.int64)
    graph = Neighbours(
        [f"{n}.png" for n in range(count)], ["a"] * count, ["a"] * count, edges[:, 0], edges[:, 1],
        np.full(len(edges), 0.2), np.ones(count, bool), False,
    )  # fmt: skip
    found = looks_of(faces([0.2, -0.2, 0.25, 0.1, 0.0], [50, 40, 90, 60, 90]))
    assert found.turn == pytest.approx([0.2, -0.2, 0.25, 0.1, 0.0])
    assert found.eyes == pytest.approx([50, 40, 90, 60, 90])

    def ordered(**changes: object) -> list[str]:
        vectors = np.zeros((count, 4), np.float32)
        made = dict(rows_of(graph, vectors, ["train"] * count, "train", recipe(**changes), found))
        return made["0.png"]

    assert ordered(order="pose") == ["2.png", "3.png", "4.png", "1.png"]
    assert ordered(order="quality") == ["2.png", "4.png", "3.png", "1.png"]
    assert ordered(order="quality", max_references=2) == ["2.png", "4.png"]
    drawn = {tuple(ordered(order="random", seed=seed)) for seed in range(40)}
    assert len(drawn) > 12 and all(sorted(one) == sorted(ordered(order="name")) for one in drawn)
    assert ordered(order="random", seed=3) == ordered(order="random", seed=3)


def test_orders_that_need_landmarks_say_so(tmp_path: Path) -> None:
    vectors = at_distances(unit([[1.0] + [0.0] * 31])[0], 0.2)
    out = built(tmp_path, vectors, ["a.png", "b.png"])
    with pytest.raises(UserError, match="need landmarks, and gone.png has none"):
        load_looks(out, ["a.png", "gone.png"])
    kept = write_references(out, recipe(grouping="components", order="random", seed=1))
    assert write_references(out, recipe(grouping="components", order="random", seed=2)) != kept


def test_a_reference_at_the_smallest_distance_itself_is_valid(tmp_path: Path) -> None:
    """The window is [least, distance): 0.5 to the last bit lies in [0.5, 0.6), and in no [0.4, 0.5)."""
    vectors = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    chosen = {"distance": 0.6, "min_distance": 0.5, "test_references": (1, 9), "test_identities": 1}
    for dedupe in ("off", "near"):
        out = built(tmp_path / dedupe, vectors, ["a.png", "b.png"], dedupe=dedupe, **chosen)
        assert rows(out, "test") == {"a.png": ["b.png"], "b.png": ["a.png"]}
        made = recipe(grouping="components", dedupe=dedupe, **chosen)
        assert verify_dataset(out, made).violations == []
        tighter = recipe(**{**chosen, "distance": 0.5, "min_distance": 0.4})
        assert len(verify_dataset(out, tighter).violations) == 2


@pytest.mark.parametrize(("high", "targets"), [(3, 4), (2, 0)])
def test_test_targets_have_no_more_references_than_allowed(high: int, targets: int) -> None:
    """Four photos with three references each; replayed lists may ask for more than a draw would."""
    edges = np.array([(a, b) for a in range(4) for b in range(4) if a != b], np.int64)
    names = [f"{n}.png" for n in range(4)]
    graph = Neighbours(
        names,
        names[:1] * 4,
        names[:1] * 4,
        edges[:, 0],
        edges[:, 1],
        np.full(12, 0.2),
        np.ones(4, bool),
        False,
    )
    vectors, splits = people([4])[0], ["test"] * 4
    for low in (1, 2):
        found = rows_of(graph, vectors, splits, "test", recipe(test_references=(low, high)))
        assert len(found) == targets
    found = rows_of(graph, vectors, ["test", "test", "test", "val"], "test", recipe(test_references=(2, 9)))
    assert [(target, sorted(refs)) for target, refs in found] == [
        ("0.png", ["1.png", "2.png"]), ("1.png", ["0.png", "2.png"]), ("2.png", ["0.png", "1.png"])
    ]  # fmt: skip


def known_people(tmp_path: Path, text: str) -> str:
    path = tmp_path / "people.csv"
    path.write_text("image,identity\n" + text)
    return str(path)


def test_a_photo_of_somebody_else_is_no_reference_however_near(tmp_path: Path) -> None:
    vectors = at_distances(unit([[1.0] + [0.0] * 31])[0], 0.2, 0.3)
    given = known_people(tmp_path, "a.png,anna\nb.png,bert\nc.png,anna\n")
    out = built(tmp_path, vectors, ["a.png", "b.png", "c.png"], identities=given)
    assert rows(out, "train") == {"a.png": ["c.png"], "c.png": ["a.png"]}


PEOPLE = "image,identity\n" + "".join(f"{n:02d}.png,p{n // 4}\n" for n in range(28))
LABELS = "image,race\n" + "".join(f"{n:02d}.png,{'AB'[n // 20]}\n" for n in range(40))
CHANGES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "grouping": ({"distance": 0.85, "test_identities": 0, "val_identities": 0}, {"grouping": "average"}),
    "smallest distance": ({"dedupe": "near"}, {"min_distance": 0.15}),
    "known people": ({"identities": PEOPLE}, {"identities": PEOPLE.replace("00.png,p0", "00.png,p1")}),
    "seed": ({}, {"seed": 3}),
    "quota of test": ({}, {"test_identities": 2}),
    "quota of val": ({}, {"val_identities": 2}),
    "references of test": ({}, {"test_references": (2, 2)}),
    "targets": ({"targets": "01.png\n20.png\n30.png\n"}, {"targets": "02.png\n20.png\n30.png\n"}),
    "copies": ({"min_distance": 0.15}, {"dedupe": "near"}),
    "start": ({}, {"fps_start": "farthest"}),
    "order": ({}, {"order": "nearest"}),
    "greatest number": ({}, {"max_references": 1}),
    "labels": (
        {"labels": LABELS, "balance": ("race",)},
        {"labels": LABELS.replace("A", "C").replace("B", "A").replace("C", "B")},
    ),
    "lists": ({"splits": {"train": [0], "val": [4], "test": [8]}},
              {"splits": {"train": [4], "val": [0], "test": [8]}}),
}  # fmt: skip


def _write_given(path: Path, content: object, names: list[str]) -> None:
    """A text file, or a folder of lists of the photos with these numbers."""
    if isinstance(content, str):
        path.write_text(content)
        return
    assert isinstance(content, dict)
    path.mkdir(exist_ok=True)
    for split, numbers in content.items():
        (path / f"{split}_image.txt").write_text("".join(f"{names[number]}\n" for number in numbers))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_or_file_gives_what_a_new_folder_would_get(tmp_path: Path, change: str) -> None:
    """No stage takes for done what another setting, or another content of a given file, has made.

    Known people keep their split all the same, so it is a new draw that is compared.
    """
    vectors, _ = people([4] * 7 + [3] * 4, 5, spread=0.42, dimension=64)
    names = [f"{n:02d}.png" for n in range(len(vectors))]
    before, after = CHANGES[change]
    base = {"grouping": "components", "test_identities": 1, "val_identities": 1}
    receipts: list[Receipt | None] = []

    def made(folder: str, settings: dict[str, object]) -> dict[str, bytes]:
        given = {}
        for key in settings.keys() & {"identities", "targets", "labels", "splits"}:
            path = tmp_path / key  # the same path for other content
            _write_given(path, settings[key], names)
            given[key] = str(path)
        out = built(tmp_path / folder, vectors, names, redraw=True, **{**base, **settings, **given})
        receipts.append(read_receipt(out, "split"))
        return {
            path.name: path.read_bytes() for path in out.rglob("*") if path.suffix in (".csv", ".parquet")
        }

    old = made("changed", before)
    new = made("changed", {**before, **after})
    assert new == made("new", {**before, **after})
    assert new != old, "the change must be one that shows"
    first, second, _ = receipts
    if old["splits.parquet"] != new["splits.parquet"]:
        assert first and second and not first.same_work(second)


def test_the_published_dialect(tmp_path: Path) -> None:
    """What pandas writes of the same frame, byte for byte; names that need quoting included."""
    vectors, _ = people([3, 4], 0, spread=0.4)
    names = ["a, b/01.png", "it's.png", 'say "x".png', "d.jpg", "é.png", "人.webp", "z z.png"]
    out = built(tmp_path, vectors, names, test_identities=1, test_references=(2, 9))
    for split in tables.SPLITS:
        mapping = lists.read_references(csv_path(out, split))
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
