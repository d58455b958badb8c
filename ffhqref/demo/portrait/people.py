"""Portraits drawn by program: (seed, person, photo) -> a 512x512 photograph of somebody who does not exist.

A face is a mesh with its features as relief and its skin as a painted picture (`shape`, `paint`,
`features`), turned, lit and photographed (`raster`, `light`). The five landmarks are points of that mesh,
so they are exact. The frame is FFHQ's: Karras et al. 2019, section A (the crop from eyes and mouth).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.core.images import Rgb
from ffhqref.demo.portrait import glasses, light
from ffhqref.demo.portrait import hair as cut
from ffhqref.demo.portrait.features import beard_mask, paint
from ffhqref.demo.portrait.paint import SCALE, SPAN
from ffhqref.demo.portrait.raster import SIZE, Layer, Mesh, draw, normals
from ffhqref.demo.portrait.shape import Floats, Head, ear, head, neck, step
from ffhqref.demo.portrait.traits import Person, Shot, person, shot

DISTANCE = 26.0  # units from the camera to the face: about 80 cm
PIVOT = np.array([0.0, -2.3, -0.7])  # where the head turns on the neck
CLOTHES = (
    (0.16, 0.18, 0.25), (0.86, 0.85, 0.82), (0.45, 0.16, 0.18), (0.2, 0.33, 0.42), (0.62, 0.52, 0.40),
    (0.24, 0.34, 0.26), (0.12, 0.12, 0.13), (0.72, 0.47, 0.42), (0.45, 0.55, 0.66), (0.78, 0.66, 0.38),
    (0.42, 0.32, 0.46), (0.55, 0.55, 0.56),
)  # fmt: skip
SOFT_SKIN = np.array([0.42, 0.24, 0.17], np.float32)  # red light goes farthest under the skin

Real = npt.NDArray[np.float64]
Pose = Callable[[npt.NDArray[Any]], Real]


@dataclass(frozen=True)
class Portrait:
    """A drawn photograph, its five landmarks (px, that on the left of the picture first) and its person."""

    image: Rgb
    landmarks: Real  # 5 x 2: eye, eye, nose tip, mouth corner, mouth corner
    person: Person
    shot: Shot


@dataclass(frozen=True)
class Camera:
    """Points in space to px: perspective, then the frame's similarity (2 x 3)."""

    frame: Real

    def see(self, points: Floats | Real) -> Floats:
        """x, y in px and the depth in px towards the camera, of points (... x 3)."""
        flat = perspective(points)
        scale = np.hypot(self.frame[0, 0], self.frame[0, 1])
        x = flat[..., 0] * self.frame[0, 0] + flat[..., 1] * self.frame[0, 1] + self.frame[0, 2]
        y = flat[..., 0] * self.frame[1, 0] + flat[..., 1] * self.frame[1, 1] + self.frame[1, 2]
        return np.stack([x, y, points[..., 2] * scale], -1).astype(np.float32)


def _turned(points: Floats | Real, by: Real) -> Real:
    """Points of the upright head after it turned on the neck."""
    return np.asarray((points - PIVOT) @ by.T + PIVOT)


def perspective(points: Floats | Real) -> Real:
    """x and y (down) of points in space as a camera at DISTANCE sees them."""
    grow = DISTANCE / (DISTANCE - points[..., 2])
    return np.stack([points[..., 0] * grow, -points[..., 1] * grow], -1).astype(np.float64)


def turn(yaw: float, pitch: float, roll: float) -> Real:
    """The rotation of a head: to the right of the picture, up, clockwise."""
    cy, sy, cp, sp, cr, sr = (
        np.cos(yaw),
        np.sin(yaw),
        np.cos(pitch),
        np.sin(pitch),
        np.cos(roll),
        np.sin(roll),
    )
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(around_y @ around_x @ around_z)


def ffhq_frame(marks: Real, taken: Shot) -> Real:
    """The similarity (2 x 3) that brings FFHQ's square around these landmarks to the picture."""
    eyes, mouth = marks[:2].mean(0), marks[3:].mean(0)
    between, down = marks[1] - marks[0], mouth - eyes
    x = between + np.array([down[1], -down[0]])
    x *= max(np.hypot(*between) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    centre = eyes + down * 0.1
    angle = np.arctan2(x[1], x[0]) + taken.tilt
    scale = SIZE / 2 / np.hypot(*x) * taken.zoom
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    turned = np.array([[c, s], [-s, c]])
    offset = np.array([SIZE / 2, SIZE / 2]) + taken.shift - turned @ centre
    return np.hstack([turned, offset[:, None]])


def _posed(who: Person, taken: Shot) -> tuple[Head, Pose, Real, Camera]:
    """The head, how it is turned, its landmarks in space (5 x 3), and the camera that frames them."""
    mesh = head(who, taken)
    pose = partial(_turned, by=turn(taken.yaw, taken.pitch, taken.roll))
    marks = pose(mesh.landmarks())
    return mesh, pose, marks, Camera(ffhq_frame(perspective(marks), taken))


def landmarks_of(seed: int, number: int, photo: int) -> Real:
    """The landmarks of a photo (5 x 2 px) without drawing it."""
    _, _, marks, camera = _posed(person(seed, number), shot(seed, number, photo))
    return camera.see(marks)[:, :2].astype(np.float64)


def draw_portrait(seed: int, number: int, photo: int) -> Portrait:
    """Photo number `photo` of person `number` in the world `seed`; the same bytes wherever it is drawn."""
    who, taken = person(seed, number), shot(seed, number, photo)
    mesh, pose, marks, camera = _posed(who, taken)
    rng = np.random.default_rng(taken.seed)
    scene = light.empty()
    _add_head(scene, who, taken, pose(mesh.points), (mesh.a, mesh.v), camera)
    for side in (-1, 1):
        _add_ear(scene, who, pose(ear(who, side)), camera)
    _add_body(scene, who, taken, camera, rng)
    image = _photograph(scene, who, taken, pose, camera, glasses.rims(mesh, who), rng)
    return Portrait(image, camera.see(marks)[:, :2].astype(np.float64), who, taken)


def _add(scene: light.Scene, mesh: Mesh) -> tuple[npt.NDArray[np.int64], Floats]:
    """Draw a mesh in front of what is there; (pixels it won, values there)."""
    layer = draw(mesh)
    nearer = layer.depth > scene.depth[layer.pixel]
    pixel, values = layer.pixel[nearer], layer.values[nearer]
    scene.depth[pixel] = layer.depth[nearer]
    scene.normal[pixel] = values[:, :3]
    return pixel, values


def _look_up(picture: Floats, a: Floats, v: Floats) -> Floats:
    """A picture over (a, v) at places, bilinear; n or n x channels."""
    x, y = (a + SPAN) * SCALE - 0.5, (SPAN - v) * SCALE - 0.5
    found = [
        cv2.remap(picture, x[i : i + 30000, None], y[i : i + 30000, None], cv2.INTER_LINEAR,
                  borderMode=cv2.BORDER_REPLICATE)[:, 0]
        for i in range(0, len(x), 30000)  # OpenCV's remap takes at most 32767 rows
    ]  # fmt: skip
    return np.concatenate(found) if found else np.zeros((0, *picture.shape[2:]), np.float32)


def _add_head(scene: light.Scene, who: Person, taken: Shot, points: Real, over: tuple[Floats, Floats],
              camera: Camera) -> None:  # fmt: skip
    a, v = np.meshgrid(*over)
    if who.beard == "full":
        points = points + 0.16 * beard_mask(who, a, v)[..., None] * normals(points)
    values = np.concatenate([normals(points), a[..., None], v[..., None]], -1)
    skin = paint(who, taken)
    pixel, got = _add(scene, Mesh(camera.see(points), values.astype(np.float32)))
    u, w = got[:, 3], got[:, 4]
    scene.color[pixel] = _look_up(skin.color, u, w) ** 2
    scene.gloss[pixel] = np.clip(_look_up(skin.gloss, u, w), 0, 1)
    rises = [cv2.Scharr(skin.relief, cv2.CV_32F, 1, 0), -cv2.Scharr(skin.relief, cv2.CV_32F, 0, 1)]
    slope = _look_up(np.stack(rises, -1).astype(np.float32), u, w) * np.float32(SCALE / 32)
    normal = scene.normal[pixel]
    sideways = np.stack([normal[:, 2], np.zeros_like(u), -normal[:, 0]], -1)
    upwards = np.cross(normal, sideways)
    scene.normal[pixel] = normal - slope[:, :1] * sideways - slope[:, 1:] * upwards


def _add_ear(scene: light.Scene, who: Person, points: Real, camera: Camera) -> None:
    n = normals(points)
    n *= np.sign(n[..., 0].mean() * points[..., 0].mean())
    radius = np.broadcast_to(np.linspace(0, 1, points.shape[0])[:, None, None], (*points.shape[:2], 1))
    mesh = Mesh(camera.see(points), np.concatenate([n, radius], -1).astype(np.float32), both_sides=True)
    pixel, got = _add(scene, mesh)
    inner = 1 - 0.35 * np.exp(-(((got[:, 3:] - 0.35) / 0.22) ** 2))
    scene.color[pixel] = (
        np.array(who.skin, np.float32) * np.array([1.0, 0.9, 0.88], np.float32) * inner
    ) ** 2
    scene.gloss[pixel] = 0.3


def _add_body(scene: light.Scene, who: Person, taken: Shot, camera: Camera, rng: np.random.Generator) -> None:
    plain = neck(who)
    turned = turn(taken.yaw, taken.pitch, taken.roll)
    below = turn(0.3 * taken.yaw, 0.0, 0.1 * taken.roll)
    with_head, with_body = ((plain - PIVOT) @ m.T + PIVOT for m in (turned, below))
    follow = step(-plain[..., 1], 2.2, 4.3)[..., None]
    points = with_head * (1 - follow) + with_body * follow
    values = np.concatenate([normals(points), plain], -1).astype(np.float32)
    pixel, got = _add(scene, Mesh(camera.see(points), values))
    x, y, z = got[:, 3], got[:, 4], got[:, 5]
    skin = np.array(who.skin, np.float32) * np.array([0.97, 0.94, 0.93], np.float32)
    collar = _collar(rng, x, z)
    inside = step(collar - y, 0.0, 0.05)
    cloth = _cloth(rng, x, y) * (1 - 0.3 * np.exp(-(((collar - y - 0.12) / 0.035) ** 2)))[:, None]
    scene.color[pixel] = (skin + inside[:, None] * (np.clip(cloth, 0, 1) - skin)) ** 2
    scene.gloss[pixel] = 0.25 * (1 - inside)


def _cloth(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """The colour of clothes at places, n x 3."""
    base = np.array(CLOTHES[int(rng.integers(len(CLOTHES)))]) + rng.normal(0, 0.03, 3)
    pitch, striped = float(rng.uniform(8, 26)), rng.random() < 0.3
    weave = 1 + 0.04 * np.sin(x * 55) * np.sin(y * 55) + (0.14 * striped) * np.sin(x * pitch)
    return np.asarray(base * weave[:, None], np.float32)


def _collar(rng: np.random.Generator, x: Floats, z: Floats) -> Floats:
    """The height y below which there is cloth."""
    kind = int(rng.integers(5))
    if kind == 0:
        return np.full_like(x, -3.35)  # turtleneck
    if kind == 1:
        return -4.05 - 0.9 * np.clip(1 - np.abs(x) / 0.9, 0, 1) * (z > 0)  # V
    if kind == 2:
        return -3.75 - 0.5 * np.clip(1 - np.abs(x) / 0.35, 0, 1) * (z > 0)  # shirt
    return np.full_like(x, -4.25)


def _photograph(scene: light.Scene, who: Person, taken: Shot, pose: Pose, camera: Camera, rims: Floats,
                rng: np.random.Generator) -> Rgb:  # fmt: skip
    """Light the scene, lay the hair and the glasses over it, and take the picture."""
    hair = cut.grow(who, taken)
    if hair is not None and cut.hollow(who):
        _add_inside(scene, hair, who, pose, camera)
    worn = None if hair is None else _comb(hair, who, taken, pose, camera, scene.depth)
    depth = scene.depth if worn is None else worn.depth
    lit, open_ = light.shadows(depth, taken)
    picture = light.render(scene, taken, SOFT_SKIN, lit, open_)
    nothing = scene.depth < light.FAR / 2
    picture[nothing] = light.backdrop(rng, taken).reshape(-1, 3)[nothing]
    if worn is not None:
        pixel = worn.layer.pixel
        shade = _hair_light(who, taken, worn.layer.values, worn.strand, lit[pixel], open_[pixel])
        picture[pixel] += worn.alpha[:, None] * (shade - picture[pixel])
    square = picture.reshape(SIZE, SIZE, 3)
    if who.glasses != "none":
        glasses.put_on(square, depth.reshape(SIZE, SIZE), camera.see(pose(rims)), who)
    bright = (0.62 / (np.array(who.skin) @ (0.3, 0.59, 0.11))) ** 0.35  # as a camera exposes for the face
    return light.develop(_smooth_edges(square * np.float32(bright), depth), taken, rng)


def _add_inside(scene: light.Scene, hair: cut.Hair, who: Person, pose: Pose, camera: Camera) -> None:
    """The inside of long hair, seen behind the neck."""
    points = pose(hair.points)
    back = np.abs(np.linspace(-np.pi, np.pi, points.shape[1])) > 1.5
    keep = np.broadcast_to(back, hair.depth.shape) & (hair.depth > 0.1)
    keep = keep & np.roll(keep, 1, 0) & np.roll(keep, -1, 0)
    values = np.concatenate([-normals(points), hair.across[..., None]], -1).astype(np.float32)
    pixel, got = _add(scene, Mesh(camera.see(points), values, keep, both_sides=True))
    tone = np.array(who.hair, np.float32) * (0.5 + 0.05 * np.sin(got[:, 3:] * 40))
    scene.color[pixel] = tone**2
    scene.gloss[pixel] = 0


@dataclass(frozen=True)
class Worn:
    """Hair on the picture: its pixels, their strands and opacity, and the depth of everything with it."""

    layer: Layer
    strand: Floats
    alpha: Floats
    depth: Floats


def _comb(hair: cut.Hair, who: Person, taken: Shot, pose: Pose, camera: Camera, behind: Floats) -> Worn:
    points = pose(hair.points)
    values = np.concatenate(
        [normals(points), *(c[..., None] for c in (hair.across, hair.along, hair.depth))], -1
    )
    layer = draw(Mesh(camera.see(points), values.astype(np.float32), hair.depth > -0.12))
    strand = cut.strands(who, taken, layer.values[:, 3], layer.values[:, 4])
    alpha = cut.opacity(layer.values[:, 5], strand) * (layer.depth > behind[layer.pixel] - 1)
    depth = behind.copy()
    solid = alpha > 0.5
    depth[layer.pixel[solid]] = np.maximum(depth[layer.pixel[solid]], layer.depth[solid])
    return Worn(layer, strand, alpha, depth)


def _hair_light(
    who: Person, taken: Shot, values: Floats, strand: Floats, lit: Floats, open_: Floats
) -> Floats:
    normal = values[:, :3] / (np.linalg.norm(values[:, :3], axis=1, keepdims=True) + 1e-6)
    base = np.array(who.hair, np.float32) ** 2
    falls = light.irradiance(normal, lit, open_, taken, np.full(3, 0.3, np.float32))
    root = 0.55 + 0.45 * step(values[:, 5], 0.0, 0.5)
    tone = base * (np.clip(0.85 + 0.3 * strand, 0.25, 1.8) * root)[:, None]
    ring = np.exp(-(((normal[:, 1] - 0.45) / 0.16) ** 2)) * np.clip(0.55 + 0.6 * strand, 0, 2)
    gleam = (0.05 + 0.25 * base) * (ring * lit * np.clip(normal[:, 2] + 0.3, 0, 1))[:, None]
    return np.asarray(tone * falls + gleam * light.key_color(taken), np.float32)


def _smooth_edges(picture: Floats, depth: Floats) -> Floats:
    """Soften the steps where one surface ends in front of another."""
    flat = depth.reshape(SIZE, SIZE)
    jump = np.zeros((SIZE, SIZE), np.uint8)
    across, down = np.abs(np.diff(flat, axis=1)) > 9, np.abs(np.diff(flat, axis=0)) > 9
    jump[:, 1:] |= across
    jump[:, :-1] |= across
    jump[1:] |= down
    jump[:-1] |= down
    mask = cv2.GaussianBlur(jump.astype(np.float32), (0, 0), 0.8)[..., None]
    return np.asarray(
        picture + np.clip(mask * 1.4, 0, 1) * (cv2.GaussianBlur(picture, (0, 0), 1.1) - picture), np.float32
    )
