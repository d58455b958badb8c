"""Which pictures are degraded, and what is drawn for each: by name, replayed, or read from a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ffhqref.core import images, lists, tables
from ffhqref.core.store import UserError
from ffhqref.core.tables import TableRow
from ffhqref.degrade.levels import Level
from ffhqref.degrade.operators import Degradation, Noise, Replayed, draw_degradation, replay

LARGEST = 4096  # px, of --size
LAST_DRAW = 1_000_000  # bounds what a damaged table can ask for
MEETS = "its name meets another of the list where suffix or case do not count"
Filter = Literal["bicubic", "lanczos", "area", "bilinear"]
Format = Literal["png", "webp"]


@dataclass(frozen=True, kw_only=True)
class DegradeOptions:
    """How targets are read and what is drawn for them. `workers` never changes what is made."""

    size: int = 512  # px, width and height of what is made
    seed: int = 0
    copies: int = 1  # low-quality images of each target; several go to folders copy-0, copy-1, ...
    filter: Filter = "bicubic"  # of the resize to `size`; Pillow's bicubic is the published loader's
    format: Format = "png"  # WebP is written lossless
    replay: bool = False  # the published order of draws in place of draws by name
    table: Path | None = None  # make again what this degradations.parquet says
    squeeze: bool = False  # take pictures that are far from square, too
    workers: int | None = None  # threads; None for one a core

    def __post_init__(self) -> None:
        for good, fault in [
            (1 <= self.size <= LARGEST, f"--size must be from 1 to {LARGEST}"),
            (1 <= self.copies <= 10_000, "--copies must be from 1 to 10000"),
            (self.workers is None or self.workers >= 1, "--workers must be at least 1"),
            (not (self.replay and self.copies > 1), "--replay-published makes one copy: leave out --copies"),
            (not (self.replay and self.table), "Give either --replay-published or --from-table, not both"),
            (not (self.table and self.copies > 1), "--from-table knows the copies: leave out --copies"),
        ]:
            if not good:
                raise UserError(f"{fault}.")


def read_names(path: Path) -> list[str]:
    """Image names from a text file (one a line) or a CSV (column gt_image, else image), each once."""
    if path.suffix.lower() != ".csv":
        names = lists.read_list(path)
    else:
        header = lists.read_csv(path, []).columns
        column = tables.GT_IMAGE if tables.GT_IMAGE in header else tables.IMAGE
        names = lists.read_csv(path, [column])[column].tolist()
    if not names:
        raise UserError(f"{path} names no image: give --list a file with one image name a line.")
    return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Target:
    """A clean picture. `bad` is a status and a reason where it cannot be used."""

    name: str
    path: Path
    stamp: tuple[int, int] = (-1, -1)  # bytes and time of the file: whether it changed since
    bad: tuple[str, str] | None = None


def scanned(photos: Path) -> list[Target]:
    """Every picture below a folder, ordered by name."""

    def target(photo: images.Photo) -> Target:
        bad = ("bad_name", photo.bad) if photo.bad else None
        return Target(photo.name, photo.path, (photo.size, photo.mtime_ns), bad)

    return [target(photo) for photo in images.scan(photos)]


def named(photos: Path, names: Sequence[str]) -> list[Target]:
    """The named pictures below a folder, in this order; `bad` says which are missing or clash."""
    if not photos.is_dir():
        raise UserError(f"{photos} is not a folder: give --images the folder that holds the photographs.")
    meeting = Counter(images.meeting_key(name) for name in names)

    def target(name: str) -> Target:
        path = images.find(photos, name)
        if meeting[images.meeting_key(name)] > 1:
            return Target(name, path, bad=("bad_name", MEETS))
        if not path.is_file():
            return Target(name, path, bad=("missing", f"there is no such file below {photos.name}"))
        stat = path.stat()
        return Target(name, path, (stat.st_size, stat.st_mtime_ns))

    return [target(name) for name in names]


@dataclass(frozen=True)
class Drawn:
    """What is to be made of a target."""

    target: Target
    copy: int
    degradation: Degradation
    replayed: Replayed | None = None
    draw: int = -1  # place in the published order, where replayed

    def noise(self) -> Noise | None:
        return self.replayed.noise() if self.replayed else None


def draws(level: Level, targets: Sequence[Target], options: DegradeOptions) -> Iterator[Drawn]:
    """What is to be made of the targets, in the order of the published stream where that is replayed."""
    if options.table:
        yield from _draws_of_table(options.table, level, targets, options.size)
    elif options.replay:
        steps = replay(level, options.size, options.size)
        for draw, (target, step) in enumerate(zip(targets, steps, strict=False)):
            yield Drawn(target, 0, step.degradation, step, draw)
    else:
        for target in targets:
            for copy in range(options.copies):
                yield Drawn(target, copy, draw_degradation(level, options.seed, target.name, copy))


def _draws_of_table(path: Path, level: Level, targets: Sequence[Target], size: int) -> Iterator[Drawn]:
    wanted = {target.name: target for target in targets}
    rows = _rows_of(path, level, size, wanted)
    steps, step, at = replay(level, size, size), None, -1
    for row in sorted(rows, key=lambda row: (row[tables.DRAW], row[tables.IMAGE], row[tables.COPY])):
        degradation, draw = _degradation(row, path), row[tables.DRAW]
        while at < draw:
            step, at = next(steps), at + 1
        if step and step.degradation != degradation:
            name = row[tables.IMAGE]
            raise UserError(f"{path}: {name} was drawn from other ranges than level {level.name} has now.")
        yield Drawn(wanted[row[tables.IMAGE]], row[tables.COPY], degradation, step, draw)


def _rows_of(path: Path, level: Level, size: int, wanted: Mapping[str, Target]) -> list[TableRow]:
    """The rows of these targets at this level, each file once; UserError where some target has none."""
    rows = tables.read(path, tables.DEGRADATIONS).to_pylist()
    rows = [row for row in rows if row[tables.LEVEL] == level.name and row[tables.IMAGE] in wanted]
    missing = sorted(wanted.keys() - {row[tables.IMAGE] for row in rows})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(f"{path} has no {level.name} row for {missing[0]}{more}: name the others by --list.")
    for row in rows:
        if row[tables.WIDTH] != size:
            raise UserError(f"{path} was made at {row[tables.WIDTH]} px: give --size {row[tables.WIDTH]}.")
        if not (-1 <= row[tables.DRAW] <= LAST_DRAW and 0 <= row[tables.COPY]):
            raise UserError(f"{path} is damaged at {row[tables.IMAGE]}: give a table that `degrade` wrote.")
    return list({(row[tables.IMAGE], row[tables.COPY]): row for row in rows}.values())


def _degradation(row: TableRow, path: Path) -> Degradation:
    try:
        return Degradation(**{item.name: row[item.name] for item in fields(Degradation)})
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged at {row[tables.IMAGE]} ({error}).") from None
