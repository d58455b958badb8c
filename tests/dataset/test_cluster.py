"""Pairs against a brute-force answer; identities, copies and suspects on planted cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from ffhqref.cli.build import _report
from ffhqref.core import tables
from ffhqref.core.store import UserError, read_receipt
from ffhqref.dataset import cluster
from ffhqref.dataset.build import Built
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from ffhqref.identities import search
from ffhqref.identities.grouping import components
from ffhqref.identities.people import group
from tests.synthetic import at_distances, people, recipe, unit, write_embedded


def brute(vectors: np.ndarray, distance: float) -> list[tuple[int, int]]:
    wide = vectors.astype(np.float64)
    return [
        (i, j)
        for i in range(len(wide))
        for j in range(i + 1, len(wide))
        if 1 - (wide[i] * wide[j]).sum() < distance
    ]


@pytest.mark.parametrize("distance", [0.1, 0.4, 0.9])
def test_pairs_are_the_brute_force_ones(distance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = people([3, 1, 7, 2, 2, 5, 1], 1, spread=0.8, dimension=32)
    wanted = brute(vectors, distance)
    for tile, kept in (((4096, 2048), 4_000_000), ((8, 5), 4_000_000), ((8, 5), 3)):  # 3: stripes are redone
        monkeypatch.setattr(search, "TILE", tile)
        monkeypatch.setattr(search, "MAX_KEPT", kept)
        found = [
            (int(left), int(right))
            for lefts, rights, _ in search.pairs_below(vectors, distance)
            for left, right in zip(lefts, rights, strict=True)
        ]
        assert found == wanted


def test_strictly_below_is_decided_in_float64() -> None:
    """Pairs at the distance itself, and one float32 step to each side of it."""
    base = np.zeros(512)
    base[0] = 1
    rows = [base]
    for number, step in enumerate((-2e-7, -1e-7, 0, 1e-7, 2e-7), 1):
        row = np.zeros(512)
        row[0] = 0.6 + step
        row[number] = np.sqrt(1 - row[0] ** 2)
        rows.append(row)
    vectors = np.asarray(rows, np.float32)
    exact = 1 - vectors[1:, 0].astype(np.float64)
    found = {int(r) for left, right, _ in search.pairs_below(vectors, 0.4) for r in right[left == 0]}
    assert found == {i + 1 for i in range(5) if exact[i] < 0.4}
    assert 0 < len(found) < 5
    at_limit = float(exact[2])
    found = {int(r) for left, right, _ in search.pairs_below(vectors, at_limit) for r in right[left == 0]}
    assert 3 not in found and 4 in found


def names_of(count: int) -> list[str]:
    return [f"{index:05d}.png" for index in range(count)]


def test_components_are_the_papers_identities(tmp_path: Path) -> None:
    vectors, _ = people([4, 1, 1, 6, 2, 3, 1], 2, spread=0.7)
    names = names_of(len(vectors))
    write_embedded(tmp_path / "out", names, vectors)
    cluster.find_identities(tmp_path / "out", recipe(grouping="components"))
    frame = pd.read_parquet(tmp_path / "out/tables/identities.parquet")
    edges = np.array(brute(vectors, 0.4), np.int32).reshape(-1, 2)
    labels = components(len(names), edges)
    assert list(frame.image) == names
    assert list(frame.identity) == [names[label] for label in labels]
    assert list(frame.component) == list(frame.identity)
    pairs = pd.read_parquet(tmp_path / "out/tables/pairs.parquet")
    assert list(zip(pairs.left, pairs.right, strict=True)) == [(names[i], names[j]) for i, j in edges]
    assert (pairs.left < pairs.right).all() and (pairs.distance < 0.4).all()


def test_component_joins_pairs_and_identities(tmp_path: Path) -> None:
    """A pair below the distance between two known people puts both into one component."""
    base = unit(np.eye(8)[:1])[0]
    vectors = np.concatenate([at_distances(base, 0.3), unit(np.eye(8)[[3, 4]])])
    names = ["a1.png", "b1.png", "a2.png", "c.png"]
    write_embedded(tmp_path / "out", names, vectors)
    people_csv = tmp_path / "people.csv"
    people_csv.write_text("image,identity\na1.png,anna\na2.png,anna\nb1.png,bert\n")
    receipt = cluster.find_identities(tmp_path / "out", recipe(identities=str(people_csv)))
    frame = pd.read_parquet(tmp_path / "out/tables/identities.parquet").set_index("image")
    assert dict(frame.identity) == {"a1.png": "anna", "a2.png": "anna", "b1.png": "bert", "c.png": "c.png"}
    assert frame.component["a1.png"] == frame.component["a2.png"] == frame.component["b1.png"]
    assert frame.component["c.png"] != frame.component["a1.png"]
    assert receipt.notes["agreement"]["pair_precision"] == 0.0  # the grouping would have joined a1 and b1
    suspects = pd.read_parquet(tmp_path / "out/tables/suspects.parquet")
    assert {"a1.png", "b1.png"} in [set(row) for row in suspects[["left", "right"]].to_numpy()]


def test_known_people_must_fit(tmp_path: Path) -> None:
    write_embedded(tmp_path / "out", names_of(3), people([3])[0])
    for text, words in (
        ("image,identity\nzz.png,a\n", "None of the photographs"),
        ("image,identity\n00000.png,a\n00000.png,b\n", "stands twice"),
        ("image,person\n00000.png,a\n", "no column identity"),
    ):
        (tmp_path / "people.csv").write_text(text)
        with pytest.raises(UserError, match=words):
            cluster.find_identities(tmp_path / "out", recipe(identities=str(tmp_path / "people.csv")))


def test_copies(tmp_path: Path) -> None:
    """b = a copy of a by pixels; c near a; d another photo."""
    base = unit(np.eye(16)[:1])[0]
    vectors = at_distances(base, 0.0, 0.05, 0.3)
    names = ["a.png", "b.png", "c.png", "d.png"]
    write_embedded(tmp_path / "out", names, vectors, pixels=["p", "p", "q", "r"])
    cluster.find_identities(tmp_path / "out", recipe(grouping="components"))
    frame = pd.read_parquet(tmp_path / "out/tables/duplicates.parquet")
    rows = {row.image: (row.kept, row.kind, round(row.distance, 4)) for row in frame.itertuples()}
    assert rows == {"b.png": ("a.png", "exact", 0.0), "c.png": ("a.png", "near", 0.05)}


def test_suspects_name_the_chain(tmp_path: Path) -> None:
    """Two tight people and one photo between them: components join them, suspects say where."""
    rng = np.random.default_rng(0)
    a, b = np.eye(64)[0], np.eye(64)[1]
    noise = unit(rng.standard_normal((8, 64)))
    vectors = unit(np.concatenate([a + 0.2 * noise[:4], b + 0.2 * noise[4:], [0.72 * a + 0.69 * b]]))
    write_embedded(tmp_path / "out", names_of(9), vectors)
    receipt = cluster.find_identities(tmp_path / "out", recipe(grouping="components"))
    (suspect,) = pd.read_parquet(tmp_path / "out/tables/suspects.parquet").itertuples()
    assert suspect.kind == "weak_link" and suspect.doubt > 0.9 and suspect.other == ""
    assert suspect.members == 9 and "00008.png" in (suspect.left, suspect.right)
    assert suspect.identity == "00000.png" and receipt.notes["suspects"] == {"weak_link": 1}


def test_changed_distance_redoes_cluster_and_same_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_embedded(out, names_of(6), people([3, 3], spread=0.9)[0])
    first = cluster.find_identities(out, recipe())
    stamp = tables.path_of(out, "pairs").stat().st_mtime_ns
    assert cluster.find_identities(out, recipe()) == first
    assert tables.path_of(out, "pairs").stat().st_mtime_ns == stamp
    assert cluster.find_identities(out, recipe(distance=0.9)).notes["pairs"] > first.notes["pairs"]


def test_a_damaged_table_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_embedded(out, names_of(6), people([3, 3], spread=0.9)[0])
    cluster.find_identities(out, recipe())
    good = tables.path_of(out, "pairs").read_bytes()
    tables.path_of(out, "pairs").write_bytes(good[:-10])
    cluster.find_identities(out, recipe())
    assert tables.path_of(out, "pairs").read_bytes() == good


def test_too_many_pairs_for_average_linkage_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_embedded(tmp_path / "out", names_of(9), people([9])[0])
    monkeypatch.setattr(cluster, "MAX_EDGES", 10)
    with pytest.raises(UserError, match="--grouping components"):
        cluster.find_identities(tmp_path / "out", recipe(grouping="average"))


def gram(similarities: list[list[float]]) -> npt.NDArray[np.float32]:
    """Unit vectors with exactly these similarities."""
    return np.asarray(np.linalg.cholesky(np.array(similarities)), np.float32)


def embeddings(
    vectors: npt.NDArray[np.float32], area: list[int] | None = None, pixels: list[str] | None = None
) -> tables.Embeddings:
    names = names_of(len(vectors))
    return tables.Embeddings(names, vectors, area or [100] * len(names), pixels or names)


@pytest.mark.parametrize(("across", "joined"), [(0.43, False), (0.47, True)])
def test_two_groups_join_half_way_between_strangers_and_one_person(across: float, joined: bool) -> None:
    """At distance 0.4 the cut is 0.3 above the strangers' baseline, which is 0.15 at least: 0.45 in all."""
    vectors = gram([[1, 0.65, across, across], [0.65, 1, across, across], [across, across, 1, 0.65],
                    [across, across, 0.65, 1]])  # fmt: skip
    edges = np.stack(np.triu_indices(4, 1), axis=1).astype(np.int32)
    people = group(vectors, 0.4, edges)
    assert (people[0] == people[2]) == joined and people[0] == people[1]


def test_of_near_copies_the_largest_is_kept() -> None:
    vectors = gram([[1, 0.96, 0.96], [0.96, 1, 0.96], [0.96, 0.96, 1]])
    near, people = np.array([[0, 1], [0, 2], [1, 2]], np.int32), np.zeros(3, np.int64)
    rows = cluster.find_duplicates(embeddings(vectors, area=[200, 900, 400]), near, people)
    assert [(image, kept, kind) for image, kept, kind, _ in rows] == [
        ("00000.png", "00001.png", "near"), ("00002.png", "00001.png", "near")
    ]  # fmt: skip
    equal = cluster.find_duplicates(embeddings(vectors), near, people)
    assert {kept for _, kept, _, _ in equal} == {"00000.png"}  # of equal sizes the first


def test_faces_of_one_photograph_are_never_one_person(tmp_path: Path) -> None:
    """Twins in one picture, and one photo of one of them: whatever the grouping, the twins stay two."""
    names = ["a.jpg/001.png", "a.jpg/002.png", "b.jpg/001.png", "c.jpg/001.png"]
    vectors = gram([[1, 0.8, 0.9, 0.1], [0.8, 1, 0.85, 0.1], [0.9, 0.85, 1, 0.1], [0.1, 0.1, 0.1, 1]])
    for grouping in ("components", "average"):
        out = tmp_path / grouping
        write_embedded(out, names, vectors)
        for faces, wanted in (("largest", [0, 0, 0, 3]), ("all", [0, 1, 0, 3])):
            cluster.find_identities(out, recipe(grouping=grouping, faces=faces))
            frame = pd.read_parquet(out / "tables/identities.parquet")
            assert list(frame.identity) == [names[label] for label in wanted]
            assert len(set(frame.component)) == 2, "a pair below the distance is no less one"


def test_faces_apart() -> None:
    names = ["a/1.jpg/001.png", "a/1.jpg/002.png", "a/1.jpg/003.png", "a/2.jpg/001.png", "b.jpg/001.png"]
    assert cluster.faces_apart(names).tolist() == [[0, 1], [0, 2], [1, 2]]
    assert cluster.faces_apart(names[3:]).shape == (0, 2)


def test_known_people_say_what_the_grouping_would_have_got_wrong(tmp_path: Path) -> None:
    """d bears b's name and looks like a's: two of three references each way would be wrong."""
    vectors, person = people([3, 3], 0, spread=0.4)
    names = names_of(6)
    write_embedded(tmp_path / "out", names, vectors)
    listed = tmp_path / "people.csv"
    said = ["a", "a", "b", "b", "b", "b"]
    rows = "".join(f"{name},{one}\n" for name, one in zip(names, said, strict=True))
    listed.write_text(f"image,identity\n{rows}")
    receipt = cluster.find_identities(tmp_path / "out", recipe(identities=str(listed)))
    found = receipt.notes["agreement"]
    assert (found["references"], found["wrong_references"]) == (2 * 3 * 2, 2 * 2)
    assert found["people_in_several"] == 1
    suspects = pd.read_parquet(tmp_path / "out/tables/suspects.parquet")
    (label,) = suspects.itertuples()
    assert (label.kind, label.identity, label.other, label.left) == ("label", "b", "a", "00002.png")
    assert receipt.notes["suspects"] == {"label": 1}
    chosen = recipe(identities=str(listed))
    receipts = {"embed": read_receipt(tmp_path / "out", "embed"), "cluster": receipt}
    receipts |= {"split": split_identities(tmp_path / "out", chosen)}
    receipts |= {"references": write_references(tmp_path / "out", chosen)}
    lines = _report(Built(tmp_path / "out", receipts, fresh=True))
    assert (
        "Of its 12 references 4 would be of another person (33.333%), and 1 people in several groups."
        in lines
    )


def test_a_copy_is_near_the_photo_that_stays(tmp_path: Path) -> None:
    """A sequence that turns by 0.05 a frame: what is near a copy alone is none itself."""
    turn = np.arccos(0.95)
    vectors = unit([[np.cos(k * turn), np.sin(k * turn)] + [0.0] * 6 for k in range(20)])
    wide = vectors.astype(np.float64)
    distance = 1 - wide @ wide.T
    left, right = np.nonzero(np.triu(distance < 0.1, 1))
    near = np.stack([left, right], axis=1).astype(np.int32)
    area = np.random.default_rng(0).integers(1, 5, 20).tolist()
    rows = cluster.find_duplicates(embeddings(vectors, area=area), near, np.zeros(20, np.int64))
    copies = {image: kept for image, kept, _, _ in rows}
    assert copies and not set(copies) & set(copies.values())
    index = {name: at for at, name in enumerate(names_of(20))}
    for image, kept, _, apart in rows:
        assert apart == pytest.approx(distance[index[image], index[kept]]) and apart < 0.1
        assert area[index[kept]] >= area[index[image]]
    stay = [at for name, at in index.items() if name not in copies]
    assert (distance[np.ix_(stay, stay)] + np.eye(len(stay)) >= 0.1).all(), "of near photos one stays"


HALF = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)  # at distance 0.5, to the last bit


@pytest.mark.parametrize("grouping", ["components", "average"])
def test_a_pair_at_the_distance_itself_is_none(tmp_path: Path, grouping: str) -> None:
    write_embedded(tmp_path / "out", names_of(2), HALF)
    for distance, pairs in ((0.5, 0), (0.501, 1)):
        receipt = cluster.find_identities(tmp_path / "out", recipe(grouping=grouping, distance=distance))
        assert receipt.notes["pairs"] == pairs
        assert len(pd.read_parquet(tmp_path / "out/tables/pairs.parquet")) == pairs
    frame = pd.read_parquet(tmp_path / "out/tables/identities.parquet")
    assert frame.component.nunique() == 1


def test_a_pair_at_the_smallest_distance_is_no_near_copy(tmp_path: Path) -> None:
    write_embedded(tmp_path / "out", names_of(2), HALF)
    for least, copies in ((0.5, 0), (0.501, 1)):
        cluster.find_identities(tmp_path / "out", recipe(distance=0.6, min_distance=least))
        assert len(pd.read_parquet(tmp_path / "out/tables/duplicates.parquet")) == copies


def test_photos_of_two_people_are_no_near_copies_of_each_other() -> None:
    vectors = gram([[1, 0.96, 0.96], [0.96, 1, 0.96], [0.96, 0.96, 1]])
    near = np.array([[0, 1], [0, 2], [1, 2]], np.int32)
    rows = cluster.find_duplicates(embeddings(vectors, area=[900, 100, 200]), near, np.array([0, 1, 1]))
    assert [row[:3] for row in rows] == [("00001.png", "00002.png", "near")]


def test_an_unlisted_photo_is_nobody_of_the_list_even_where_a_person_has_its_name(tmp_path: Path) -> None:
    write_embedded(tmp_path / "out", ["a.png", "b.png", "c.png"], np.eye(3, 8, dtype=np.float32))
    (tmp_path / "people.csv").write_text("image,identity\na.png,c.png\n")
    cluster.find_identities(tmp_path / "out", recipe(identities=str(tmp_path / "people.csv")))
    frame = pd.read_parquet(tmp_path / "out/tables/identities.parquet").set_index("image")
    assert frame.identity["a.png"] == "c.png"
    assert frame.identity["b.png"] == "b.png"
    assert frame.identity["c.png"] not in ("c.png", "b.png") and frame.identity.nunique() == 3


@pytest.mark.parametrize(("across", "people"), [(0.43, 2), (0.47, 1)])
def test_average_linkage_is_given_the_pairs_that_lie_past_the_distance(
    tmp_path: Path, across: float, people: int
) -> None:
    """No pair across lies below 0.4, but 0.47 is more than half-way above the strangers' baseline."""
    vectors = gram([[1, 0.66, across, across], [0.66, 1, across, across], [across, across, 1, 0.66],
                    [across, across, 0.66, 1]])  # fmt: skip
    write_embedded(tmp_path / "out", names_of(4), vectors)
    receipt = cluster.find_identities(tmp_path / "out", recipe(grouping="average"))
    assert receipt.notes["identities"] == people and receipt.notes["pairs"] == 2
