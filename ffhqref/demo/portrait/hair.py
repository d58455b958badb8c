"""Hair as a shell around the head: where it grows, how far it stands out, how its strands run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ffhqref.demo.portrait.paint import noise_at
from ffhqref.demo.portrait.raster import normals
from ffhqref.demo.portrait.shape import WRAP, Reals, around, section, step
from ffhqref.demo.portrait.traits import Person, Shot

# |angle| from the middle of the face (radians), lowest y with hair
Hairline = tuple[tuple[float, float], ...]

SHORT = ((0, 2.12), (0.45, 2.1), (0.72, 1.85), (0.9, 1.3), (1.05, 0.75), (1.18, 0.15),
         (1.3, -0.4), (1.46, -0.4), (1.52, 0.3), (1.95, 0.25), (2.1, -1.0), (2.6, -1.9),
         (3.15, -2.0))  # fmt: skip
CURTAIN = ((0, 2.28), (0.2, 2.2), (0.45, 1.85), (0.7, 1.3), (0.84, 0.6), (0.9, -0.3),
           (0.88, -1.2), (0.9, -2.4), (1.0, -9), (3.15, -9))  # fmt: skip
FRINGE = ((0, 0.86), (0.5, 0.8), (0.75, 0.66), (0.87, 0.3), (0.9, -0.5), (0.9, -1.5), (1.0, -9),
          (3.15, -9))  # fmt: skip
TIED = ((0, 2.1), (0.5, 2.0), (0.8, 1.6), (1.0, 1.0), (1.15, 0.3), (1.28, -0.25), (1.42, -0.2),
        (1.52, 0.2), (1.95, 0.1), (2.2, -1.2), (3.15, -1.8))  # fmt: skip


@dataclass(frozen=True)
class Cut:
    """A hairstyle: lengths in units, `flow` how the strands run (fall from the crown, part, back, swept)."""

    line: Hairline
    end: float  # y of the tips
    top: float  # how far the hair stands out above
    side: float  # and at the sides
    flow: str
    curl: float = 0.0  # 0 straight, 1 curls
    wave: float = 0.0


CUTS = {
    "long": Cut(CURTAIN, -5.6, 0.3, 0.34, "part"),
    "wavy": Cut(CURTAIN, -5.2, 0.4, 0.5, "part", 0.2, 0.3),
    "bob": Cut(CURTAIN, -2.7, 0.34, 0.34, "part"),
    "fringe": Cut(FRINGE, -5.0, 0.3, 0.34, "fall"),
    "bun": Cut(TIED, -2.0, 0.16, 0.08, "back"),
    "pixie": Cut(SHORT, -2.0, 0.4, 0.2, "swept", 0.1),
    "afro": Cut(SHORT, -2.2, 0.95, 0.75, "fall", 1.0),
    "short": Cut(SHORT, -2.2, 0.26, 0.1, "swept"),
    "swept": Cut(SHORT, -2.2, 0.45, 0.14, "swept", 0.1),
    "quiff": Cut(SHORT, -2.2, 0.4, 0.08, "back"),
    "crop": Cut(SHORT, -2.0, 0.08, 0.05, "fall", 0.4),
    "curly": Cut(SHORT, -2.2, 0.5, 0.28, "fall", 0.9),
}


@dataclass(frozen=True)
class Hair:
    """The shell: points in space, and over it the strands' coordinates and the depth inside the hairline."""

    points: Reals  # rows x columns x 3
    across: Reals  # from strand to strand
    along: Reals  # down a strand
    depth: Reals  # units inside the edge; below 0 there is no hair


def grow(who: Person, taken: Shot) -> Hair | None:
    """The hair of one photo over the upright head, or None where there is none."""
    if who.style == "bald":
        return None
    cut = CUTS[who.style]
    angle = np.linspace(-np.pi, np.pi, 150).astype(np.float32)
    y = (3.62 - (3.62 - cut.end) * np.linspace(0, 1, 110) ** 1.25).astype(np.float32)
    points = _scalp(who, y, angle)
    aa, yy = np.meshgrid(angle, y)
    depth = _depth(who, cut, aa, yy)
    across, along = _strands(who, cut, points, aa, yy)
    out = normals(points)
    out[..., 1] = np.where(yy < 0, 0, out[..., 1])
    sample = _texture(cut, across * 0.35, along * 0.35, taken)
    stand = _stand(who, taken, cut, aa, yy, depth) * (1 + 0.09 * sample)
    points = points + out * stand[..., None]
    if cut.wave:
        swing = np.sin(2.6 * yy + 2 * aa + 6 * taken.hair_shift)
        points[..., 0] += cut.wave * 0.3 * step(-yy, -0.5, 2) * swing
    return Hair(points.astype(np.float32), across, along, depth)


def hollow(who: Person) -> bool:
    """Whether the hair stands out or hangs so far that its inside can be seen."""
    cut = CUTS[who.style]
    return cut.end < -2.4 or cut.side > 0.15


def _scalp(who: Person, y: Reals, angle: Reals) -> Reals:
    """The head as hair covers it: falling straight where face and jaw draw in."""
    shaped = section(np.maximum(y, -0.75))
    shaped[:, 0] = np.where(y < -0.75, y, shaped[:, 0])
    shaped[:, 1] *= 1 + who.shape["face_width"]
    shaped[:, 1] *= 1 - 0.10 * step(-y, 0.9, 2.4) + 0.3 * step(-y, 2.4, 5)
    shaped[:, 2] -= 0.5 * step(-y, 1.5, 3.5)
    return around(shaped, angle)


def scalp_line(who: Person, angle: Reals) -> Reals:
    """The height above which hair grows, |angle| radians from the middle of the face."""
    cut = CUTS.get(who.style, CUTS["short"])
    corners = np.array(SHORT if cut.end > -2.4 else TIED)
    return np.asarray(np.interp(angle, corners[:, 0], corners[:, 1]) + _hairline(who, angle), np.float32)


def _hairline(who: Person, angle: Reals) -> Reals:
    """How much higher this person's hairline is; men's temples recede with age."""
    shift = who.shape["hairline"] * np.clip(1.3 - angle, 0, 1)
    if who.gender == "Male":
        shift = shift + 0.45 * np.clip((who.age - 30) / 45, 0, 1) * np.exp(-(((angle - 0.65) / 0.28) ** 2))
    return np.asarray(shift, np.float32)


def _depth(who: Person, cut: Cut, angle: Reals, y: Reals) -> Reals:
    corners = np.array(cut.line)
    turned = np.abs(angle - 0.75 * who.parting * step(y, 0.6, 2.0) * (cut.flow == "part"))
    lifted = y - _hairline(who, turned)
    inside = lifted > np.interp(turned, corners[:, 0], corners[:, 1])
    far = np.full(y.shape, np.inf, np.float32)
    for (a0, y0), (a1, y1) in zip(cut.line, cut.line[1:], strict=False):  # the nearest point of the line
        du, dy = (a1 - a0) * WRAP, y1 - y0
        u, w = turned * WRAP - a0 * WRAP, lifted - y0
        t = np.clip((u * du + w * dy) / (du * du + dy * dy), 0, 1)
        far = np.minimum(far, np.hypot(u - t * du, w - t * dy))
    return np.asarray(np.minimum(np.where(inside, far, -far), (y - cut.end) * 1.2), np.float32)


def _strands(who: Person, cut: Cut, points: Reals, angle: Reals, y: Reals) -> tuple[Reals, Reals]:
    x, z = points[..., 0], points[..., 2]
    side = step(np.abs(angle), 0.75, 1.5) * step(-y, -2.6, -1.4)
    lean = 0.9 if who.parting > 0 else -0.9
    if cut.flow == "back":
        return x * (1 - side) + side * (y * 0.8 + 3) * np.sign(x), -z
    if cut.flow == "swept":
        return (x + lean * z) * 0.8 * (1 - side) + side * angle * WRAP, y - lean * 0.5 * x
    if cut.flow == "part":
        middle = 2.2 * np.sin(0.75 * who.parting) * step(y, 0.8, 2.2)
        polar = np.arccos(np.clip((z + 0.35) / 2.95, -1, 1))
        down = step(-y, -2.4, -0.4)
        across = (polar * (1 - down) + np.abs(angle) * down) * WRAP
        return np.where(x > middle, across, -across).astype(np.float32), y - 0.6 * np.abs(x - middle)
    sweep = who.parting * 0.9 * step(y, 0.5, 3.3)
    return (angle + sweep) * WRAP, y


def _stand(who: Person, taken: Shot, cut: Cut, angle: Reals, y: Reals, depth: Reals) -> Reals:
    """How far the shell is from the scalp."""
    top = step(y, 0.8, 2.8)
    height = cut.top * top + cut.side * (1 - top)
    if who.style == "quiff":
        height = height + 0.55 * np.exp(-((angle / 0.75) ** 2) - ((y - 2.6) / 0.7) ** 2)
    if cut.flow == "part":
        away = np.abs(angle - 0.75 * who.parting * step(y, 0.5, 2.5))
        height = height * (0.72 + 0.35 * step(away, 0.0, 0.9))
    rooted = 0.06 + 0.94 * step(depth, -0.15, 0.9)
    return np.asarray(0.02 + height * rooted * (0.85 + 0.35 * taken.hair_shift), np.float32)


def _texture(cut: Cut, across: Reals, along: Reals, taken: Shot) -> Reals:
    """Strands (mean 0, deviation about 1) at strand coordinates of any shape."""
    column, row = across * 90 + 800 * taken.hair_shift, along * 60
    if cut.wave or cut.curl:
        column = column + (30 * cut.wave + 6 * cut.curl) * np.sin(along * (2.2 + 3 * cut.curl) + across)
    straight = noise_at("strands", row, column)
    if not cut.curl:
        return straight
    curls = noise_at("curls", row * 1.2, column * 0.8)
    return np.asarray(straight * (1 - cut.curl) + curls * cut.curl, np.float32)


def strands(who: Person, taken: Shot, across: Reals, along: Reals) -> Reals:
    """The strands seen at pixels with these coordinates."""
    cut = CUTS[who.style]
    coarse = _texture(cut, across * 0.3, along * 0.4, taken)
    return 0.8 * _texture(cut, across, along, taken) + 0.4 * coarse


def opacity(depth: Reals, strand: Reals) -> Reals:
    """0..1: full inside the hair, thinning out in strands at its edge."""
    return step(depth + 0.12 * strand, -0.05, 0.28)
