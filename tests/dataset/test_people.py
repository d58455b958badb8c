"""The ledger: nobody moves, whatever photos come, go or are renamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, store, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset import people, split
from ffhqref.dataset.build import write_recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.neighbours import Neighbours
from ffhqref.dataset.people import Ledger, Person, Photos
from ffhqref.dataset.references import write_references
from ffhqref.dataset.verify import Report, verify_dataset
from tests.synthetic import at_distances, recipe, unit, write_embedded
from tests.synthetic import people as drawn_people

QUOTAS = recipe(grouping="components", val=0.2, test=0.2, test_references=(1, 0))


@dataclass
class World:
    """A folder as a model: file name -> digest, and whom each digest shows (two, where it joins them)."""

    files: dict[str, str] = field(default_factory=dict)
    shows: dict[str, frozenset[int]] = field(default_factory=dict)
    made: int = 0

    def add(self, *persons: int) -> None:
        self.made += 1
        pixels = store.digest(str(self.made).encode())
        self.files[f"{(self.made * 7919) % 1000:03d}.png"] = pixels
        self.shows[pixels] = frozenset(persons)

    def components(self) -> dict[str, frozenset[int]]:
        """Digest -> everybody whom it hangs together with, through the photos that are there."""
        groups: list[frozenset[int]] = []
        for pixels in self.files.values():
            touched = [group for group in groups if group & self.shows[pixels]]
            joined = self.shows[pixels].union(*touched)
            groups = [group for group in groups if group not in touched] + [joined]
        return {one: next(g for g in groups if g & self.shows[one]) for one in self.files.values()}

    def renamed(self) -> World:
        """The same photos under other names, in another order."""
        digests = sorted(self.files.values())
        return World({f"{n:03d}.png": one for n, one in enumerate(digests)}, self.shows)

    def graph(self) -> tuple[Neighbours, Photos]:
        names = sorted(self.files)
        pixels = [self.files[name] for name in names]
        found = self.components()
        groups = [str(sorted(found[one])) for one in pixels]
        first = {group: name for name, group in reversed(list(zip(names, groups, strict=True)))}
        component = [first[group] for group in groups]  # as `cluster` names it, by a file
        at = [(i, j) for i, j in combinations(range(len(names)), 2) if groups[i] == groups[j]]
        both = np.array(sorted(at + [(j, i) for i, j in at]), np.int64).reshape(-1, 2)
        graph = Neighbours(
            names, component, component, both[:, 0], both[:, 1], np.full(len(both), 0.2),
            np.ones(len(names), bool), False,
        )  # fmt: skip
        return graph, Photos(pixels, component, component)

    def run(self, ledger: Ledger, chosen: Recipe = QUOTAS) -> tuple[Ledger, dict[str, str]]:
        """The ledger after a run, and the split of each digest."""
        graph, photos = self.graph()
        grown = split._drawn(graph, photos, ledger, chosen)
        return grown.ledger, dict(zip(photos.pixels, grown.splits, strict=True))


def begun() -> World:
    world = World()
    for person, count in enumerate([1, 2, 3, 2, 4, 2, 3, 2]):
        for _ in range(count):
            world.add(person)
    return world


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 14)),
        st.tuples(st.just("join"), st.integers(0, 14), st.integers(0, 14)),
        st.tuples(st.just("remove"), st.integers(0, 99)),
        st.tuples(st.just("rename"), st.integers(0, 99), st.integers(0, 9999)),
        st.tuples(st.just("run")),
    ),
    max_size=25,
)


def apply(world: World, step: Sequence[object]) -> None:
    names = sorted(world.files)
    match step:
        case ("add" | "join", *persons):
            world.add(*(int(str(person)) for person in persons))
        case ("remove", int(at)) if len(names) > 1:
            del world.files[names[at % len(names)]]
        case ("rename", int(at), int(number)):
            world.files[f"r{number:04d}-{world.made}.jpg"] = world.files.pop(names[at % len(names)])


def check_against_model(world: World, before: Ledger, after: Ledger, found: dict[str, str]) -> None:
    """What must hold of any run, said again without the code: by dicts of digests."""
    was = {pixels: (p.number, p.split) for p in before.people for pixels in p.pixels}
    now = {pixels: (p.number, p.split) for p in after.people for pixels in p.pixels}
    assert was.items() <= now.items(), "nobody moves, nobody is renumbered, nobody is forgotten"
    assert [p.number for p in after.people] == list(range(1, len(after.people) + 1))
    groups = world.components()
    for pixels, part in found.items():
        together = [one for one in found if groups[one] == groups[pixels]]
        there = {was[one][1] for one in together if one in was}
        if pixels in was:
            assert part == was[pixels][1]
        elif len(there) > 1:
            assert part == tables.HELD and pixels not in now
        else:
            assert {part} == there or not there and part in tables.SPLITS
            assert now[pixels][1] == part
            assert len({found[one] for one in together}) == 1
    fresh = sorted(min(p.pixels) for p in after.people[len(before.people) :])
    assert [min(p.pixels) for p in after.people[len(before.people) :]] == fresh, "numbered by digest"


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(STEPS)
def test_nobody_moves_in_any_sequence(steps: list[tuple[object, ...]]) -> None:
    world, (ledger, found) = begun(), begun().run(Ledger())
    check_against_model(world, Ledger(), ledger, found)
    assert world.renamed().run(Ledger()) == (ledger, found)
    for step in [*steps, ("run",)]:
        if step != ("run",):
            apply(world, step)
            continue
        if all(conflict.newcomers for conflict in people.place(ledger, world.graph()[1], QUOTAS).conflicts):
            after, found = world.run(ledger)
        else:  # a photo that belongs to one of them was known before it joined two: refused, nobody moves
            with pytest.raises(UserError, match="--redraw"):
                world.run(ledger)
            continue
        check_against_model(world, ledger, after, found)
        assert world.run(after) == (after, found), "a run that was killed after the ledger finds the same"
        assert world.renamed().run(ledger) == (after, found), "no name decides anything"
        ledger = after


# with files


def built(tmp_path: Path, photos: dict[str, tuple[str, np.ndarray]], chosen: Recipe, **more: bool) -> Report:
    """Run the stages on files of a name, a digest and a vector; the verification."""
    out = tmp_path / "out"
    vectors = unit([vector for _, vector in photos.values()])
    write_embedded(out, list(photos), vectors, [pixels for pixels, _ in photos.values()])
    find_identities(out, chosen)
    split.split_identities(out, chosen, **more)
    write_references(out, chosen)
    return verify_dataset(out, chosen)


def folder(seed: int = 3) -> dict[str, tuple[str, np.ndarray]]:
    vectors, person = drawn_people([1] * 5 + [2] * 6 + [3] * 8 + [5] * 4, seed, spread=0.5, dimension=256)
    return {
        f"m{at * 7919 % 1000:03d}.png": (store.digest(b"photo %d" % at), vector)
        for at, vector in enumerate(vectors)
    }


def where(tmp_path: Path) -> dict[str, str]:
    return tables.read_by_image(tables.path_of(tmp_path / "out", "splits"), tables.SPLIT_TABLE, tables.SPLIT)


CHOSEN = recipe(grouping="components", val_identities=4, test_identities=4)


def photo_of(photos: dict[str, tuple[str, np.ndarray]], splits: dict[str, str], part: str) -> str:
    return next(name for name in sorted(photos) if splits[name] == part)


def beside(vector: np.ndarray, pixels: str, distance: float = 0.2) -> tuple[str, np.ndarray]:
    return store.digest(pixels.encode()), at_distances(vector, distance)[1]


def test_a_photo_whose_name_sorts_early_moves_nobody(tmp_path: Path) -> None:
    photos = folder()
    assert built(tmp_path, photos, CHOSEN).violations == []
    before = where(tmp_path)
    ledger = people.load(tmp_path / "out")
    tested = photo_of(photos, before, "test")
    for name, vector in (("0.png", photos[tested][1]), ("00.png", unit([np.arange(256) - 99.5])[0])):
        photos[name] = (store.digest(name.encode()), vector)
    photos["0.png"] = beside(photos[tested][1], "0")
    assert built(tmp_path, photos, CHOSEN).violations == []
    after = where(tmp_path)
    assert after.items() >= before.items()
    assert after["0.png"] == "test" and after["00.png"] == "train"
    grown = people.load(tmp_path / "out")
    assert ledger and grown and len(grown.people) == len(ledger.people) + 1
    assert grown.people[-1].since == 2 and {p.since for p in grown.people[:-1]} == {1}


def test_renaming_and_removing_moves_nobody_and_who_returns_is_known(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    before = {photos[name][0]: part for name, part in where(tmp_path).items()}
    ledger = people.load(tmp_path / "out")
    gone = {name for name, part in where(tmp_path).items() if part == "test"}
    fewer = {f"a{name[::-1]}.jpg": photo for name, photo in photos.items() if name not in gone}
    built(tmp_path, fewer, CHOSEN)
    assert all(before[fewer[name][0]] == part for name, part in where(tmp_path).items())
    receipt = store.read_receipt(tmp_path / "out", "split")
    assert receipt and receipt.notes["people"]["gone"] == 4, "a quota counts who is gone: nobody is drawn"
    built(tmp_path, {f"z{name}": photo for name, photo in photos.items()}, CHOSEN)
    assert {photos[name[1:]][0]: part for name, part in where(tmp_path).items()} == before
    assert people.load(tmp_path / "out") == ledger


def joined(tmp_path: Path) -> tuple[dict[str, tuple[str, np.ndarray]], dict[str, str]]:
    """A built folder, and then a photo between somebody in test and somebody in train."""
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    before = where(tmp_path)
    one, other = (photos[photo_of(photos, before, part)][1] for part in ("test", "train"))
    photos["0.png"] = (store.digest(b"between"), unit([np.add(one, other)])[0])
    return photos, before


def test_a_photo_that_joins_two_splits_waits(tmp_path: Path) -> None:
    photos, before = joined(tmp_path)
    report = built(tmp_path, photos, CHOSEN)
    assert report.violations == [] and report.counts["photos held out of all lists"] == 1
    assert where(tmp_path) == {**before, "0.png": tables.HELD}
    lists = [split.list_path(tmp_path / "out", name).read_text() for name in tables.SPLITS]
    assert not any("0.png" in text.split() for text in lists)
    receipt = store.read_receipt(tmp_path / "out", "split")
    assert receipt and [conflict["photos"] for conflict in receipt.notes["conflicts"]] == [["0.png"]]
    ledger = people.load(tmp_path / "out")
    assert ledger and photos["0.png"][0] not in ledger.by_pixels


@pytest.mark.parametrize(("decided", "part"), [("train", "train"), ("drop", tables.HELD)])
def test_a_person_decides_on_who_waits(tmp_path: Path, decided: str, part: str) -> None:
    photos, before = joined(tmp_path)
    built(tmp_path, photos, CHOSEN)
    for _ in range(2):
        report = built(tmp_path, photos, recipe(**{**vars(CHOSEN), "join_across": decided}))
        assert report.violations == [] and bool(report.warnings) == (decided == "train")
        assert where(tmp_path) == {**before, "0.png": part}


@pytest.mark.parametrize(("option", "part"), [("test", "test"), ("hold", tables.HELD)])
def test_a_new_photo_of_somebody_in_test(tmp_path: Path, option: str, part: str) -> None:
    photos, chosen = folder(), recipe(**{**vars(CHOSEN), "new_of_test": option})
    built(tmp_path, photos, chosen)
    tested = photo_of(photos, where(tmp_path), "test")
    photos["0.png"] = beside(photos[tested][1], "0")
    assert built(tmp_path, photos, chosen).violations == []
    assert where(tmp_path)["0.png"] == part
    frozen = pd.read_parquet(people.path_of(tmp_path / "out")).query("frozen").split.tolist()
    assert frozen == (["test"] * 4 if option == "hold" else [])


def test_known_people_who_are_joined_by_an_option_are_named(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    with pytest.raises(UserError, match=r"\.png \(test\) and m.*\.png \(train\) .*belong together.*--redraw"):
        built(tmp_path, photos, recipe(**{**vars(CHOSEN), "distance": 1.5}))


def test_options_of_the_draw_move_nobody_until_redraw(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    before, out = where(tmp_path), tmp_path / "out"
    other = recipe(**{**vars(CHOSEN), "seed": 5})
    notes = split.split_identities(out, other).notes
    assert where(tmp_path) == before and notes["in_vain"] == ["seed"] and not notes["redrawn"]
    notes = split.split_identities(out, other, redraw=True).notes
    assert where(tmp_path) != before and notes["redrawn"]
    redrawn = people.path_of(out).read_bytes()
    built(tmp_path / "fresh", photos, other)
    assert where(tmp_path / "fresh") == where(tmp_path)
    assert people.path_of(tmp_path / "fresh" / "out").read_bytes() == redrawn
    with pytest.raises(UserError, match="test has 4 identities, 25 were asked for.*--redraw"):
        split.split_identities(out, recipe(**{**vars(other), "test_identities": 25}))


def test_new_people_fill_a_quota_that_grew(tmp_path: Path) -> None:
    photos = folder()
    chosen = recipe(grouping="components", val=0.1, test=0.2)
    built(tmp_path, photos, chosen)
    before = where(tmp_path)
    for name, photo in folder(seed=4).items():
        photos[f"n{name}"] = (store.digest(photo[0].encode()), photo[1])
    built(tmp_path, photos, chosen)
    assert where(tmp_path).items() >= before.items()
    ledger = people.load(tmp_path / "out")
    assert ledger and (ledger.count("val"), ledger.count("test")) == (4, 7)  # of the 36 who can be drawn


def test_replayed_lists_are_what_the_ledger_has(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    drawn = where(tmp_path)
    given = tmp_path / "lists"
    given.mkdir()
    for part in tables.SPLITS:
        lists.write_list(given / f"{part}_image.txt", [name for name, at in drawn.items() if at == part])
    replay = recipe(grouping="components", splits=str(given))
    built(tmp_path / "other", photos, replay)
    assert where(tmp_path / "other") == drawn
    tested = photo_of(photos, drawn, "test")
    photos["0.png"] = beside(photos[tested][1], "0")
    built(tmp_path / "other", photos, replay)
    assert where(tmp_path / "other") == {**drawn, "0.png": "test"}, "in no list, but known to be in test"
    built(tmp_path / "other", photos, CHOSEN)
    assert where(tmp_path / "other") == {**drawn, "0.png": "test"}
    (given / "test_image.txt").write_text("")
    with pytest.raises(UserError, match="would move|in no list"):
        lists.write_list(given / "train_image.txt", list(drawn))
        (given / "val_image.txt").write_text("")
        built(tmp_path / "other", photos, replay)


@pytest.mark.parametrize("damage", ["gone", "flipped", "half"])
def test_a_lost_ledger_is_made_again_from_the_splits(tmp_path: Path, damage: str) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    before, path = where(tmp_path), people.path_of(tmp_path / "out")
    data = path.read_bytes()
    flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    path.write_bytes({"gone": b"", "flipped": flipped, "half": data[: len(data) // 2]}[damage])
    if damage == "gone":
        path.unlink()
    built(tmp_path, {**photos, "0.png": beside(next(iter(photos.values()))[1], "0")}, CHOSEN)
    assert where(tmp_path).items() >= before.items()
    split.split_identities(tmp_path / "out", CHOSEN)
    assert people.load(tmp_path / "out") is not None


def test_a_dataset_of_before_the_ledger_keeps_its_splits(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    out, before = tmp_path / "out", where(tmp_path)
    receipt = store.read_receipt(out, "split")
    assert receipt
    old = store.Receipt(stage="split", revision=1, parameters={"seed": 0}, inputs={})
    people.path_of(out).unlink()
    store.write_receipt(out, old, [tables.path_of(out, "splits")], {})
    split.split_identities(out, recipe(**{**vars(CHOSEN), "seed": 9}))
    assert where(tmp_path) == before


def test_the_ledger_and_the_lists_must_agree(tmp_path: Path) -> None:
    photos = folder()
    built(tmp_path, photos, CHOSEN)
    out = tmp_path / "out"
    ledger = people.load(out)
    assert ledger
    first, *others = ledger.people
    swapped = Person(first.number, "val" if first.split == "train" else "train", 1, False, first.pixels)
    people.write(out, Ledger((swapped, *others)))
    faults = verify_dataset(out, CHOSEN).violations
    assert any(f"its person {first.number} in {swapped.split}" in fault for fault in faults)
    people.write(out, Ledger(tuple(others)))
    assert any("does not know it" in fault for fault in verify_dataset(out, CHOSEN).violations)


def test_copies_of_one_picture_are_one_person() -> None:
    photos = Photos(["b", "a", "b", "c"], ["x", "x", "y", "z"], ["x", "x", "y", "z"])
    ledger = people.record(Ledger(), photos, ["train"] * 4)
    assert [(p.number, p.pixels) for p in ledger.people] == [(1, ("a", "b")), (2, ("c",))]


def test_the_commands_say_what_became_of_people(tmp_path: Path) -> None:
    photos, _ = joined(tmp_path)
    out = tmp_path / "out"
    write_recipe(out, CHOSEN)
    photos["alone.png"] = (store.digest(b"alone"), unit([np.arange(256) - 99.5])[0])
    write_embedded(out, list(photos), unit([v for _, v in photos.values()]), [p for p, _ in photos.values()])
    find_identities(out, CHOSEN)

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, ["split", str(out), *words])
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    told = said()
    assert "People: 24, who keep number and split; 1 came in draw 2, 0 have no photo here now." in told
    assert "Conflicts: 1 new photos join people of different splits and are in no list: 0.png" in told
    assert "Changed: --seed. Known people keep their split all the same" in said("--seed", "7")
    assert "they are in train" in said("--join-across", "train")
    told = said("--redraw")
    assert "Drawn anew: " in told and "Conflicts" not in told
    recipe_kept = (out / "receipts" / "recipe.toml").read_text()
    assert "redraw" not in recipe_kept and 'join_across = "train"' in recipe_kept
