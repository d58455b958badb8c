"""Labelled pictures in rows on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ffhqref.core.images import Rgb

SIDE, GAP, FONT, LINE = 320, 12, 15, 20  # px: a picture's side, between pictures, of text
INK, PAPER = (20, 20, 20), (255, 255, 255)


@dataclass(frozen=True)
class Panel:
    """A picture (uint8 RGB) with lines of text beneath it."""

    image: Rgb
    caption: Sequence[str] = ()


def draw(titles: Sequence[str], rows: Sequence[Sequence[Panel]], side: int = SIDE) -> Rgb:
    """Rows of panels under column titles; pictures fill squares of `side` px, their shape kept."""
    font = ImageFont.load_default(FONT)
    lines = max((len(panel.caption) for row in rows for panel in row), default=0)
    cell = side + lines * LINE + GAP
    width = GAP + max([len(titles), *map(len, rows)]) * (side + GAP)
    page = Image.new("RGB", (width, 2 * GAP + LINE + len(rows) * cell), PAPER)
    pen = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        pen.text((GAP + column * (side + GAP), GAP), title, INK, font)
    for at, row in enumerate(rows):
        top = GAP + LINE + GAP // 2 + at * cell
        for column, panel in enumerate(row):
            left = GAP + column * (side + GAP)
            page.paste(_fitted(panel.image, side), (left, top))
            for number, text in enumerate(panel.caption):
                place = (left, top + side + 2 + number * LINE)
                pen.text(place, _cut(text, font, side), INK, font)
    return np.asarray(page)


def _fitted(image: Rgb, side: int) -> Image.Image:
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long (of a path, the end says more), after an ellipsis."""
    while text and font.getlength(text) > width:
        text = "..." + text.removeprefix("...")[1:]
    return text
