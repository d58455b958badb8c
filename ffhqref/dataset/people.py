"""The ledger: each person's number and split, kept whatever photos come, go or are renamed.

A person is recognised by the pixels of their photos, never by a file's name. Whoever is known keeps number
and split; a person whose photos are all gone keeps them, too. A photo whose pixels changed is a new photo: it
finds its person through the others, and where none is left it is a new person's.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ffhqref.core import store, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError

CHECKSUM = b"checksum"  # key in the table's metadata
OPEN = ""  # the split of who is yet to be drawn


@dataclass(frozen=True)
class Person:
    """A row of the ledger; `pixels` are ordered digests."""

    number: int
    split: str
    since: int
    frozen: bool
    pixels: tuple[str, ...]


@dataclass(frozen=True)
class Ledger:
    """All people there ever were, ordered by number; a digest belongs to one person."""

    people: tuple[Person, ...] = ()

    @cached_property
    def by_pixels(self) -> Mapping[str, Person]:
        """Digest -> person."""
        return {pixels: person for person in self.people for pixels in person.pixels}

    @cached_property
    def draws(self) -> int:
        """How many draws brought people in."""
        return max((person.since for person in self.people), default=0)

    def count(self, split: str) -> int:
        """How many people are in a split, here or gone."""
        return sum(person.split == split for person in self.people)


@dataclass(frozen=True)
class Photos:
    """Who is who now: digest of the pixels, identity and component of each photo."""

    pixels: Sequence[str]
    identity: Sequence[str]
    component: Sequence[str]


@dataclass(frozen=True)
class Conflict:
    """A component with known people of several splits, and the photos in it that are new."""

    people: tuple[int, ...]
    splits: tuple[str, ...]
    known: tuple[int, ...]  # a photo of each split
    newcomers: tuple[int, ...]


@dataclass(frozen=True)
class Placed:
    """What the ledger says of each photo: its split, `held`, or `OPEN` for the components to draw."""

    splits: tuple[str, ...]
    conflicts: tuple[Conflict, ...]


def path_of(out: Path) -> Path:
    """Where the ledger of the dataset `out` lies."""
    return tables.path_of(out, "people")


def load(out: Path) -> Ledger | None:
    """The ledger of a dataset, or None where there is none or it is damaged: it carries its own checksum."""
    try:
        table = tables.read(path_of(out), tables.PEOPLE)
    except UserError:
        return None
    ledger = Ledger(
        tuple(
            Person(
                row[tables.PERSON], row[tables.SPLIT], row[tables.SINCE], row[tables.FROZEN],
                tuple(row[tables.PIXELS]),
            )
            for row in table.to_pylist()
        )
    )  # fmt: skip
    return ledger if (table.schema.metadata or {}).get(CHECKSUM) == _checksum(ledger) else None


def write(out: Path, ledger: Ledger) -> Path:
    """Write the ledger; the same one is not written again."""
    path = path_of(out)
    if load(out) != ledger:
        people = ledger.people
        columns: list[Sequence[object]] = [
            [person.number for person in people], [person.split for person in people],
            [person.since for person in people], [person.frozen for person in people],
            [list(person.pixels) for person in people],
        ]  # fmt: skip
        table = tables.from_columns(tables.PEOPLE, columns)
        tables.write(path, tables.PEOPLE, table.replace_schema_metadata({CHECKSUM: _checksum(ledger)}))
    return path


def _checksum(ledger: Ledger) -> bytes:
    rows = [[p.number, p.split, p.since, p.frozen, p.pixels] for p in ledger.people]
    return store.digest(json.dumps(rows).encode()).encode()


def place(ledger: Ledger, photos: Photos, recipe: Recipe) -> Placed:
    """The split of each known photo and of each new one beside known people.

    Known photos keep theirs. Beside known people of one split a new photo goes there; beside people of
    several it waits (`join_across`), as do new photos of test people where these are to stay as they are.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for photo, component in enumerate(photos.component):
        members[component].append(photo)
    splits, conflicts = [OPEN] * len(photos.pixels), []
    for together in members.values():
        known = {at: ledger.by_pixels[photos.pixels[at]] for at in together if _is_known(ledger, photos, at)}
        newcomers = [at for at in together if at not in known]
        there = {person.split: at for at, person in reversed(known.items())}
        for at in together:
            splits[at] = known[at].split if at in known else _beside(set(there), recipe)
        if len(there) > 1:
            numbers = tuple(sorted({person.number for person in known.values()}))
            examples = tuple(there[split] for split in sorted(there))
            conflicts.append(Conflict(numbers, tuple(sorted(there)), examples, tuple(newcomers)))
    return Placed(tuple(splits), tuple(conflicts))


def _is_known(ledger: Ledger, photos: Photos, photo: int) -> bool:
    return photos.pixels[photo] in ledger.by_pixels


def _beside(there: set[str], recipe: Recipe) -> str:
    """The split of a new photo in a component whose known people are in these splits."""
    if len(there) > 1:
        return "train" if recipe.join_across == "train" else tables.HELD
    if there == {"test"} and recipe.new_of_test == "hold":
        return tables.HELD
    return next(iter(there), OPEN)


def record(ledger: Ledger, photos: Photos, splits: Sequence[str]) -> Ledger:
    """The ledger with every photo that is not held.

    The new photos of an identity become those of its known person in that split (of several, the lowest
    number), else of a new one. New people are numbered by their least digest: names decide nothing.
    """
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    for pixels, identity, split in zip(photos.pixels, photos.identity, splits, strict=True):
        if split != tables.HELD:
            groups[identity, split].add(pixels)
    people = {person.number: person for person in ledger.people}
    owner = {pixels: person.number for pixels, person in ledger.by_pixels.items()}
    since, last = ledger.draws + 1, max(people, default=0)
    for (_, split), digests in sorted(groups.items(), key=lambda item: (sorted(item[1]), item[0][1])):
        new = {pixels for pixels in digests if pixels not in owner}
        known = [owner[one] for one in digests - new if people[owner[one]].split == split]
        if not new:
            continue
        if known:
            person = people[min(known)]
        else:
            last += 1
            person = Person(last, split, since, False, ())
        people[person.number] = replace(person, pixels=tuple(sorted({*person.pixels, *new})))
        owner |= dict.fromkeys(new, person.number)
    return Ledger(tuple(people.values()))


def settle(ledger: Ledger, drawn: Mapping[int, str], recipe: Recipe) -> Ledger:
    """The ledger with the splits of who was drawn (number -> split), and who takes no new photos."""
    people = [replace(person, split=drawn.get(person.number, person.split)) for person in ledger.people]
    frozen = recipe.new_of_test == "hold"
    return Ledger(tuple(replace(person, frozen=frozen and person.split == "test") for person in people))


def from_splits(out: Path, names: Sequence[str], photos: Photos) -> Ledger | None:
    """A ledger from splits.parquet, where only that is left of an earlier run; None where it is not whole.

    Nobody who is there moves; numbers begin anew, and who was gone is forgotten.
    """
    receipt, path = store.read_receipt(out, "split"), tables.path_of(out, "splits")
    wanted = receipt and receipt.outputs.get(path.relative_to(out).as_posix())
    if not wanted or not path.is_file() or store.digest_file(path) != wanted:
        return None
    split = tables.read_by_image(path, tables.SPLIT_TABLE, tables.SPLIT)
    return record(Ledger(), photos, [split.get(name, tables.HELD) for name in names])


def strangers(ledger: Ledger, pixels: Sequence[str], splits: Sequence[str]) -> Iterator[int]:
    """The photos of known people whose split is another; of copies in several splits one must be theirs."""
    found: dict[str, set[str]] = defaultdict(set)
    for digest, split in zip(pixels, splits, strict=True):
        found[digest].add(split)
    for photo, digest in enumerate(pixels):
        person = ledger.by_pixels.get(digest)
        if person and splits[photo] in tables.SPLITS and person.split not in found[digest]:
            yield photo


def faults(out: Path, names: Sequence[str], pixels: Sequence[str], split: Mapping[str, str]) -> Iterator[str]:
    """Where the ledger and the splits of the photos differ; photos that are held out may stand in neither."""
    ledger = load(out)
    if ledger is None:
        yield f"{path_of(out).name} is missing or damaged"
        return
    splits = [split.get(name, "") for name in names]
    for name, digest, part in zip(names, pixels, splits, strict=True):
        if digest not in ledger.by_pixels and part in tables.SPLITS:
            yield f"{name} is in {part}, and {path_of(out).name} does not know it"
    for photo in strangers(ledger, pixels, splits):
        person = ledger.by_pixels[pixels[photo]]
        yield f"{names[photo]} is in {splits[photo]}, and its person {person.number} in {person.split}"
