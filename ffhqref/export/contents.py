"""What of a built dataset is handed on: targets, their low-quality images and references, and people.

Every picture is looked at once, by its header; `Contents.check` refuses those that cannot go along.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ffhqref.core import images, lists, tables
from ffhqref.core.images import SUFFIXES, BadImage, meeting_key, name_fault, png_name
from ffhqref.core.lists import MappingRow
from ffhqref.core.store import UserError, below, recorded_images
from ffhqref.export.options import ExportOptions

CROPS = "images512x512"  # below the dataset: faces as FFHQ frames them
DEGRADED = "_degrad"  # at the end of the name of a level's folder
SHOWN = 3  # names in a sentence


@dataclass(frozen=True)
class Picture:
    """A picture of the dataset: its name there, its file, and its side in px."""

    name: str
    path: Path
    side: int
    stamp: tuple[int, int]  # bytes and time of the file: whether it changed since

    def bytes_about(self, size: int) -> int:
        """How many bytes it will have as a PNG of `size` px (0: its own), to plan by."""
        if size in (0, self.side) and self.path.suffix.lower() == ".png":
            return self.stamp[0]
        return 2 * (size or self.side) ** 2


@dataclass(frozen=True)
class Sample:
    """A target with what belongs to it; references best first."""

    split: str
    target: Picture
    references: tuple[Picture, ...]
    lq: Picture | None
    identity: str | None


def flat(name: str) -> str:
    """A name without suffix and folders, for readers that have none: `a/b.jpg` is `a__b`."""
    return os.path.splitext(name)[0].replace("/", "__")


def folder_of(identity: str) -> str:
    """An identity as the name of a folder. Those that `cluster` names are named by a photo."""
    stem, suffix = os.path.splitext(identity)
    plain = re.sub(r"[^\w .-]", "_", (stem if suffix.lower() in SUFFIXES else identity).replace("/", "__"))
    return re.sub(r"^\.+", "_", plain).strip() or "_"


class Contents:
    """A built dataset as an export reads it; `notes` are sentences for whoever runs it."""

    def __init__(self, dataset: Path, photos: Path | None, options: ExportOptions) -> None:
        self.dataset, self.options = dataset, options
        self.notes: list[str] = []
        self._photos = photos
        self._pictures: dict[str, Picture] = {}
        self._missing: list[str] = []
        self._missing_lq: list[str] = []
        self._bad: list[str] = []
        self._odd: list[str] = []
        self.mappings = {split: self._mapping(split) for split in options.splits}
        if not any(self.mappings.values()):
            raise UserError(
                f"{dataset} has no target in {', '.join(options.splits)}: build it, or name others."
            )

    def _mapping(self, split: str) -> dict[str, MappingRow]:
        path = self.dataset / "reference_mapping" / f"{split}_references.csv"
        if not path.is_file():
            raise UserError(f"There is no {path}: give the folder of a built dataset (`ffhqref build-refs`).")
        rows = lists.read_mapping(path)
        for target, row in rows.items():
            for name in (target, row.lq, *row.references):
                if fault := name_fault(name):
                    raise UserError(f"{path}: {name!r} cannot go along: {fault}.")
        return dict(sorted(rows.items()))

    @cached_property
    def photos(self) -> Path:
        """The folder of the photographs."""
        return self._photos or recorded_images(self.dataset)

    @cached_property
    def _splits(self) -> list[tuple[str, str, str]]:
        table = tables.read(tables.path_of(self.dataset, "splits"), tables.SPLIT_TABLE)
        columns = [tables.texts(table, name) for name in (tables.IMAGE, tables.IDENTITY, tables.SPLIT)]
        return list(zip(*columns, strict=True))

    def people(self, split: str) -> dict[str, list[str]]:
        """Folder name of each person of a split -> the names of all their photos, both in order."""
        found: dict[str, list[str]] = defaultdict(list)
        owner: dict[str, str] = {}
        for image, identity, part in self._splits:
            folder = folder_of(identity)
            other = owner.setdefault(meeting_key(folder), identity)
            if other != identity:
                raise UserError(f"Two people would share the folder {folder} ({other!r} and {identity!r}).")
            if part == split:
                found[folder].append(image)
        return {folder: sorted(found[folder]) for folder in sorted(found)}

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """Photo -> identity; empty where the dataset has only lists, as the published one."""
        if not tables.path_of(self.dataset, "splits").is_file():
            return {}
        return {image: identity for image, identity, _ in self._splits}

    def lq_folder(self, split: str) -> Path | None:
        """Where the split's low-quality images of the level lie, or None where there are none."""
        return self.lq_folders(split).get(self.options.level)

    def lq_folders(self, split: str) -> dict[str, Path]:
        """Level -> where its low-quality images of a split lie."""
        found = sorted((self.dataset / f"{split}_images").glob(f"*{DEGRADED}"))
        return {path.name.removesuffix(DEGRADED): path for path in found if path.is_dir()}

    def lq(self, folder: Path, row: MappingRow) -> Picture:
        """The low-quality image of a mapping's line: the file that it names, with `.png`."""
        path = below(folder, png_name(row.lq))
        if not path.is_file():
            self._missing_lq.append(f"{folder.parent.name}/{folder.name}/{png_name(row.lq)}")
        return self._look(row.lq, path)

    def samples(self, split: str) -> list[Sample]:
        """The split's targets, ordered by name."""
        folder = self.lq_folder(split)
        return [self._sample(split, target, row, folder) for target, row in self.mappings[split].items()]

    def _sample(self, split: str, target: str, row: MappingRow, folder: Path | None) -> Sample:
        references = tuple(self.picture(name) for name in row.references)
        lq = self.lq(folder, row) if folder else None
        return Sample(split, self.picture(target), references, lq, self.identity.get(target))

    def least(self, usual: int) -> int:
        """Photos that a person must have: as asked for, else what the reader needs."""
        return usual if self.options.least is None else self.options.least

    def needs_lq(self, split: str) -> bool:
        """Whether the split has low-quality images, with a note where it has not."""
        if self.lq_folder(split):
            return True
        how = "" if split == "train" else f" (`ffhqref degrade {self.dataset} --level {self.options.level}"
        how += f" --split {split}` makes them)" if how else ""
        self.notes.append(f"{split} has no {self.options.level} low-quality images{how}.")
        return False

    def picture(self, name: str) -> Picture:
        """A photo by its name: its crop where there is one, else itself."""
        if name not in self._pictures:
            crop = below(self.dataset / CROPS, png_name(name))
            self._pictures[name] = self._look(
                name, crop if crop.is_file() else images.find(self.photos, name)
            )
        return self._pictures[name]

    def _look(self, name: str, path: Path) -> Picture:
        try:
            stat = path.stat()
            width, height = images.dimensions(path)
        except OSError:
            self._missing.append(name)
            return Picture(name, path, 0, (-1, -1))
        except BadImage as error:
            self._bad.append(f"{name} {error}")
            return Picture(name, path, 0, (-1, -1))
        if width != height:
            self._odd.append(f"{name} {width} x {height} px")
        return Picture(name, path, width, (stat.st_size, stat.st_mtime_ns))

    def check(self) -> None:
        """UserError where pictures that were asked for are missing, unreadable or not square."""
        if self._missing_lq:
            raise UserError(
                f"{_some(self._missing_lq)} missing below {self.dataset}: make it with `ffhqref degrade`, or "
                "correct lq_image in the mapping."
            )
        if self._missing:
            raise UserError(
                f"{_some(self._missing)} missing below {self._photos or self.dataset}: give --images the "
                "folder that the dataset was built from."
            )
        if self._bad:
            raise UserError(
                f"{_some(self._bad)} no picture to hand on: put back the file and run this again."
            )
        if self._odd:
            raise UserError(
                f"{_some(self._odd)} not square, and readers want faces framed as FFHQ frames them: crop "
                f"with `ffhqref build-refs ... --crop on --out {self.dataset}`, then run this again."
            )


def _some(names: list[str]) -> str:
    """The first few names as the beginning of a sentence."""
    shown = ", ".join(names[:SHOWN])
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"{shown}{more} {'is' if len(names) == 1 else 'are'}"
