"""What is compared with what: targets, low-quality pictures, references and people, from what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ffhqref.core import images, lists, tables
from ffhqref.core.store import UserError, recorded_images
from ffhqref.dataset.compare import people_of_rows
from ffhqref.restore.jobs import wrong_references

LOW_QUALITY = "low quality"  # the method that does nothing: what the others are compared with
TARGET = "target"  # where a target itself is listed among methods


@dataclass(frozen=True, kw_only=True)
class Case:
    """A picture to judge restorers by. `image` is the target's name (or the low-quality picture's)."""

    image: str
    person: str
    target: Path | None = None
    lq: Path | None = None
    references: tuple[str, ...] = ()  # names in `Cases.pictures`, best first

    @property
    def file(self) -> str:
        """The name of a restored picture of it."""
        return images.png_name(self.image)


@dataclass(frozen=True)
class Cases:
    """Every case, ordered by name, and where the references lie (by name).

    `wrong` names the references of another person: the control for what a restorer copies.
    """

    cases: list[Case]
    pictures: Mapping[str, Path] = field(default_factory=dict)
    wrong: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def person(self) -> dict[str, str]:
        """Image -> person."""
        return {case.image: case.person for case in self.cases}


def of_dataset(
    out: Path, *, level: str, split: str = "test", photos: Path | None = None, most: int = 5
) -> Cases:
    """The targets of a built dataset (or of the published lists) with their low-quality pictures.

    At most `most` references each. UserError where the level has no pictures.
    """
    path = out / "reference_mapping" / f"{split}_references.csv"
    if not path.is_file():
        raise UserError(f"There is no {path}: give --data a built dataset (`ffhqref build-refs`).")
    mapping = lists.read_mapping(path)
    if not mapping:
        raise UserError(f"{path} names no target: build the dataset with a larger {split} split.")
    rows = {target: row.references for target, row in mapping.items()}
    folder = out / f"{split}_images" / f"{level}_degrad"
    if not folder.is_dir():
        raise UserError(f"There is no {folder}: run `ffhqref degrade {out} --level {level}` first.")
    root = photos or recorded_images(out)
    person = _people(out, rows)
    cut = {target: tuple(found[:most]) for target, found in rows.items()}
    cases = [
        Case(
            image=target, person=person[target], target=images.find(root, target),
            lq=images.find(folder, images.png_name(mapping[target].lq)), references=cut[target],
        )
        for target in sorted(rows)
    ]  # fmt: skip
    wrong = wrong_references(cut, person)
    used = {name for found in (*cut.values(), *wrong.values()) for name in found}
    return Cases(cases, {name: images.find(root, name) for name in sorted(used)}, wrong)


def _people(out: Path, rows: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Image -> person: by the dataset's own table, or by the rows where it has none."""
    path = tables.path_of(out, "identities")
    if not path.is_file():
        return people_of_rows(rows)
    table = tables.read(path, tables.IDENTITIES)
    known = dict(zip(tables.texts(table, tables.IMAGE), tables.texts(table, tables.IDENTITY), strict=True))
    return {target: known.get(target, target) for target in rows}


def of_folders(
    *, targets: Path | None = None, lq: Path | None = None, references: Path | None = None,
    labels: Path | None = None, most: int = 5,
) -> Cases:  # fmt: skip
    """A case for each picture of `targets`, or of `lq` where there are no targets.

    `references` holds a folder for each picture's name. `labels` (CSV of image and identity) says who is
    shown; without it each picture counts as a person of its own.
    """
    root = targets or lq
    if root is None:
        raise UserError("Give --data OUT, or --targets or --lq with a folder of pictures.")
    known = lists.read_labels(labels) if labels else {}
    by_stem = {images.png_name(name): who for name, who in known.items()}
    low = {images.png_name(one.name): one.path for one in _scan(lq)} if lq else {}
    cases: list[Case] = []
    pictures: dict[str, Path] = {}
    for one in _scan(root):
        name = images.png_name(one.name)
        found = _folder_of(references, one.name)[:most]
        pictures |= found
        cases.append(
            Case(
                image=one.name, person=by_stem.get(name) or one.name, lq=low.get(name),
                target=one.path if targets else None, references=tuple(name for name, _ in found),
            )
        )  # fmt: skip
    rows = {case.image: case.references for case in cases if case.references}
    return Cases(cases, pictures, wrong_references(rows, {case.image: case.person for case in cases}))


def _scan(root: Path) -> list[images.Photo]:
    return [photo for photo in images.scan(root) if not photo.bad]


def _folder_of(references: Path | None, name: str) -> list[tuple[str, Path]]:
    """The pictures below `references`/NAME, in the order of their names; none where there is no folder."""
    if references is None:
        return []
    below = PurePosixPath(name).with_suffix("")
    folder = references / below
    return [(f"{below}/{one.name}", one.path) for one in _scan(folder)] if folder.is_dir() else []


@dataclass(frozen=True)
class Method:
    """A restorer's results: a name for tables and a folder of pictures under the targets' names."""

    name: str
    folder: Path

    def files(self) -> dict[str, Path]:
        """Name with `.png` -> file, whatever its suffix."""
        return {images.png_name(photo.name): photo.path for photo in _scan(self.folder)}


def parse_method(text: str) -> Method:
    """`NAME=DIR`, or a folder whose own name is the method's; UserError where it is no folder."""
    name, equals, folder = text.partition("=")
    path = Path(folder if equals else text)
    label = (name if equals else path.name).strip()
    if not label or label in (LOW_QUALITY, TARGET):
        raise UserError(f"--restored {text}: give NAME=FOLDER with a name for the tables.")
    if not path.is_dir():
        raise UserError(f"--restored {text}: {path} is not a folder; give the folder of the results.")
    return Method(label, path)
