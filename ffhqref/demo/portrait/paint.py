"""The skin of a drawn face as pictures over (a, v): colour, fine relief, gloss. See `shape` for (a, v)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.core.arrays import Float64, UInt8
from ffhqref.demo.portrait.shape import Reals, bump, eye_at, nose_tip, pair
from ffhqref.demo.portrait.traits import Color, Person, generator

SKIN_SCALE = 96  # px per unit
SKIN_SPAN = 4.0  # the picture reaches from -SKIN_SPAN to SKIN_SPAN both ways
SKIN_SIDE = int(2 * SKIN_SPAN * SKIN_SCALE)

Points = Float64  # n x 2: (a, v)
Window = tuple[slice, slice]  # rows and columns


@dataclass
class Skin:
    """The skin's pictures, or views of a part of them, which are painted in place."""

    color: Reals  # x 3, sRGB 0..1
    relief: Reals  # units outwards
    gloss: Reals  # 0..1
    top: int = 0  # px, where the part lies in the whole picture
    left: int = 0

    def part(self, rows: slice, columns: slice) -> Skin:
        """A view of some rows and columns."""
        color, relief, gloss = (x[rows, columns] for x in (self.color, self.relief, self.gloss))
        return Skin(color, relief, gloss, self.top + (rows.start or 0), self.left + (columns.start or 0))

    def grid(self) -> tuple[Reals, Reals]:
        """a and v of every pixel's centre."""
        rows, columns = self.gloss.shape
        here = slice(self.top, self.top + rows), slice(self.left, self.left + columns)
        a, v = _grid()
        return a[here], v[here]

    def fill(self, mask: Reals, color: Color, strength: float = 1.0) -> None:
        """Lay a colour over the skin by a mask from 0 to 1."""
        self.cover(mask * np.float32(strength), np.array(color, np.float32))

    def cover(self, mask: Reals, colors: Reals) -> None:
        """Lay colours (3, or H x W x 3) over the skin by a mask from 0 to 1."""
        self.color += mask[..., None] * (colors - self.color)

    def dye(self, mask: Reals, factor: Color) -> None:
        """Multiply the colour by a factor where the mask is 1."""
        self.color *= 1 - mask[..., None] * (1 - np.array(factor, np.float32))

    def polygon(self, points: Points, soft: float) -> Reals:
        """A filled outline as a mask, its edge softened by `soft` units."""
        mask = np.zeros(self.gloss.shape, np.uint8)
        cv2.fillPoly(mask, [self._pixels(points)], 255, cv2.LINE_AA, 4)
        return _softened(mask, soft)

    def polygons(self, points: Points, soft: float) -> Reals:
        """A polygon and its mirror image on the other side of the face."""
        return np.maximum(*[self.polygon(side, soft) for side in mirrored(points)])

    def lines(self, strokes: list[Points], width: float, soft: float) -> Reals:
        """Open lines of a width in units as a mask, their edges softened by `soft` units."""
        mask, thick = np.zeros(self.gloss.shape, np.uint8), max(1, round(width * SKIN_SCALE))
        cv2.polylines(mask, [self._pixels(stroke) for stroke in strokes], False, 255, thick, cv2.LINE_AA, 4)
        return _softened(mask, soft)

    def _pixels(self, points: Points) -> npt.NDArray[np.int32]:
        """Points in 1/16 px of this part, as OpenCV wants them."""
        px = (points[:, 0] + SKIN_SPAN) * SKIN_SCALE - 0.5 - self.left
        py = (SKIN_SPAN - points[:, 1]) * SKIN_SCALE - 0.5 - self.top
        return np.round(np.stack([px, py], -1) * 16).astype(np.int32)


def _softened(mask: UInt8, soft: float) -> Reals:
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), soft * SKIN_SCALE), np.float32) / np.float32(255)


def at(picture: Reals, a: Reals, v: Reals) -> Reals:
    """A picture over (a, v) at n places, bilinear: n or n x channels."""
    x, y = (a + SKIN_SPAN) * SKIN_SCALE - 0.5, (SKIN_SPAN - v) * SKIN_SCALE - 0.5
    found = [
        cv2.remap(picture, x[i : i + 30000, None], y[i : i + 30000, None], cv2.INTER_LINEAR,
                  borderMode=cv2.BORDER_REPLICATE)[:, 0]
        for i in range(0, len(x), 30000)  # OpenCV's remap takes at most 32767 rows
    ]  # fmt: skip
    return np.concatenate(found) if found else np.zeros((0, *picture.shape[2:]), np.float32)


@lru_cache(maxsize=1)
def _grid() -> tuple[Reals, Reals]:
    line = ((np.arange(SKIN_SIDE) + 0.5) / SKIN_SCALE - SKIN_SPAN).astype(np.float32)
    a, v = np.meshgrid(line, -line)
    return a, v


def window(a0: float, a1: float, v0: float, v1: float) -> Window:
    """The pixels between a0 and a1, v0 and v1."""
    return (slice(int((SKIN_SPAN - v1) * SKIN_SCALE), int((SKIN_SPAN - v0) * SKIN_SCALE)),
            slice(int((a0 + SKIN_SPAN) * SKIN_SCALE), int((a1 + SKIN_SPAN) * SKIN_SCALE)))  # fmt: skip


NOISES = {  # px, deviations of the blur across and down
    "clouds": (40, 40), "mottle": (7, 7), "pores": (1.0, 1.0), "strands": (1.6, 60), "curls": (2.2, 2.6),
}  # fmt: skip


@lru_cache(maxsize=8)
def noise(kind: str) -> Reals:
    """SKIN_SIDE x SKIN_SIDE of noise of a kind (mean 0, deviation 1) that joins at the edges."""
    rng = generator(0, kind, "noise")
    white = rng.standard_normal((SKIN_SIDE, SKIN_SIDE)).astype(np.float32)
    soft = _blurred(white, *NOISES[kind])
    if kind == "strands":
        soft = soft / soft.std() + 0.8 * np.roll(_normal(_blurred(white, 7, 120)), 99, 1)
    if kind == "curls":
        soft = soft - 0.9 * _blurred(white, 6, 6)
    return _normal(soft)


def noise_at(kind: str, row: Reals, column: Reals) -> Reals:
    """The noise at places in px, which wrap around."""
    return noise(kind)[row.astype(np.int32) % SKIN_SIDE, column.astype(np.int32) % SKIN_SIDE]


def _blurred(picture: Reals, across: float, down: float) -> Reals:
    """A Gaussian blur (deviations in px) that joins at the edges."""
    y, x = np.fft.fftfreq(SKIN_SIDE)[:, None], np.fft.rfftfreq(SKIN_SIDE)[None]
    window_ = np.exp(-2 * np.pi**2 * ((x * across) ** 2 + (y * down) ** 2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(picture) * window_, picture.shape), np.float32)


def _normal(values: Reals) -> Reals:
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def bare(who: Person) -> Skin:
    """The skin before its features: tone, blush, freckles, lines of age."""
    rng = who.generator("skin")
    a, v = _grid()
    clouds, mottle, pores = (np.roll(noise(k), tuple(rng.integers(0, SKIN_SIDE, 2)), (0, 1))
                             for k in ("clouds", "mottle", "pores"))  # fmt: skip
    rough = 0.6 + who.age / 80
    shade = 1 + 0.012 * clouds + 0.007 * rough * mottle + 0.014 * pores
    color = np.array(who.skin, np.float32) * shade[..., None]
    relief = 0.0012 * rough * pores + 0.0014 * rough * mottle
    skin = Skin(color.astype(np.float32), relief, np.full_like(a, 0.35))
    tip = nose_tip(who)
    red = (0.55 * pair(a, v, 1.35, -0.95, 0.7, 0.5) + 0.5 * bump(a, v, 0, tip, 0.5, 0.35)
           + 0.25 * bump(a, v, 0, -2.9, 0.5, 0.3) + 0.3 * pair(a, v, 0.4, tip - 0.1, 0.25, 0.25))  # fmt: skip
    red = red * float(rng.uniform(0.5, 1.3)) * (1 + 0.25 * clouds)
    skin.dye(np.clip(red, 0, 1), (1.0, 0.86, 0.85))
    socket = pair(a, v, eye_at(who), -0.05, 0.6, 0.42)
    skin.dye(np.clip(socket * (0.5 + who.age / 130), 0, 1), (0.86, 0.78, 0.78))
    skin.gloss += (0.35 * bump(a, v, 0, tip + 0.1, 0.3, 0.4) + 0.22 * bump(a, v, 0, 1.1, 1.1, 0.5)
                   + 0.16 * pair(a, v, 1.3, -0.6, 0.4, 0.3)).astype(np.float32)  # fmt: skip
    _freckles(skin.part(*window(-2.4, 2.4, -3.2, 1.9)), who, rng)
    _age_lines(skin.part(*window(-2.3, 2.3, -2.9, 2.1)), who, rng)
    return Skin(skin.color, skin.relief.astype(np.float32), skin.gloss)


def _freckles(skin: Skin, who: Person, rng: np.random.Generator) -> None:
    if who.freckles > 0.1:
        count = int(420 * who.freckles)
        spots = np.stack([rng.normal(0, 0.95, count), rng.normal(-0.55, 0.5, count)], -1)
        mask = skin.lines([np.array([p, p]) for p in spots], 0.028, 0.008)
        skin.dye(0.75 * mask, (0.72, 0.55, 0.45))
    for _ in range(int(rng.integers(0, 4))):  # moles
        spot = rng.uniform([-1.9, -2.7], [1.9, 1.2])
        skin.fill(skin.lines([np.array([spot, spot])], 0.07, 0.008), (0.25, 0.15, 0.11), 0.75)


def shaded(color: Color, factor: float) -> Color:
    """The colour, darker or lighter by a factor."""
    r, g, b = (min(1.0, factor * c) for c in color)
    return r, g, b


def curve(*points: tuple[float, float]) -> Points:
    """A smooth line through points (Catmull-Rom)."""
    p = np.array(points, np.float64)
    p = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
    t = np.linspace(0, 1, 10)[:, None]
    pieces = [
        0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
    ]
    return np.vstack(pieces)


def mirrored(points: Points) -> list[Points]:
    """The line and its mirror image on the other side of the face."""
    return [points, points * np.array([-1.0, 1.0])]


def _age_lines(skin: Skin, who: Person, rng: np.random.Generator) -> None:
    """Lines of the forehead and beside the eyes, from the forties on."""
    depth = np.clip((who.age - 36) / 34, 0, 1)
    if depth <= 0:
        return
    strokes = []
    for k in range(3):
        y = 0.98 + 0.27 * k + rng.normal(0, 0.03)
        w = rng.uniform(0.7, 1.2)
        strokes.append(curve((-w, y - 0.02), (-w / 2, y + 0.05), (0, y), (w / 2, y + 0.05), (w, y - 0.02)))
    eye = eye_at(who)
    for k in (-1, 0, 1):
        ray = curve((eye + 0.6, 0.08 * k), (eye + 0.78, 0.16 * k - 0.02), (eye + 0.92, 0.27 * k - 0.06))
        strokes += mirrored(ray)
    strokes += mirrored(curve((eye - 0.36, -0.36), (eye - 0.05, -0.48), (eye + 0.35, -0.4)))  # bags
    mask = skin.lines(strokes, 0.02, 0.022)
    skin.relief -= 0.055 * depth * mask
    skin.dye(0.5 * depth * mask, (0.75, 0.66, 0.62))
