"""Contact sheets: targets with their references side by side, from any dataset in the published tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ffhqref.core import lists, sheets, tables
from ffhqref.core.images import BadImage, Rgb, find
from ffhqref.core.images import read as read_image
from ffhqref.core.sheets import Panel, Tag
from ffhqref.core.store import UserError, recorded_images

CELL, GAP = 144, 4  # px, side of a picture and the space between two
COLUMNS = 7  # the target and at most six references
COLOURS = {"train": (52, 101, 164), "val": (196, 120, 20), "test": (170, 40, 50)}


@dataclass(frozen=True)
class SheetRow:
    """A target and its references, best first, by name."""

    split: str
    target: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class ContactSheet:
    """A contact sheet that was written: where, how many rows, and pictures that could not be shown."""

    path: Path
    rows: int
    missing: tuple[str, ...]


def mappings(out: Path, split: str | None = None) -> dict[str, dict[str, list[str]]]:
    """split -> target -> references of a dataset (all splits, or one); UserError where there are none."""
    wanted = [split] if split else ["test", "val", "train"]
    paths = {name: out / "reference_mapping" / f"{name}_references.csv" for name in wanted}
    found = {name: lists.read_references(path) for name, path in paths.items() if path.is_file()}
    if not any(found.values()):
        which = f"{split} targets" if split else "reference_mapping"
        raise UserError(f"{out} has no {which}: give the folder of a built dataset (`ffhqref build-refs`).")
    return found


def choose_rows(found: Mapping[str, Mapping[str, Sequence[str]]], count: int) -> list[SheetRow]:
    """At most `count` rows: as many of each split where there are enough, nobody shown twice.

    Inside a split the targets are taken evenly over their order; a photo that is in a row already (as
    target or reference) begins no other.
    """
    shares = {split: count // len(found) for split in found}
    for split in list(found)[: count % len(found)]:
        shares[split] += 1
    rows: list[SheetRow] = []
    for split, mapping in found.items():
        rows += _spread(split, mapping, shares[split])
    for split, mapping in found.items():  # what one split could not fill another may
        rows += _spread(split, mapping, count - len(rows), rows)
    return sorted(rows, key=lambda row: list(found).index(row.split))


def _spread(
    split: str, mapping: Mapping[str, Sequence[str]], count: int, before: Sequence[SheetRow] = ()
) -> list[SheetRow]:
    shown = {name for row in before for name in (row.target, *row.references)}
    apart: list[SheetRow] = []
    for target in mapping:
        if target not in shown and mapping[target]:
            apart.append(SheetRow(split, target, tuple(mapping[target])))
            shown |= {target, *mapping[target]}
    if count <= 0 or not apart:
        return []
    places = np.unique(np.linspace(0, len(apart) - 1, min(count, len(apart))).round().astype(int))
    return [apart[place] for place in places]


def lay_out(rows: Sequence[tuple[SheetRow, Sequence[Rgb | None]]]) -> Rgb:
    """Rows of decoded pictures (target first) as one sheet, height x width x 3 uint8."""
    panels = []
    for row, pictures in rows:
        line = [Panel(picture) for picture in pictures]
        line[0] = replace(line[0], tag=Tag(row.split, COLOURS[row.split]))
        if more := len(row.references) + 1 - len(pictures):
            line[-1] = replace(line[-1], tag=Tag(f"and {more} more"))
        panels.append(line)
    return sheets.compose(panels, side=CELL, gap=GAP, apart=2 * GAP)


def contact_sheet(
    out: Path,
    images: Path | None = None,
    *,
    file: Path | None = None,
    split: str | None = None,
    count: int = 12,
) -> ContactSheet:
    """Write a contact sheet of `count` targets of a built dataset, a row each, to `file`.

    `images` may be left out where `embed` recorded the folder; `file` is `contact-sheet.png` in the
    dataset by default. Photographs that cannot be read are grey, and named in the result.
    """
    if split is not None and split not in tables.SPLITS:
        raise UserError(f"--split {split}: give one of {', '.join(tables.SPLITS)}.")
    if not 1 <= count <= 200:
        raise UserError(f"--count {count}: give a number of rows from 1 to 200.")
    target = file or out / "contact-sheet.png"
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UserError(f"{target}: give a file that ends in .png, .jpg or .webp.")
    sheets.spare(target)
    chosen = choose_rows(mappings(out, split), count)
    root = images or recorded_images(out)
    missing: list[str] = []
    rows = [
        (row, [_read(root, name, missing) for name in (row.target, *row.references)[:COLUMNS]])
        for row in chosen
    ]
    if len(missing) == sum(len(pictures) for _, pictures in rows):
        raise UserError(f"{root} holds none of the photographs of {out}: give their folder with --images.")
    sheets.write(target, lay_out(rows))
    return ContactSheet(target, len(rows), tuple(missing))


def _read(root: Path, name: str, missing: list[str]) -> Rgb | None:
    try:
        return sheets.fitted(read_image(find(root, name)), CELL)
    except BadImage:
        missing.append(name)
        return None
