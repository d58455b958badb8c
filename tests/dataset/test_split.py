"""Splits by property: whole components, quotas met, seeded, blind to order."""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ffhqref.core import tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset import neighbours, split
from ffhqref.dataset.cluster import find_identities
from tests.synthetic import at_distances, people, recipe, unit, write_embedded

SIZES = [1] * 20 + [2] * 10 + [3] * 12 + [5] * 6 + [12]


def clustered(tmp_path: Path, sizes: list[int] = SIZES, **changes: object) -> tuple[Path, Recipe]:
    vectors, person = people(sizes, 7, spread=0.5, dimension=256)
    chosen = recipe(grouping="components", **changes)
    names = [f"{index * 7919 % 1000:05d}.png" for index in range(len(person))]  # people are not neighbours
    write_embedded(tmp_path / "out", names, vectors)
    find_identities(tmp_path / "out", chosen)
    return tmp_path / "out", chosen


def table(out: Path) -> pd.DataFrame:
    return pd.read_parquet(tables.path_of(out, "splits"))


def test_whole_number_quotas(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path, val_identities=7, test_identities=5)
    notes = split.split_identities(out, chosen).notes
    frame = table(out)
    assert (frame.groupby("identity").split.nunique() == 1).all()
    assert frame[frame.split == "val"].identity.nunique() == notes["val"]["identities"] == 7
    assert frame[frame.split == "test"].identity.nunique() == notes["test"]["identities"] == 5
    graph = neighbours.load(out, chosen)
    counts = dict(zip(graph.names, graph.counts(0.1), strict=True))
    assert all(2 <= counts[name] <= 9 for name in frame[frame.split == "test"].image)
    assert all(counts[name] >= 1 for name in frame[frame.split == "val"].image)
    alone = frame[frame.image.map(counts) == 0]
    assert len(alone) >= 20 and set(alone.split) == {"train"}
    for name in tables.SPLITS:
        listed = split.list_path(out, name).read_text().splitlines()
        assert listed == sorted(frame[frame.split == name].image)


def test_fractions_are_of_what_can_be_drawn(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path, val=0.2, test=0.1)
    notes = split.split_identities(out, chosen).notes
    assert notes["val"]["identities"] == round(0.2 * 29)  # 10 + 12 + 6 + 1 people have references
    assert notes["test"]["identities"] == round(0.1 * 29)


def test_a_fraction_leaves_train_something(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path, [3], val=0.2, test=0.1)
    assert split.split_identities(out, chosen).notes["train"]["identities"] == 1


def test_a_quota_that_cannot_be_met_is_said(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path, test_identities=19)
    with pytest.raises(
        UserError, match="^18 identities can be drawn for test, 19 were asked for.*--test-identities 18"
    ):
        split.split_identities(out, chosen)
    assert not tables.path_of(out, "splits").exists()


@pytest.mark.parametrize("asked", range(1, 12))
def test_the_quota_that_is_advised_can_be_met(asked: int) -> None:
    """Components of two identities: no odd number can be met, and what the sentence says can."""
    parts = [split.Component(f"{n}", (2 * n, 2 * n + 1), 2, True, True) for n in range(4)]
    wanted = recipe(test_identities=asked)
    if asked in (2, 4, 6, 8):
        split.draw(parts, wanted)
        return
    with pytest.raises(UserError) as caught:
        split.draw(parts, wanted)
    advised = re.search(r"--test-identities (\d+)", str(caught.value))
    assert advised and int(advised[1]) == min(asked - asked % 2, 8)
    drawn = split.draw(parts, recipe(test_identities=int(advised[1])))
    assert list(drawn.values()).count("test") == int(advised[1]) / 2


def test_what_was_drawn_of_what_was_wanted_is_told(tmp_path: Path) -> None:
    """A test target needs two references: people of two photos cannot be drawn for test."""
    out, chosen = clustered(tmp_path, [2] * 20 + [4] * 2, test=0.5, val=0.1)
    notes = split.split_identities(out, chosen).notes
    assert notes["quotas"]["test"] == {"wanted": 11, "eligible": 2}
    assert notes["test"]["identities"] == 2 and notes["val"]["identities"] == 2


def test_a_split_that_stays_empty_names_the_option_that_fills_it(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path, [2] * 20, test=0.1)
    with pytest.raises(
        UserError, match="No identity can be drawn for test, 2 were wanted.*--test 0"
    ) as caught:
        split.split_identities(out, chosen)
    advised = re.search(r"--test-references (\d+):(\d*)", str(caught.value))
    assert advised
    window = (int(advised[1]), int(advised[2] or 0))
    notes = split.split_identities(out, replace(chosen, test_references=window)).notes
    assert notes["test"]["identities"] == 2
    assert split.split_identities(out, replace(chosen, test=0.0)).notes["test"]["identities"] == 0


def test_lists_of_other_photographs_are_refused(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path)
    for name in tables.SPLITS:
        (tmp_path / f"{name}_image.txt").write_text(f"another-{name}.png\n")
    with pytest.raises(UserError, match="name no photograph of this dataset"):
        split.split_identities(out, replace(chosen, splits=str(tmp_path)))


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    parts = [split.Component(f"{i:03d}.png", (i,), 1, True, True) for i in range(60)]
    chosen = recipe(test_identities=10, val_identities=10)
    drawn = split.draw(parts, chosen)
    assert split.draw(parts[::-1], chosen) == drawn
    assert split.draw(parts, recipe(test_identities=10, val_identities=10, seed=1)) != drawn
    assert sorted(drawn.values()).count("test") == 10
    fewer = split.draw(parts, recipe(test_identities=9, val_identities=10))
    tested = {name for name, part in drawn.items() if part == "test"}
    assert {name for name, part in fewer.items() if part == "test"} < tested


def test_the_draw_is_by_the_hash_of_seed_and_component_test_first() -> None:
    """Frozen: the same photographs must be split alike with every later version."""
    parts = [split.Component(f"{i:03d}.png", (i,), 1, True, True) for i in range(30)]

    def rank(part: split.Component) -> str:
        return hashlib.sha256(f'[5, "{part.name}", "split"]'.encode()).hexdigest()

    order = [part.name for part in sorted(parts, key=rank)]
    drawn = split.draw(parts, recipe(seed=5, test_identities=4, val_identities=7))
    assert [drawn[name] for name in order] == ["test"] * 4 + ["val"] * 7 + ["train"] * 19


@pytest.mark.parametrize(("people", "wanted"), [(2, ["train"] * 2), (3, ["test", "train", "val"])])
def test_a_fraction_gives_each_split_one_where_there_are_three(people: int, wanted: list[str]) -> None:
    parts = [split.Component(f"{i}", (i,), 1, True, True) for i in range(people)]
    assert sorted(split.draw(parts, recipe(val=0.01, test=0.01)).values()) == wanted


def graph(*edges: tuple[int, int], photos: int, no_targets: tuple[int, ...] = ()) -> neighbours.Neighbours:
    """One person's photos and the pairs that are near enough, all at distance 0.2."""
    both = np.array(sorted([*edges, *(edge[::-1] for edge in edges)]), np.int64).reshape(-1, 2)
    names, may = [f"{photo:03d}.png" for photo in range(photos)], np.ones(photos, bool)
    may[list(no_targets)] = False
    person = ["000.png"] * photos
    far = np.full(len(both), 0.2)
    return neighbours.Neighbours(names, person, person, both[:, 0], both[:, 1], far, may, False)


@pytest.mark.parametrize(
    ("photos", "drawn"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (10, (1, 1)), (11, (1, 0))]
)
def test_who_can_be_drawn_has_from_two_to_nine_references(photos: int, drawn: tuple[int, int]) -> None:
    everyone = graph(*itertools.combinations(range(photos), 2), photos=photos)
    (part,) = split.find_components(everyone, recipe())
    assert (part.for_val, part.for_test) == drawn and part.photos == tuple(range(photos))
    (part,) = split.find_components(everyone, recipe(test_references=(2, 0)))
    assert part.for_test == (photos >= 3)


def test_every_target_of_a_component_must_have_its_references() -> None:
    chain = [(0, 1), (1, 2), (1, 3), (2, 3)]  # 0 has one reference, the others two or three
    (part,) = split.find_components(graph(*chain, photos=4), recipe())
    assert (part.for_val, part.for_test) == (True, False)
    (part,) = split.find_components(graph(*chain, photos=4, no_targets=(0,)), recipe())
    assert part.for_test, "who is no target need not have references"
    (part,) = split.find_components(graph(*chain, photos=4, no_targets=(0, 1, 2, 3)), recipe())
    assert (part.for_val, part.for_test) == (False, False), "without a target there is nothing to draw"


def test_balance_counts_photos_and_keeps_the_order_inside_a_group() -> None:
    parts = [split.Component(f"a{i}", tuple(range(5 * i, 5 * i + 5)), 1, True, True) for i in range(6)]
    parts += [split.Component(f"b{i}", (100 + i,), 1, True, True) for i in range(12)]
    strata = {part.name: part.name[0] for part in parts}
    for wanted, groups in ((1, "a"), (2, "ab"), (6, "abbbbb"), (7, "aabbbbb"), (12, "aabbbbbbbbbb")):
        drawn = split.draw(parts, recipe(test_identities=wanted), strata)
        assert "".join(sorted(name[0] for name, part in drawn.items() if part == "test")) == groups
    alike = dict.fromkeys(strata, "alike")
    assert split.draw(parts, recipe(test_identities=5), alike) == split.draw(parts, recipe(test_identities=5))


def test_the_label_of_a_component_is_the_commonest_and_of_equals_the_first(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,race\na1.png,B\na2.png,A\na3.png,B\nb1,Z\nb2.png,C\n")
    names = ["a1.png", "a2.png", "a3.png", "b1.png", "b2.png", "c.png"]
    parts = [
        split.Component(name, photos, 1, True, True)
        for name, photos in (("a", (0, 1, 2)), ("b", (3, 4)), ("c", (5,)))
    ]
    found = split.strata_of(parts, names, labels, ["race"])
    assert found == {"a": "B", "b": "C", "c": "unknown"}


def test_a_component_of_many_people_fits_the_quota_or_is_passed_over() -> None:
    parts = [split.Component(f"{i}", (i,), 3, True, True) for i in range(4)]
    parts += [split.Component(f"one{i}", (9 + i,), 1, True, True) for i in range(4)]
    drawn = split.draw(parts, recipe(test_identities=4))
    taken = [part for part in parts if drawn[part.name] == "test"]
    assert sum(part.identities for part in taken) == 4


def test_balance_draws_from_the_rarer_group(tmp_path: Path) -> None:
    sizes = [3] * 40
    out, chosen = clustered(tmp_path, sizes, test_identities=16)
    frame = pd.read_parquet(tables.path_of(out, "identities"))
    order = {identity: at for at, identity in enumerate(sorted(set(frame.identity)))}
    labels = tmp_path / "labels.csv"
    rare = frame.identity.map(order) < 8
    rows = pd.DataFrame({"image": frame.image.str[:-4], "race": rare.map({True: "B", False: "A"})})
    rows.assign(age="33.0").to_csv(labels, index=False)
    plain = recipe(grouping="components", test_identities=16)
    split.split_identities(out, plain)
    before = table(out).query("split == 'test'").identity.map(order).lt(8).sum() // 3
    balanced = recipe(grouping="components", test_identities=16, labels=str(labels), balance=("race", "age"))
    split.split_identities(out, balanced)
    after = table(out).query("split == 'test'").identity.map(order).lt(8).sum() // 3
    assert after == 8 > before


def test_ages_fall_into_fairfaces_groups() -> None:
    groups = [split._label(str(age)) for age in (0, 2, 3, 9, 10, 19, 20, 29, 30, 69, 70, 99.5)]
    numbers = [int(group.split()[-1]) for group in groups]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 7, 8, 8]
    assert split._label("female") == "female"


def test_labels_that_fit_no_photo_are_refused(tmp_path: Path) -> None:
    out, _ = clustered(tmp_path)
    (tmp_path / "labels.csv").write_text("image,race\nzz,A\n")
    chosen = recipe(labels=str(tmp_path / "labels.csv"), balance=("race",), test_identities=1)
    with pytest.raises(UserError, match="no row for any photograph"):
        split.split_identities(out, chosen)


def test_published_lists_are_replayed(tmp_path: Path) -> None:
    out, _ = clustered(tmp_path, [2, 2, 1])
    names = sorted(pd.read_parquet(tables.path_of(out, "identities")).image)
    lists = tmp_path / "published" / split.LISTS
    lists.mkdir(parents=True)
    wanted = {"train": names[:1], "val": names[1:2], "test": [names[2], "99999.png"]}
    for name, images in wanted.items():
        (lists / f"{name}_image.txt").write_text("\n".join(images) + "\n")
    receipt = split.split_identities(out, recipe(splits=str(lists.parent)))
    found = table(out).groupby("split").image.apply(list)
    assert found["val"] == wanted["val"] and found["test"] == [names[2]]
    assert found["train"] == [names[0], *names[3:]]
    assert receipt.notes["listed_but_absent"] == 1 and receipt.notes["in_no_list"] == 2
    (lists / "val_image.txt").write_text(names[0] + "\n")
    with pytest.raises(UserError, match="both train and val"):
        split.split_identities(out, recipe(splits=str(lists)))
    (lists / "val_image.txt").unlink()
    with pytest.raises(UserError, match="val_image.txt"):
        split.split_identities(out, recipe(splits=str(lists)))


def test_targets_limit_who_is_asked_and_who_has_a_row(tmp_path: Path) -> None:
    """CelebA-Test-Ref: the listed photos that have references are test targets, the others references."""
    base = unit([[1.0] + [0.0] * 31])[0]
    vectors = at_distances(base, 0.05, 0.2, 0.3)
    far = unit([[0.0] * 31 + [1.0]])
    names = ["t.png", "copy.png", "r1.png", "r2.png", "alone.png"]
    write_embedded(tmp_path / "out", names, unit([*vectors, *far]))
    (tmp_path / "targets.txt").write_text("t.jpg\nalone.png\n")
    chosen = recipe(
        grouping="components", targets=str(tmp_path / "targets.txt"), test=1.0, test_references=(1, 0)
    )
    out = tmp_path / "out"
    find_identities(out, chosen)
    split.split_identities(out, chosen)
    found = table(out).set_index("image").split
    assert dict(found) == {**dict.fromkeys(names[:4], "test"), "alone.png": "train"}
    (tmp_path / "targets.txt").write_text("nobody.png\n")
    with pytest.raises(UserError, match="names no photograph"):
        split.split_identities(out, chosen)
