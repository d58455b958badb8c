"""Labelled pictures in rows on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ffhqref.core.images import Rgb

Colour = tuple[int, int, int]

SIDE = 320  # px of a picture's square, where the caller names no other
GAP, LINE, LETTERS = 8, 20, 15  # px: between squares, of a line of text, of its letters
INK, PAPER = (20, 20, 20), (255, 255, 255)
GROUND, CROSS = (
    (222, 222, 222),
    (180, 180, 180),
)  # of a square not filled, or empty


@dataclass(frozen=True)
class Panel:
    """A picture with lines of text below it and a word in its upper left corner.

    None in place of a picture is one that cannot be shown: a grey square with a cross.
    """

    image: Rgb | None
    caption: Sequence[str] = ()
    tag: str = ""
    tag_colour: Colour = INK


def lay_out(
    rows: Sequence[Sequence[Panel]], *, titles: Sequence[str] = (), side: int = SIDE, apart: int = 0
) -> Rgb:
    """Rows of panels as one picture, under column titles where there are any.

    Pictures keep their shape in squares of `side` px. `apart` px more set the first column off from the rest.
    """
    font = ImageFont.load_default(LETTERS)
    columns = max(len(titles), *map(len, rows))
    lines = max(len(panel.caption) for row in rows for panel in row)
    lefts = [GAP + column * (side + GAP) + (apart if column else 0) for column in range(columns)]
    first = GAP + (LINE if titles else 0)
    height = side + lines * LINE + (2 * GAP if lines else GAP)
    page = Image.new("RGB", (lefts[-1] + side + GAP, first + len(rows) * height), PAPER)
    pen = ImageDraw.Draw(page)
    for left, title in zip(lefts, titles, strict=False):
        pen.text((left, GAP // 2), _shortened(title, font, side), INK, font)
    for number, row in enumerate(rows):
        top = first + number * height
        for left, panel in zip(lefts, row, strict=False):
            page.paste(_square(panel, side, font), (left, top))
            for line, text in enumerate(panel.caption):
                pen.text((left, top + side + 2 + line * LINE), _shortened(text, font, side), INK, font)
    return np.asarray(page)


def fitted(image: Rgb, side: int) -> Rgb:
    """The picture in its own shape, its longer side `side` px."""
    scale = side / max(image.shape[:2])
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _square(panel: Panel, side: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    square = Image.new("RGB", (side, side), GROUND)
    pen = ImageDraw.Draw(square)
    if panel.image is None:
        pen.line((0, 0, side, side), CROSS)
        pen.line((side, 0, 0, side), CROSS)
    else:
        picture = Image.fromarray(fitted(panel.image, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    if panel.tag:
        pen.rectangle((0, 0, font.getlength(panel.tag) + 9, LINE + 1), panel.tag_colour)
        pen.text((5, 2), panel.tag, PAPER, font)
    return square


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The end of a text that is too long (of a path, the end says more), after an ellipsis."""
    while text and font.getlength(text) > width:
        text = "..." + text.removeprefix("...")[1:]
    return text
