"""Which low-quality picture is restored with which references, from what the command was given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from ffhqref.core import images, lists, tables
from ffhqref.core.store import UserError

ReferencesOf = Literal["own", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture to restore; `name` is the target's, with `.png`, below the folder of results."""

    name: str
    lq: Path
    references: tuple[Path, ...] = ()
    truth: Path | None = None


@dataclass
class Jobs:
    """What can be done, and why the rest cannot: name -> reason."""

    jobs: list[Job] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Low-quality pictures by the names of their results; those that cannot have one, with the reason."""

    pictures: Mapping[str, Path]
    left_out: Mapping[str, str]


def of_dataset(
    dataset: Path, level: str, photos: Path, *, split: str, most: int, of: ReferencesOf = "own"
) -> Jobs:
    """The low-quality pictures of a level of a built dataset, each with its first `most` references.

    `of` wrong gives each the references of another person: the control for what a restorer copies.
    """
    mapping = dataset / "reference_mapping" / f"{split}_references.csv"
    lq = dataset / f"{split}_images" / f"{level}_degrad"
    jobs = of_pictures(lq, mapping=mapping, photos=photos, most=most)
    return jobs if of == "own" else _exchanged(jobs, dataset, mapping, photos, most)


def _exchanged(jobs: Jobs, dataset: Path, mapping: Path, photos: Path, most: int) -> Jobs:
    """The jobs with another person's references; UserError where the dataset has one person."""
    table = tables.read(tables.path_of(dataset, "identities"), tables.IDENTITIES)
    names, people = (tables.texts(table, column) for column in (tables.IMAGE, tables.IDENTITY))
    rows = {target: found[:most] for target, found in lists.read_references(mapping).items()}
    wrong = wrong_references(rows, dict(zip(names, people, strict=True)))
    if not wrong:
        raise UserError(f"{mapping} has targets of one person only: nobody else's references can be given.")
    of = {
        images.png_name(target): [images.find(photos, name) for name in found]
        for target, found in wrong.items()
    }
    return Jobs([replace(job, references=tuple(of[job.name])) for job in jobs.jobs], jobs.failed)


def of_pictures(
    lq: Path,
    *,
    references: Sequence[Path] = (),
    refs_dir: Path | None = None,
    mapping: Path | None = None,
    photos: Path | None = None,
    most: int,
) -> Jobs:
    """The jobs of a picture or a folder of them, by name; UserError where options do not go together."""
    if sum([bool(references), refs_dir is not None, mapping is not None]) > 1:
        raise UserError("Give one of --refs, --refs-dir and --references, not several.")
    if mapping is not None:
        if photos is None:
            raise UserError("--references needs --images, the folder in which its pictures lie.")
        return _by_mapping(_found(lq), lists.read_mapping(mapping), mapping, photos, most)
    if refs_dir is not None:
        return _by_folder(_found(lq), refs_dir, most)
    for path in references:
        if not path.is_file():
            raise UserError(f"There is no reference {path}: give pictures of the person.")
    shared = tuple(references[:most])
    truth = _truths(photos)
    found = _found(lq)
    jobs = [Job(name=n, lq=path, references=shared, truth=truth(n)) for n, path in found.pictures.items()]
    return Jobs(jobs, dict(found.left_out))


def _found(lq: Path) -> Found:
    """What is to be restored, of a file or a folder."""
    if lq.is_file():
        return Found({images.png_name(lq.name): lq}, {})
    if not lq.exists():
        raise UserError(f"There is no low-quality picture or folder {lq}: give --lq what is to be restored.")
    photos = images.scan(lq)
    good = {images.png_name(photo.name): photo.path for photo in photos if not photo.bad}
    return Found(good, {photo.name: f"is left out: {photo.bad}" for photo in photos if photo.bad})


def _truths(images_dir: Path | None) -> Callable[[str], Path | None]:
    if images_dir is None:
        return lambda name: None
    known = {images.png_name(photo.name): photo.path for photo in images.scan(images_dir)}
    return known.get


def _by_mapping(
    found: Found, mapping: Mapping[str, lists.MappingRow], csv: Path, root: Path, most: int
) -> Jobs:
    """A line of the CSV for each picture; both those without a line and those without a picture fail.

    A line's `lq_image` says which picture it is; the result goes by the target's name, as scores need it.
    """
    jobs = Jobs(failed={name: f"has no line in {csv}" for name in found.pictures} | dict(found.left_out))
    taken: dict[str, str] = {}  # names of results -> targets
    for target, row in mapping.items():
        name, lq = images.png_name(target), images.png_name(row.lq)
        if name in taken:
            jobs.failed[target] = f"would have the result of {taken[name]}: two targets cannot share it"
            continue
        taken[name] = target
        jobs.failed.pop(lq, None)
        fault = found.left_out.get(row.lq) or _fault(lq in found.pictures, row.lq, lq != name)
        references, lacking = _references(root, row.references[:most])
        if fault or lacking:
            jobs.failed[name] = fault or lacking
            continue
        truth = images.find(root, target)
        jobs.failed.pop(name, None)  # of another picture in the folder that has the result's name
        jobs.jobs.append(
            Job(
                name=name, lq=found.pictures[lq], references=references,
                truth=truth if truth.is_file() else None,
            )
        )  # fmt: skip
    return jobs


def wrong_references(
    rows: Mapping[str, Sequence[str]], person: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """Target -> the references of the next person's first target (people in the order of their names).

    They are the control for what a restorer copies from references. Empty where there is one person only.
    """
    first: dict[str, str] = {}
    for target in sorted(rows):
        first.setdefault(person[target], target)
    people = sorted(first)
    if len(people) < 2:
        return {}
    after = dict(zip(people, [*people[1:], people[0]], strict=True))
    return {target: tuple(rows[first[after[person[target]]]]) for target in rows}


def _fault(there: bool, lq: str, named: bool) -> str:
    """Why a line's low-quality picture cannot be restored; empty where it is there."""
    return "" if there else "has no low-quality picture" + (f" {lq}" if named else "")


def _references(root: Path, names: Sequence[str]) -> tuple[tuple[Path, ...], str]:
    """The files of a line's references, and what is wrong with them (empty: nothing)."""
    paths = tuple(images.find(root, name) for name in names)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        return paths, f"its reference {missing[0]} is not there"
    return paths, "" if paths else "has no references"


def _by_folder(found: Found, root: Path, most: int) -> Jobs:
    """`root`/NAME/ holds the references of NAME.png, in the order of their names.

    Nothing is written under a reference's name, so 1.jpg and 1.png beside each other both serve.
    """
    if not root.is_dir():
        raise UserError(f"There is no folder {root}: --refs-dir holds a folder of references for each name.")
    jobs = Jobs(failed=dict(found.left_out))
    for name, path in found.pictures.items():
        folder = root / PurePosixPath(name).with_suffix("")
        try:
            paths = tuple(photo.path for photo in images.scan(folder))[:most]
        except UserError:
            jobs.failed[name] = f"has no references in {folder}"
            continue
        jobs.jobs.append(Job(name=name, lq=path, references=paths))
    return jobs


def shard(jobs: Sequence[Job], which: str | None) -> list[Job]:
    """Every n-th job from the i-th on, for `which` = i/n; they are the same on every machine."""
    ordered = sorted(jobs, key=lambda job: job.name)
    if which is None:
        return ordered
    first, slash, count = which.partition("/")
    numbers = slash and all(part.isascii() and part.isdigit() and len(part) < 10 for part in (first, count))
    if not numbers or not 1 <= int(first) <= int(count):
        raise UserError(f"--shard {which[:40]}: give i/n with i from 1 to n, such as 2/4.")
    return ordered[int(first) - 1 :: int(count)]
