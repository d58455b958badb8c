"""Splits by property: whole components, quotas met, seeded, blind to order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

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


def test_what_was_drawn_of_what_was_wanted_is_told(tmp_path: Path) -> None:
    """A test target needs two references: people of two photos cannot be drawn for test."""
    out, chosen = clustered(tmp_path, [2] * 20 + [4] * 2, test=0.5, val=0.1)
    notes = split.split_identities(out, chosen).notes
    assert notes["quotas"]["test"] == {"wanted": 11, "eligible": 2, "people": 2}
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
    assert (
        split.split_identities(out, replace(chosen, test=0.0), redraw=True).notes["test"]["identities"] == 0
    )


def test_lists_of_other_photographs_are_refused(tmp_path: Path) -> None:
    out, chosen = clustered(tmp_path)
    for name in tables.SPLITS:
        (tmp_path / f"{name}_image.txt").write_text(f"another-{name}.png\n")
    with pytest.raises(UserError, match="name no photograph of this dataset"):
        split.split_identities(out, replace(chosen, splits=str(tmp_path)))


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
    split.split_identities(out, balanced, redraw=True)
    after = table(out).query("split == 'test'").identity.map(order).lt(8).sum() // 3
    assert after == 8 > before


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
