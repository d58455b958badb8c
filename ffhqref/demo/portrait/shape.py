"""The meshes of a drawn person: head, ears, hair, neck and shoulders, as grids of points in space.

A grid is rows x columns x 3 (x to the right of the picture, y up, z towards the camera), in the unit of
`traits`. The head is given over (a, v): a runs around it (radians times WRAP, 0 in the middle of the face)
and v from the crown down to the throat; near the face (a, v) are nearly (x, y), the eyes at v = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffhqref.core.arrays import Float64
from ffhqref.demo.portrait.traits import Person, Shot

Reals = npt.NDArray[np.floating]  # computed in 32 or 64 bits
WRAP = 2.25  # units of `a` per radian: the half width of a head, so that a is nearly x on the face

# v: y, half width, front, back (z) of the head's horizontal section
PROFILE = np.array([
    [3.62, 3.60, 0.02, -0.28, -0.32], [3.55, 3.55, 0.62, 0.42, -1.00], [3.30, 3.33, 1.30, 1.18, -1.80],
    [2.80, 2.82, 1.88, 1.90, -2.55], [2.10, 2.10, 2.23, 2.34, -3.05], [1.30, 1.30, 2.36, 2.57, -3.25],
    [0.60, 0.60, 2.37, 2.63, -3.25], [0.00, 0.00, 2.33, 2.58, -3.10], [-0.60, -0.60, 2.29, 2.52, -2.80],
    [-1.20, -1.20, 2.18, 2.48, -2.30], [-1.70, -1.70, 2.02, 2.52, -1.70], [-2.10, -2.10, 1.86, 2.54, -1.30],
    [-2.60, -2.60, 1.60, 2.48, -0.95], [-2.95, -2.95, 1.34, 2.42, -0.70], [-3.22, -3.22, 1.06, 2.24, -0.50],
    [-3.42, -3.38, 0.84, 1.92, -0.40], [-3.70, -3.44, 0.70, 1.30, -0.30], [-4.00, -3.40, 0.40, 0.70, -0.20],
])  # fmt: skip


@dataclass(frozen=True)
class Head:
    """The head's mesh with where on it the features lie, all as (a, v)."""

    points: Reals  # rows x columns x 3
    a: Reals  # columns
    v: Reals  # rows, falling
    eye: tuple[float, float]  # centre of the eye on the right of the picture
    nose: tuple[float, float]
    mouth: tuple[float, float]  # corner on the right of the picture, with the expression

    def at(self, a: float, v: float) -> Float64:
        """The point of the surface over (a, v), in units."""
        column = float(np.interp(a, self.a, np.arange(len(self.a))))
        row = float(np.interp(-v, -self.v, np.arange(len(self.v))))
        i, j = min(int(row), len(self.v) - 2), min(int(column), len(self.a) - 2)
        s, t = row - i, column - j
        corners = self.points[i : i + 2, j : j + 2].astype(np.float64)
        return np.asarray((1 - s) * ((1 - t) * corners[0, 0] + t * corners[0, 1])
                          + s * ((1 - t) * corners[1, 0] + t * corners[1, 1]))  # fmt: skip

    def landmarks(self) -> Float64:
        """5 x 3: eye, eye, nose tip, mouth corner, mouth corner, that on the left of the picture first."""
        (eye_a, eye_v), (mouth_a, mouth_v) = self.eye, self.mouth
        places = [(-eye_a, eye_v), self.eye, self.nose, (-mouth_a, mouth_v), self.mouth]
        return np.stack([self.at(*place) for place in places])


def bump(a: Reals, v: Reals, a0: float, v0: float, sa: float, sv: float) -> Reals:
    """A Gaussian of height 1 at (a0, v0), with widths sa and sv."""
    return np.asarray(np.exp(-(((a - a0) / sa) ** 2) - ((v - v0) / sv) ** 2))


def pair(a: Reals, v: Reals, a0: float, v0: float, sa: float, sv: float) -> Reals:
    """A bump on both sides of the face."""
    return bump(np.abs(a), v, a0, v0, sa, sv)


def step(x: Reals, start: float, end: float) -> Reals:
    """Smooth from 0 at `start` to 1 at `end`."""
    t = np.clip((x - start) / (end - start), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def _mesh_rows() -> Reals:
    """Heights v of the mesh's rows: closer together between brows and chin."""
    v = np.linspace(3.62, -4.0, 400)
    density = 1 + 1.6 * ((v < 0.9) & (v > -2.9)) + 1.2 * ((v < -0.9) & (v > -1.6))
    place = np.cumsum(density) / density.sum()
    return np.interp(np.linspace(place[0], 1, 124), place, v).astype(np.float32)


def _mesh_columns() -> Reals:
    t = np.linspace(-1, 1, 123)
    return (WRAP * np.pi * (0.4 * t + 0.6 * t**3)).astype(np.float32)


def section(v: Reals) -> Float64:
    """The profile at heights v: rows of y, half width, front, back."""
    fine = np.linspace(PROFILE[0, 0], PROFILE[-1, 0], 600)
    kernel = np.exp(-(np.linspace(-2, 2, 25) ** 2))
    kernel /= kernel.sum()
    columns = []
    for k in range(1, 5):
        dense = np.interp(-fine, -PROFILE[:, 0], PROFILE[:, k])
        smooth = np.convolve(np.pad(dense, 12, "reflect", reflect_type="odd"), kernel, "valid")
        columns.append(np.interp(-v, -fine, smooth))
    return np.stack(columns, -1)


def _shaped_section(v: Reals, who: Person) -> Float64:
    """The profile with this person's widths of face, jaw and chin and length of chin."""
    s = who.shape
    shaped = section(v)
    lower, chin = step(-v, 0.6, 2.4), step(-v, 2.0, 3.2)
    shaped[:, 1] *= (1 + s["face_width"]) * (1 + s["jaw_width"] * lower) * (1 + s["chin_width"] * chin)
    shaped[:, 0] -= s["chin_length"] * chin
    shaped[:, 2] += (s["chin_out"] * chin) * (v > -3.5)
    return shaped


def around(shaped: Float64, angle: Reals, n: float | Float64 = 2.25) -> Reals:
    """Points of superelliptic sections (exponent n) at angles, rows x columns x 3."""
    y, width, front, back = (shaped[:, k : k + 1] for k in range(4))
    sine, cosine = np.sin(angle)[None], np.cos(angle)[None]
    middle = 0.45 * front + 0.55 * back
    power = 2 / n
    x = width * np.sign(sine) * np.abs(sine) ** power
    depth = np.where(cosine > 0, front - middle, middle - back)
    z = middle + depth * np.sign(cosine) * np.abs(cosine) ** power
    return np.stack([x, np.broadcast_to(y, x.shape), z], -1).astype(np.float32)


def _face_relief(a: Reals, v: Reals, who: Person, taken: Shot) -> Reals:
    """What the features add to z over the plain head."""
    s = who.shape
    eye, mouth = eye_at(who), mouth_height(who)
    z = (0.13 + s["brow_ridge"]) * pair(a, v, 0.75, 0.58, 0.75, 0.26)
    z -= (0.42 + s["eye_depth"]) * pair(a, v, eye - 0.12, 0.03, 0.62, 0.42)
    z += 0.25 * pair(a, v, eye, 0.0, 0.37, 0.29)  # the eyeball
    z += (0.15 + s["cheekbone"]) * pair(a, v, 1.55, -0.75, 0.55, 0.42)
    z += (0.05 + s["cheek"]) * pair(a, v, 1.35, -1.55, 0.6, 0.6)
    smile = max(taken.smile, 0)
    z += 0.14 * smile * pair(a, v, 1.2, -1.0, 0.45, 0.34) - 0.05 * smile * pair(a, v, 0.85, -1.75, 0.16, 0.5)
    z -= 0.05 * pair(a, v, 0.8, -1.55, 0.2, 0.35)  # the fold from nose to mouth
    lip = 0.62 + 0.1 * smile
    z += 0.18 * bump(a, v, 0, mouth + 0.15, lip, 0.17) + 0.2 * bump(a, v, 0, mouth - 0.2, 0.85 * lip, 0.17)
    z -= 0.09 * bump(a, v, 0, mouth - 0.01, 0.7 * lip, 0.05)
    z -= 0.14 * bump(a, v, 0, mouth - 0.52, 0.5, 0.16)
    z += (0.2 + s["chin_out"]) * bump(a, v, 0, -2.98 - 0.5 * s["chin_length"], 0.5 + s["chin_width"], 0.3)
    z -= 0.04 * bump(a, v, 0, -1.62, 0.1, 0.2)  # the groove below the nose
    return np.asarray(z + _nose_relief(a, v, who))


def eye_at(who: Person) -> float:
    """How far (a) the middle of an eye lies from the middle of the face."""
    return 1 + who.shape["eye_apart"]


def nose_tip(who: Person) -> float:
    """The height v of the tip of the nose."""
    return -1.12 - who.shape["nose_length"]


def mouth_height(who: Person) -> float:
    """The height v of the mouth."""
    return -2.05 + who.shape["mouth_height"]


def mouth_half(who: Person, taken: Shot) -> float:
    """Half the width of the mouth in one photo: a smile widens it."""
    return 0.82 + who.shape["mouth_width"] + 0.17 * max(taken.smile, 0)


def _nose_relief(a: Reals, v: Reals, who: Person) -> Reals:
    s, tip = who.shape, nose_tip(who)
    wide = 1 + s["nose_width"]
    t = np.clip((0.3 - v) / (0.3 - tip), 0, 1)  # 0 at the root, 1 at the tip
    height = (0.12 + s["bridge"]) * step(t, 0, 0.2) + (0.62 + s["nose_out"] - s["bridge"]) * t**1.35
    height += s["hump"] * np.exp(-(((t - 0.42) / 0.2) ** 2))
    below = 1 - step(tip - v, -0.02, 0.34)
    ridge = height * below * np.exp(-((np.abs(a) / ((0.2 + 0.13 * t) * (0.7 + 0.3 * wide))) ** 2.4))
    ball = (0.2 + s["tip"]) * bump(a, v, 0, tip + 0.02, 0.27 * wide, 0.23)
    wings = 0.36 * pair(a, v, 0.34 * wide, tip - 0.1, 0.165 * wide, 0.18)
    return np.asarray(ridge + ball + wings)


def head(who: Person, taken: Shot) -> Head:
    """The head's mesh with the expression of one photo, upright and facing the camera."""
    a, v = _mesh_columns(), _mesh_rows()
    blunt = (2.35 - 0.4 * step(-v, 0.6, 2.6))[:, None].astype(np.float64)
    points = around(_shaped_section(v, who), a / WRAP, blunt)
    aa, vv = np.meshgrid(a, v)
    front = step(np.cos(aa / WRAP), 0.0, 0.5)
    points[..., 2] += _face_relief(aa, vv, who, taken) * front
    drop = 0.42 * taken.mouth * step(-vv, 2.0 - who.shape["mouth_height"], 2.5)
    points[..., 1] -= drop * front
    mouth = mouth_half(who, taken) - 0.05 * taken.mouth, mouth_height(who) + 0.17 * taken.smile
    return Head(points, a, v, (eye_at(who), 0.0), (0.0, nose_tip(who)), mouth)


def ear(who: Person, side: int) -> Reals:
    """One ear (side 1 is on the right of the picture): a bowl with a rim."""
    r, turn = np.linspace(0, 1, 12), np.linspace(0, 2 * np.pi, 36)
    rr, tt = np.meshgrid(r, turn, indexing="ij")
    size = 0.8 * (1 + who.shape["ear_size"])
    lobe = 1 - 0.22 * step(-np.sin(tt), 0.2, 1)
    along, up = 0.56 * size * rr * np.cos(tt) * lobe, size * rr * np.sin(tt)
    lift = 0.2 * step(rr, 0.35, 0.8) - 0.13 * step(rr, 0.86, 1) + 0.09 * np.exp(-(((rr - 0.45) / 0.12) ** 2))
    out = 0.32 + who.shape["ear_out"]  # radians from the side of the head
    forward = along * np.cos(out) - 0.1
    x = 2.2 * (1 + who.shape["face_width"]) + lift + (along * -1 + 0.35) * np.sin(out) * 0.9
    points = np.stack([side * x, up - 0.45, -0.2 + forward], -1)
    return points.astype(np.float32)


def neck(who: Person) -> Reals:
    """Neck and shoulders, from below the skull out to the edge of the picture."""
    y = np.array([-1.6, -2.4, -3.0, -3.6, -4.1, -4.5, -4.85, -5.15, -5.6, -6.6, -8.0])
    width = np.array([1.25, 1.24, 1.22, 1.26, 1.4, 1.8, 2.7, 3.8, 4.7, 5.2, 5.3]) * (1 + who.shape["neck"])
    front = np.array([0.6, 0.72, 0.74, 0.66, 0.6, 0.66, 0.85, 1.1, 1.4, 1.8, 2.0])
    back = np.array([-1.9, -1.8, -1.8, -1.85, -2.0, -2.15, -2.3, -2.4, -2.4, -2.4, -2.4])
    fine = np.linspace(-1.6, -8.0, 48)
    columns = [np.interp(-fine, -y, column) for column in (y, width, front, back)]
    return around(np.stack(columns, -1), np.linspace(-np.pi, np.pi, 72).astype(np.float32), 2.1)
