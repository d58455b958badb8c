"""The skin of a drawn face as pictures over (a, v): colour, fine relief, gloss. See `shape` for (a, v)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.demo.portrait.shape import Floats, bump, nose_tip, pair
from ffhqref.demo.portrait.traits import Color, Person, generator

SCALE = 96  # px per unit
SPAN = 4.0  # the picture reaches from -SPAN to SPAN both ways
SIDE = int(2 * SPAN * SCALE)

Points = npt.NDArray[np.float64]  # n x 2: (a, v)


@dataclass
class Skin:
    """`color` is sRGB 0..1, SIDE x SIDE x 3; `relief` in units outwards; `gloss` 0..1. Painted in place."""

    color: Floats
    relief: Floats
    gloss: Floats

    def fill(self, mask: Floats, color: Color, where: tuple[slice, slice], strength: float = 1.0) -> None:
        """Lay a colour over a part of the picture by a mask from 0 to 1."""
        part = self.color[where]
        part += (mask * np.float32(strength))[..., None] * (np.array(color, np.float32) - part)

    def dye(
        self, mask: Floats, factor: Color, where: tuple[slice, slice] = (slice(None), slice(None))
    ) -> None:
        """Multiply the colour by a factor where the mask is 1."""
        part = self.color[where]
        part *= 1 - mask[..., None] * (1 - np.array(factor, np.float32))


@lru_cache(maxsize=1)
def grid() -> tuple[Floats, Floats]:
    """a and v of every pixel's centre."""
    line = ((np.arange(SIDE) + 0.5) / SCALE - SPAN).astype(np.float32)
    a, v = np.meshgrid(line, -line)
    return a, v


def window(a0: float, a1: float, v0: float, v1: float) -> tuple[slice, slice]:
    """The pixels between a0 and a1, v0 and v1."""
    return (slice(int((SPAN - v1) * SCALE), int((SPAN - v0) * SCALE)),
            slice(int((a0 + SPAN) * SCALE), int((a1 + SPAN) * SCALE)))  # fmt: skip


def _pixels(points: Points, where: tuple[slice, slice]) -> npt.NDArray[np.int32]:
    """Points in 1/16 px of a window, as OpenCV draws them."""
    px = (points[:, 0] + SPAN) * SCALE - 0.5 - where[1].start
    py = (SPAN - points[:, 1]) * SCALE - 0.5 - where[0].start
    return np.round(np.stack([px, py], -1) * 16).astype(np.int32)


def polygon(points: Points, where: tuple[slice, slice], soft: float = 0.0) -> Floats:
    """A filled outline as a mask over the window, its edge softened by `soft` units."""
    mask = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start), np.uint8)
    cv2.fillPoly(mask, [_pixels(points, where)], 255, cv2.LINE_AA, 4)
    return _softened(mask, soft)


def lines(strokes: list[Points], width: float, where: tuple[slice, slice], soft: float = 0.0) -> Floats:
    """Open lines of a width in units as a mask over the window."""
    mask = np.zeros((where[0].stop - where[0].start, where[1].stop - where[1].start), np.uint8)
    thick = max(1, round(width * SCALE))
    cv2.polylines(mask, [_pixels(stroke, where) for stroke in strokes], False, 255, thick, cv2.LINE_AA, 4)
    return _softened(mask, soft)


def _softened(mask: npt.NDArray[np.uint8], soft: float) -> Floats:
    if soft:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), soft * SCALE), np.uint8)
    return mask.astype(np.float32) / np.float32(255)


@lru_cache(maxsize=8)
def noise(kind: str) -> Floats:
    """SIDE x SIDE of noise (mean 0, deviation 1), its edges joined: clouds, mottle, pores, strands, curls."""
    rng = generator(0, kind, "noise")
    white = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    spread = {
        "clouds": (40, 40),
        "mottle": (7, 7),
        "pores": (1.0, 1.0),
        "strands": (1.6, 60),
        "curls": (2.2, 2.6),
    }[kind]
    soft = _blurred(white, *spread)
    if kind == "strands":
        soft = soft / soft.std() + 0.8 * np.roll(_normal(_blurred(white, 7, 120)), 99, 1)
    if kind == "curls":
        soft = soft - 0.9 * _blurred(white, 6, 6)
    return _normal(soft)


def _blurred(picture: Floats, across: float, down: float) -> Floats:
    """A Gaussian blur (deviations in px) that joins at the edges."""
    y, x = np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None]
    window_ = np.exp(-2 * np.pi**2 * ((x * across) ** 2 + (y * down) ** 2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(picture) * window_, picture.shape), np.float32)


def _normal(values: Floats) -> Floats:
    return np.asarray((values - values.mean()) / values.std(), np.float32)


def bare(person: Person) -> Skin:
    """The skin before its features: tone, blush, freckles, lines of age."""
    rng = generator(person.seed, f"person {person.number}", "skin")
    a, v = grid()
    clouds, mottle, pores = (np.roll(noise(k), tuple(rng.integers(0, SIDE, 2)), (0, 1))
                             for k in ("clouds", "mottle", "pores"))  # fmt: skip
    rough = 0.6 + person.age / 80
    shade = 1 + 0.012 * clouds + 0.007 * rough * mottle + 0.014 * pores
    color = np.array(person.skin, np.float32) * shade[..., None]
    skin = Skin(
        color.astype(np.float32), (0.0012 * rough * pores + 0.0014 * rough * mottle), np.full_like(a, 0.35)
    )
    tip = nose_tip(person)
    red = (0.55 * pair(a, v, 1.35, -0.95, 0.7, 0.5) + 0.5 * bump(a, v, 0, tip, 0.5, 0.35)
           + 0.25 * bump(a, v, 0, -2.9, 0.5, 0.3) + 0.3 * pair(a, v, 0.4, tip - 0.1, 0.25, 0.25))  # fmt: skip
    red = red * float(rng.uniform(0.5, 1.3)) * (1 + 0.25 * clouds)
    skin.dye(np.clip(red, 0, 1), (1.0, 0.86, 0.85))
    socket = pair(a, v, 1 + person.shape["eye_apart"], -0.05, 0.6, 0.42)
    skin.dye(np.clip(socket * (0.5 + person.age / 130), 0, 1), (0.86, 0.78, 0.78))
    skin.gloss += (0.35 * bump(a, v, 0, tip + 0.1, 0.3, 0.4) + 0.22 * bump(a, v, 0, 1.1, 1.1, 0.5)
                   + 0.16 * pair(a, v, 1.3, -0.6, 0.4, 0.3)).astype(np.float32)  # fmt: skip
    _freckles(skin, person, rng)
    _age_lines(skin, person, rng)
    return Skin(skin.color, skin.relief.astype(np.float32), skin.gloss)


def _freckles(skin: Skin, who: Person, rng: np.random.Generator) -> None:
    where = window(-2.4, 2.4, -3.2, 1.9)
    if who.freckles > 0.1:
        count = int(420 * who.freckles)
        spots = np.stack([rng.normal(0, 0.95, count), rng.normal(-0.55, 0.5, count)], -1)
        mask = lines([np.array([p, p]) for p in spots], 0.028, where, 0.008)
        skin.dye(0.75 * mask, (0.72, 0.55, 0.45), where)
    for _ in range(int(rng.integers(0, 4))):  # moles
        spot = rng.uniform([-1.9, -2.7], [1.9, 1.2])
        skin.fill(lines([np.array([spot, spot])], 0.07, where, 0.008), (0.25, 0.15, 0.11), where, 0.75)


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
    where = window(-2.3, 2.3, -2.9, 2.1)
    strokes = []
    for k in range(3):
        y = 0.98 + 0.27 * k + rng.normal(0, 0.03)
        w = rng.uniform(0.7, 1.2)
        strokes.append(curve((-w, y - 0.02), (-w / 2, y + 0.05), (0, y), (w / 2, y + 0.05), (w, y - 0.02)))
    eye = 1 + who.shape["eye_apart"]
    for k in (-1, 0, 1):
        strokes += mirrored(
            curve((eye + 0.6, 0.08 * k), (eye + 0.78, 0.16 * k - 0.02), (eye + 0.92, 0.27 * k - 0.06))
        )
    strokes += mirrored(curve((eye - 0.36, -0.36), (eye - 0.05, -0.48), (eye + 0.35, -0.4)))  # bags
    mask = lines(strokes, 0.02, where, 0.022)
    skin.relief[where] -= 0.055 * depth * mask
    skin.dye(0.5 * depth * mask, (0.75, 0.66, 0.62), where)
