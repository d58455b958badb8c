"""Low-quality images: targets and a level -> degraded pictures, tables/degradations.parquet.

The pure core is `ffhqref.degrade.operators`; this module reads, degrades in threads and writes files.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from ffhqref.core import images, journal, lists, sheets, store, tables
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.journal import Made
from ffhqref.core.sheets import Panel
from ffhqref.core.store import Receipt, UserError
from ffhqref.core.tables import TableRow
from ffhqref.degrade.draws import DegradeOptions, Drawn, Filter, Target, draws, named, scanned
from ffhqref.degrade.levels import Level
from ffhqref.degrade.operators import apply
from ffhqref.degrade.stale import TABLE, level_folder, read_rows, remove_made, remove_stale, rows_without

REVISION = 2  # cut JPEGs with an end marker are unreadable
NO_MATTER = ("workers", "squeeze")  # options that do not change what is made
Split = Literal["test", "val"]
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
}


def degrade_folder(
    level: Level,
    photos: Path,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    options: DegradeOptions | None = None,
) -> Receipt:
    """Degrade pictures below `photos` (all, or those named, in this order) into the folder `out`.

    An image's low-quality version has its path with the format's suffix. Runs into one folder add up; a
    file made again with another level or seed replaces the old one. The receipt's notes count images by
    status. UserError where no picture can be used.
    """
    if out.resolve() == photos.resolve() or (names is None and photos.resolve() in out.resolve().parents):
        raise UserError(f"{out} lies in the folder of the photographs: give --out a folder outside {photos}.")
    targets = scanned(photos) if names is None else named(photos, names)
    run = DegradeRun(level, out, "", "degrade", options or DegradeOptions(), photos=_inside(photos, out))
    return run.make(targets)


def _inside(photos: Path, out: Path) -> str:
    """The folder of the photographs as a path below `out`, with a slash at the end; empty where it is not."""
    real, root = photos.resolve(), out.resolve()
    return f"{real.relative_to(root).as_posix()}/" if root in real.parents else ""


def degrade_dataset(
    level: Level,
    out: Path,
    *,
    photos: Path | None = None,
    split: Split = "test",
    options: DegradeOptions | None = None,
) -> Receipt:
    """Degrade the test (or val) targets of a built dataset into test_images/<level>_degrad/.

    A file has the name that the mapping's `lq_image` gives it, with `.png`.
    `photos` may be left out where `embed` recorded the folder. Files of targets that the mapping no
    longer has are removed, those of other levels too, if they are still as they were made.
    """
    options = options or DegradeOptions()
    if options.copies > 1 or options.format != "png":
        raise UserError("A dataset has one PNG a target: use --out for --copies or --format webp.")
    mapping = out / "reference_mapping" / f"{split}_references.csv"
    if not mapping.is_file():
        raise UserError(f"There is no {mapping}: give a built dataset, or --out for a plain folder.")
    rows = lists.read_mapping(mapping)
    remove_stale(out)
    targets = named(photos or store.recorded_images(out), list(rows))
    if not targets:
        raise UserError(f"{mapping} names no target: build the dataset with a larger {split} split.")
    files = {target: row.lq for target, row in rows.items()}
    if len({images.meeting_key(file) for file in files.values()}) < len({*map(images.meeting_key, files)}):
        raise UserError(f"{mapping}: two targets have one lq_image; give each a name of its own.")
    stage = f"degrade-{level.name}-{split}"
    return DegradeRun(level, out, dataset_folder(level, split), stage, options, files).make(targets)


def dataset_folder(level: Level, split: Split = "test") -> str:
    """Where a level's images lie in a built dataset, with a slash at the end."""
    return level_folder(level.name, split)


# ---- one picture ---------------------------------------------------------------------------------


def resize_square(image: Rgb, size: int, method: Filter = "bicubic") -> Rgb:
    """Resize to size x size; a picture that is not square is squeezed, as the published loader does."""
    if image.shape[:2] == (size, size):
        return image
    if method == "area":
        return images.resize(image, size, size)
    return np.asarray(Image.fromarray(image).resize((size, size), PILLOW[method]))


@dataclass(frozen=True)
class DegradeItem:
    """One low-quality image to be made."""

    drawn: Drawn
    file: str
    key: str

    def make(self, out: Path, options: DegradeOptions) -> Made:
        """Read, degrade and write: the work of a thread."""
        target = self.drawn.target
        if target.bad:
            return Made(self.key, "", *target.bad)
        try:
            image = images.read(target.path)
        except BadImage as error:  # what may pass (a disk's error, too many open files) is tried again
            return Made("" if error.passing else self.key, "", error.status, str(error))
        clean = resize_square(image, options.size, options.filter)
        low = apply(clean, self.drawn.degradation, self.drawn.noise())
        data = images.encode(low, f".{options.format}")
        store.write_bytes(store.below(out, self.file), data)
        return Made(self.key, store.digest(data), note="" if image.shape[0] == image.shape[1] else "squeezed")


def level_sheet(
    path: Path,
    level_folders: Mapping[str, tuple[Path, str]],
    photos: Path,
    options: DegradeOptions,
    rows: int = 6,
) -> None:
    """Write a PNG of clean pictures beside their low-quality versions, the parameters beneath.

    `level_folders` maps a level to its output folder and the folder of its images below that. The rows
    are spread evenly over the images that every level has.
    """
    made: dict[str, dict[str, TableRow]] = {}
    for level, (out, prefix) in level_folders.items():
        table = tables.read(out / TABLE, tables.DEGRADATIONS).to_pylist()
        mine = [row for row in table if row[tables.LEVEL] == level and row[tables.STATUS] == "ok"]
        made[level] = {r[tables.IMAGE]: r for r in mine if r[tables.LQ_IMAGE].startswith(prefix)}
    common = sorted(set.intersection(*(set(rows) for rows in made.values())))
    if not common:
        raise UserError("The sheet would be empty: no image has a low-quality version at every level.")
    cells = []
    for name in (common[round(at)] for at in np.linspace(0, len(common) - 1, min(rows, len(common)))):
        line = [_clean_panel(images.find(photos, name), name, options)]
        for level, (out, _) in level_folders.items():
            row = made[level][name]
            line.append(Panel(_picture(store.below(out, row[tables.LQ_IMAGE])), caption(row)))
        cells.append(line)
    sheets.write(path, sheets.compose(cells, ["clean", *level_folders]))


def _clean_panel(path: Path, name: str, options: DegradeOptions) -> Panel:
    """A photograph as it was degraded, with the size that it has and the one that it got."""
    photo, side = _picture(path), options.size
    if photo is None:
        return Panel(None, (name, "cannot be read"))
    size = f"{photo.shape[1]} x {photo.shape[0]} px"
    resized = "" if photo.shape[:2] == (side, side) else f", as {side} x {side}"
    return Panel(resize_square(photo, side, options.filter), (name, size + resized))


def _picture(path: Path) -> Rgb | None:
    try:
        return images.read(path)
    except BadImage:
        return None


def caption(row: TableRow) -> tuple[str, str]:
    """The drawn parameters of a table's row in two short lines."""
    blurred = f"blur {row[tables.SIGMA_X]:.1f} px"
    if row[tables.KERNEL] == "aniso":
        degrees = math.degrees(row[tables.THETA]) % 180  # a Gaussian turned by half a circle is the same
        blurred = f"blur {row[tables.SIGMA_X]:.1f} x {row[tables.SIGMA_Y]:.1f} px at {degrees:.0f} degrees"
    rest = f"1/{row[tables.SCALE]:.1f} size, noise {row[tables.NOISE]:.1f}, JPEG {row[tables.QUALITY]}"
    return blurred, rest


# ---- a run over many -----------------------------------------------------------------------------


@dataclass(frozen=True)
class DegradeRun:
    """One level into one folder: `prefix` is where the files lie below `out`.

    `photos` is where the photographs lie below `out`, or empty: nothing is written there.
    """

    level: Level
    out: Path
    prefix: str
    stage: str
    options: DegradeOptions
    files: Mapping[str, str] = field(default_factory=dict)  # target -> its file, where not its own name
    photos: str = ""

    @property
    def journal(self) -> Path:
        return self.out / "receipts" / f"{self.stage}.jsonl"

    @property
    def table(self) -> Path:
        return self.out / TABLE

    def make(self, targets: Sequence[Target]) -> Receipt:
        """Make what is missing or not as it should be, then the table, the journal and the receipt."""
        with store.lock(self.out, f"degrade --level {self.level.name}"):
            items = [self._item(drawn) for drawn in draws(self.level, targets, self.options)]
            known = journal.read(self.journal)
            missing = [item for item in items if not journal.stands(self.out, item, known.get(item.file))]
            wanted = self._wanted(items)
            done = store.read_receipt(self.out, self.stage)
            if not missing and done and done.same_work(wanted) and self._table_stands(items, known):
                return replace(done, notes=self._notes(items, known))
            self._refuse_others_files(missing, known)
            images.refuse_squeeze((item.drawn.target.path for item in missing), self.options.squeeze)
            journal.claim(self.journal, [item.file for item in missing if item.file not in known])
            self._forget(missing)
            store.need_space(self.out, len(missing) * self.options.size**2, "Writing the low-quality images")
            made = known | journal.make_all(
                missing, lambda item: item.make(self.out, self.options), self.journal,
                workers=self.options.workers, what=f"degrade {self.level.name}",
            )  # fmt: skip
            return self._finish(items, known, made, wanted)

    def _item(self, drawn: Drawn) -> DegradeItem:
        options = self.options
        folder = f"copy-{drawn.copy}/" if options.copies > 1 or drawn.copy else ""
        name = images.png_name(self.files.get(drawn.target.name, drawn.target.name))
        file = self.prefix + folder + name.removesuffix("png") + options.format
        if drawn.target.bad:  # no file is made: its name may be that of another's
            file = self.prefix + folder + drawn.target.name
        parts = [REVISION, drawn.target.stamp, drawn.target.bad, asdict(drawn.degradation), drawn.draw]
        parts += [options.size, options.filter, asdict(self.level) if drawn.replayed else None]
        return DegradeItem(drawn, file, store.digest(json.dumps(parts).encode()))

    def _wanted(self, items: Sequence[DegradeItem]) -> Receipt:
        parameters = {key: value for key, value in asdict(self.options).items() if key not in NO_MATTER}
        parameters |= {"level": asdict(self.level), "table": self.options.table is not None}
        keys = store.digest(json.dumps([[item.file, item.key] for item in items]).encode())
        return Receipt(stage=self.stage, revision=REVISION, parameters=parameters, inputs={"images": keys})

    def _table_stands(self, items: Sequence[DegradeItem], known: Mapping[str, Made]) -> bool:
        return self.table.is_file() and bool(self._merged(items, known).equals(read_rows(self.out)))

    def _refuse_others_files(self, missing: Sequence[DegradeItem], known: Mapping[str, Made]) -> None:
        """UserError where a file stands in an image's place that no run has made, such as a photograph."""
        ours = known.keys() | set(read_rows(self.out)[tables.LQ_IMAGE].to_pylist())
        for item in missing:
            path = store.below(self.out, item.file)
            if self.photos and item.file.startswith(self.photos):
                raise UserError(f"{path} would lie among the photographs: give --out another folder.")
            if item.file not in ours and os.path.lexists(path):
                raise UserError(
                    f"{path} is there and no run of `degrade` made it: move it, or write elsewhere (--out)."
                )

    def _forget(self, missing: Sequence[DegradeItem]) -> None:
        """Take rows of files that will be made anew out of the table, so that none is ever wrong."""
        store.receipt_path(self.out, self.stage).unlink(missing_ok=True)
        if missing and self.table.is_file():
            tables.write(self.table, tables.DEGRADATIONS, rows_without(self.out, {m.file for m in missing}))

    def _finish(
        self,
        items: Sequence[DegradeItem],
        known: Mapping[str, Made],
        made: Mapping[str, Made],
        wanted: Receipt,
    ) -> Receipt:
        results = [made[item.file] for item in items]
        statuses = Counter(result.status for result in results)
        if not statuses["ok"]:
            first = f"{items[0].drawn.target.name}: {results[0].reason}" if items else "none was named"
            raise UserError(f"No image could be degraded ({first}): give --images the folder of the targets.")
        kept = {item.file for item in items} if self.prefix else made.keys()
        tables.write(self.table, tables.DEGRADATIONS, self._merged(items, made))
        for item in items:  # ours, of targets that became unusable
            if made[item.file].status != "ok" and item.file in known:
                remove_made(self.out, item.file, known[item.file])
        journal.write(self.journal, {file: made[file] for file in kept})
        return store.write_receipt(self.out, wanted, [self.journal], self._notes(items, made))

    @staticmethod
    def _notes(items: Sequence[DegradeItem], made: Mapping[str, Made]) -> dict[str, object]:
        results = [made[item.file] for item in items]
        return {
            "statuses": dict(sorted(Counter(result.status for result in results).items())),
            "images": len(items),
            "squeezed": sum(result.note == "squeezed" for result in results),
        }

    def _merged(self, items: Sequence[DegradeItem], made: Mapping[str, Made]) -> pa.Table:
        """The table with these items' rows in place of those of the same files (dataset: same folder)."""
        rows = rows_without(self.out, {item.file for item in items}).to_pylist()
        if self.prefix:
            rows = [row for row in rows if not row[tables.LQ_IMAGE].startswith(self.prefix)]
        rows += [self._row(item, made[item.file]) for item in items]
        rows.sort(key=lambda row: (row[tables.IMAGE], row[tables.LEVEL], row[tables.LQ_IMAGE]))
        return pa.Table.from_pylist(rows, tables.DEGRADATIONS)

    def _row(self, item: DegradeItem, made: Made) -> TableRow:
        drawn, size = item.drawn, self.options.size
        return {
            tables.IMAGE: drawn.target.name, tables.LQ_IMAGE: item.file, tables.STATUS: made.status,
            tables.REASON: made.reason, tables.LEVEL: self.level.name, tables.COPY: drawn.copy,
            tables.DRAW: drawn.draw, tables.WIDTH: size, tables.HEIGHT: size, **asdict(drawn.degradation),
        }  # fmt: skip
