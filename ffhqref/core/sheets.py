"""Labelled pictures in rows on one sheet: the one way in which the project lays pictures side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError, write_bytes
from ffhqref.core.terminal import shown

Colour = tuple[int, int, int]

FONT, LINE = 15, 20  # px, of text
SOFTWARE, MARK = 0x0131, "ffhqref sheet"  # the EXIF tag that says which program made a file, and ours
INK, PAPER, GROUND, CROSS = (40, 40, 40), (255, 255, 255), (222, 222, 222), (180, 180, 180)


@dataclass(frozen=True)
class Tag:
    """A word on a coloured ground in a picture's upper left corner."""

    text: str
    colour: Colour = (60, 60, 60)


@dataclass(frozen=True)
class Panel:
    """A picture (uint8 RGB; None is a grey cell with a cross) with a tag on it and lines of text beneath."""

    image: Rgb | None
    caption: Sequence[str] = ()
    tag: Tag | None = None


def compose(
    rows: Sequence[Sequence[Panel]],
    titles: Sequence[str] = (),
    *,
    side: int = 320,
    gap: int = 12,
    apart: int = 0,
) -> Rgb:
    """Rows of panels under column titles, height x width x 3; pictures keep their shape in `side` px squares.

    `gap` px lie between pictures, and `apart` more behind the first column.
    """
    font = ImageFont.load_default(FONT)
    lines = max((len(panel.caption) for row in rows for panel in row), default=0)
    height = side + lines * LINE + gap
    top = gap + (LINE + gap // 2 if titles else 0)
    columns = max([len(titles), *map(len, rows)])
    page = Image.new("RGB", (gap + columns * (side + gap) + apart, top + len(rows) * height), PAPER)
    pen = ImageDraw.Draw(page)
    lefts = [gap + column * (side + gap) + (apart if column else 0) for column in range(columns)]
    for left, title in zip(lefts, titles, strict=False):
        pen.text((left, gap), _cut(title, font, side), INK, font)
    for number, row in enumerate(rows):
        for left, panel in zip(lefts, row, strict=False):
            place = (left, top + number * height)
            page.paste(_cell(panel, side, font), place)
            for line, text in enumerate(panel.caption):
                pen.text((left, place[1] + side + 2 + line * LINE), _cut(text, font, side), INK, font)
    return np.asarray(page)


def _cell(panel: Panel, side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    cell = Image.new("RGB", (side, side), PAPER if panel.image is not None else GROUND)
    pen = ImageDraw.Draw(cell)
    if panel.image is None:
        pen.line([(0, 0), (side, side)], CROSS)
        pen.line([(side, 0), (0, side)], CROSS)
    else:
        picture = Image.fromarray(fitted(panel.image, side))
        cell.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if panel.tag:
        wide = round(font.getlength(panel.tag.text))
        pen.rectangle((0, 0, wide + 9, LINE + 1), panel.tag.colour)
        pen.text((5, 2), panel.tag.text, PAPER, font)
    return cell


def fitted(image: Rgb, side: int) -> Rgb:
    """The picture with its longer side of `side` px."""
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long (of a path, the end says more), after an ellipsis."""
    text = shown(text)  # a font cannot draw half of a surrogate pair
    while text and font.getlength(text) > width:
        text = "..." + text.removeprefix("...")[1:]
    return text


def spare(path: Path) -> None:
    """UserError where a file stands at `path` that is no sheet of ours, such as a photograph."""
    if not (path.exists() or path.is_symlink()):
        return
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
            ours = picture.getexif().get(SOFTWARE) == MARK
    except Exception:  # hostile bytes: Pillow's parsers raise many kinds
        ours = False
    if not ours:
        raise UserError(
            f"{path} is there and is no sheet that ffhqref made: give another name, or remove it."
        )


def write(path: Path, page: Rgb) -> None:
    """Write a sheet as PNG, JPEG or WebP by the path's suffix, with a mark by which `spare` knows it."""
    spare(path)
    mark = Image.Exif()
    mark[SOFTWARE] = MARK
    data, suffix = io.BytesIO(), path.suffix.lower()
    picture = Image.fromarray(page)
    if suffix == ".png":
        picture.save(data, "PNG", exif=mark, compress_level=3)
    elif suffix == ".webp":
        picture.save(data, "WEBP", exif=mark, lossless=True)
    else:
        picture.save(data, "JPEG", exif=mark, quality=95)
    write_bytes(path, data.getvalue())
