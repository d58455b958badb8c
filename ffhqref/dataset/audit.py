"""Which test people of a dataset a restorer was trained on: by name, by pixels, by face.

A restorer that has seen the people it is judged on looks better than it is; papers mark such rows by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.images import png_name, scan
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError, read_receipt
from ffhqref.core.tables import Embeddings
from ffhqref.dataset.embed import embed_photos, plan
from ffhqref.faces.networks import Device
from ffhqref.identities.grouping import similarities

NAME, PIXELS, FACE = "name", "pixels", "face"
WAYS = (NAME, PIXELS, FACE)
MARGIN = 1e-5  # of similarity: float32 products screen, float64 decides
BLOCK = 4096  # photos of the training set compared at once


@dataclass(frozen=True)
class Leak:
    """A photo of a test person that the training set holds: which one there, and how it was found."""

    image: str
    person: str
    way: str
    trained_on: str
    distance: float | None = None  # of the faces


@dataclass(frozen=True)
class Audit:
    """Every leak, and how many test people and targets there are, in all and by level."""

    leaks: tuple[Leak, ...]
    people: int
    targets: Mapping[str, str]  # target -> person
    levels: Mapping[str, tuple[str, ...]]  # level -> targets that have a low-quality picture
    ways: tuple[str, ...]  # by which was looked

    def leaked(self, way: str | None = None) -> set[str]:
        """The test people found (in one way, or in any)."""
        return {leak.person for leak in self.leaks if way in (None, leak.way)}

    def leaked_targets(self, way: str | None = None, level: str | None = None) -> int:
        """How many targets (of a level, or all) show a person found."""
        found = self.leaked(way)
        names = self.targets if level is None else self.levels[level]
        return sum(self.targets[name] in found for name in names)


def audit(
    out: Path, trained_on: Path, recipe: Recipe, *, names_only: bool = False, device: Device = "auto",
    workers: int = 2,
) -> Audit:  # fmt: skip
    """Look for the test people of `out` in a restorer's training set.

    `trained_on` is a list of names (text, or CSV with the column image or gt_image), a folder of pictures, or
    a dataset that was embedded with the same network. Pictures are embedded by `recipe` into `out`/audit.
    """
    person = _test_people(out)
    targets = lists.read_references(out / "reference_mapping/test_references.csv")
    wanted = {name: person[name] for name in targets if name in person}
    if trained_on.is_dir():
        leaks, ways = _of_folder(out, trained_on, recipe, person, names_only, device, workers)
    else:
        leaks, ways = list(_by_name(person, _read_names(trained_on))), (NAME,)
    leaks.sort(key=lambda leak: (leak.person, leak.image, WAYS.index(leak.way), leak.trained_on))
    return Audit(tuple(leaks), len(set(person.values())), wanted, _levels(out, wanted), ways)


def _test_people(out: Path) -> dict[str, str]:
    """Photo -> identity of the test split; UserError where the dataset has none."""
    table = tables.read(tables.path_of(out, "splits"), tables.SPLIT_TABLE)
    rows = zip(*(tables.texts(table, column) for column in tables.SPLIT_TABLE.names), strict=True)
    person = {image: identity for image, identity, split in rows if split == "test"}
    if not person:
        raise UserError(f"{out} has nobody in test: there is nobody to look for.")
    return person


def _levels(out: Path, targets: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    folders = sorted((out / "test_images").glob("*_degrad"))
    return {
        folder.name.removesuffix("_degrad"): tuple(n for n in targets if (folder / png_name(n)).is_file())
        for folder in folders
    }


def _read_names(path: Path) -> list[str]:
    if path.suffix.lower() != ".csv":
        names = lists.read_list(path)
    else:
        header = lists.read_csv(path, []).columns
        column = tables.GT_IMAGE if tables.GT_IMAGE in header else tables.IMAGE
        names = list(lists.read_csv(path, [column])[column])
    if not names:
        raise UserError(f"{path} names no image: give --trained-on a list with one name a line.")
    return names


def _by_name(person: Mapping[str, str], names: Sequence[str]) -> Iterator[Leak]:
    """Photos of one name without folder and suffix: lists of one source write names in many ways."""
    there: dict[str, str] = {}
    for name in sorted(names):
        there.setdefault(PurePosixPath(name).stem, name)
    for image, who in person.items():
        if found := there.get(PurePosixPath(image).stem):
            yield Leak(image, who, NAME, found)


def _of_folder(
    out: Path, folder: Path, recipe: Recipe, person: Mapping[str, str], names_only: bool, device: Device,
    workers: int,
) -> tuple[list[Leak], tuple[str, ...]]:  # fmt: skip
    if names_only:
        return list(_by_name(person, [photo.name for photo in scan(folder)])), (NAME,)
    trained = _embedded(out, folder, recipe, device, workers)
    own = tables.load_embeddings(out)
    leaks = [*_by_name(person, trained.names), *_by_pixels(person, own, trained)]
    leaks += _by_face(person, own, trained, recipe.needed_distance())
    return leaks, WAYS


def _embedded(out: Path, folder: Path, recipe: Recipe, device: Device, workers: int) -> Embeddings:
    """The training set's embeddings: its own where they are by the same network, else made by the recipe."""
    ours, theirs = read_receipt(out, "embed"), read_receipt(folder, "embed")
    if theirs:
        if not ours or ours.parameters.get("embedder") != theirs.parameters.get("embedder"):
            raise UserError(f"{folder} was embedded by another network than {out}: give its photographs.")
        return tables.load_embeddings(folder)
    place = out / "audit" / "embedded"
    plan(recipe, device)  # says what is missing before anything is read
    embed_photos(folder, place, recipe, device=device, workers=workers)
    return tables.load_embeddings(place)


def _by_pixels(person: Mapping[str, str], own: Embeddings, trained: Embeddings) -> Iterator[Leak]:
    there: dict[str, str] = {}
    for name, pixels in zip(trained.names, trained.pixels, strict=True):
        there.setdefault(pixels, name)
    for name, pixels in zip(own.names, own.pixels, strict=True):
        if name in person and pixels in there:
            yield Leak(name, person[name], PIXELS, there[pixels])


def _by_face(
    person: Mapping[str, str], own: Embeddings, trained: Embeddings, distance: float
) -> Iterator[Leak]:
    """For each test photo its nearest face of the training set, where strictly below the distance."""
    mine = [at for at, name in enumerate(own.names) if name in person]
    both = np.concatenate([own.vectors[mine], trained.vectors])
    best: dict[int, tuple[float, int]] = {}
    for begin in range(0, len(trained.names), BLOCK):
        products = both[: len(mine)] @ trained.vectors[begin : begin + BLOCK].T
        rows, columns = np.nonzero(products >= 1 - distance - MARGIN)
        exact = 1 - similarities(both, rows, columns + begin + len(mine)) if len(rows) else np.empty(0)
        for row, column, apart in zip(rows.tolist(), (columns + begin).tolist(), exact.tolist(), strict=True):
            if apart < distance:
                best[row] = min(best.get(row, (np.inf, 0)), (apart, column))
    for row, (apart, column) in sorted(best.items()):
        name = own.names[mine[row]]
        yield Leak(name, person[name], FACE, trained.names[column], apart)


COLUMNS = (tables.IMAGE, tables.IDENTITY, "found_by", "trained_on", tables.DISTANCE)


def write_audit(path: Path, found: Audit) -> None:
    """A row a leak."""
    rows = (
        [leak.image, leak.person, leak.way, leak.trained_on, "" if leak.distance is None else leak.distance]
        for leak in found.leaks
    )
    lists.write_csv(path, COLUMNS, rows)


def lines(found: Audit) -> list[str]:
    """A table for the paper and one sentence for the reader."""
    rows = ["| found by | test people | targets |", "|---|--:|--:|"]
    for way in found.ways:
        rows.append(f"| {way} | {len(found.leaked(way)):,} | {found.leaked_targets(way):,} |")
    people, targets = f"{len(found.leaked()):,} of {found.people:,}", f"{len(found.targets):,}"
    rows.append(f"| any | {people} | {found.leaked_targets():,} of {targets} |")
    for level, names in found.levels.items():
        rows.append(f"| any, {level} | {people} | {found.leaked_targets(level=level):,} of {len(names):,} |")
    if not found.leaked():
        sentence = f"None of the {found.people:,} test people was found in the training set"
    else:
        share = len(found.leaked()) / found.people
        sentence = (
            f"{people} test people ({share:.1%}) are in the training set: a restorer's scores on them show "
            "what it remembers, not what it can do"
        )
    return [*rows, f"{sentence}."]
