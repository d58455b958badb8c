"""Portraits drawn by program: (seed, person, photo) -> a 512x512 photograph of somebody who does not exist.

A face is a mesh with its features as relief and its skin as a painted picture (`shape`, `paint`,
`features`), turned and framed (`camera`), put on the picture (`raster`) and lit (`light`).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.images import Rgb
from ffhqref.demo.portrait import glasses, light
from ffhqref.demo.portrait import hair as wig
from ffhqref.demo.portrait.camera import Camera, Posed, posed, rotation, turned
from ffhqref.demo.portrait.features import beard_mask, paint
from ffhqref.demo.portrait.paint import SKIN_SCALE, at
from ffhqref.demo.portrait.raster import FRAME, Layer, Mesh, normals, rasterize
from ffhqref.demo.portrait.shape import Reals, ear, neck, step
from ffhqref.demo.portrait.traits import Person, Shot, person, shot

CLOTHES = (
    (0.16, 0.18, 0.25), (0.86, 0.85, 0.82), (0.45, 0.16, 0.18), (0.2, 0.33, 0.42), (0.62, 0.52, 0.40),
    (0.24, 0.34, 0.26), (0.12, 0.12, 0.13), (0.72, 0.47, 0.42), (0.45, 0.55, 0.66), (0.78, 0.66, 0.38),
    (0.42, 0.32, 0.46), (0.55, 0.55, 0.56),
)  # fmt: skip
SOFT_SKIN = np.array([0.42, 0.24, 0.17], np.float32)  # red light goes farthest under the skin


@dataclass(frozen=True)
class Portrait:
    """A drawn photograph, its five landmarks (px, that on the left of the picture first) and its person."""

    image: Rgb
    landmarks: Float64  # 5 x 2: eye, eye, nose tip, mouth corner, mouth corner
    person: Person
    shot: Shot


def render_portrait(seed: int, number: int, photo: int) -> Portrait:
    """Photo `photo` of person `number` of the population `seed`; the same bytes wherever it is rendered."""
    who, taken = person(seed, number), shot(seed, number, photo)
    view = posed(who, taken)
    rng = np.random.default_rng(taken.seed)
    scene = light.empty_scene()
    _add_head(scene, who, taken, view)
    for side in (-1, 1):
        _add_ear(scene, who, view.pose(ear(who, side)), view.camera)
    _add_body(scene, who, taken, view.camera, rng)
    image = _photograph(scene, who, taken, view, rng)
    return Portrait(image, view.landmarks, who, taken)


def _stacked(*values: Reals) -> Reals:
    """Values over a grid (rows x columns, or x n) side by side, as a mesh carries them to the pixels."""
    return np.concatenate([x if x.ndim == 3 else x[..., None] for x in values], -1).astype(np.float32)


def _add(scene: light.Scene, mesh: Mesh) -> tuple[Int64, Reals]:
    """Put a mesh, which carries normals first, in front of what is there; (pixels it won, the rest there)."""
    layer = rasterize(mesh)
    nearer = layer.depth > scene.depth[layer.pixel]
    pixel, values = layer.pixel[nearer], layer.values[nearer]
    scene.depth[pixel] = layer.depth[nearer]
    scene.normal[pixel] = values[:, :3]
    return pixel, values[:, 3:]


def _add_head(scene: light.Scene, who: Person, taken: Shot, view: Posed) -> None:
    points, (a, v) = view.pose(view.mesh.points), np.meshgrid(view.mesh.a, view.mesh.v)
    if who.beard == "full":
        points = points + 0.16 * beard_mask(who, a, v)[..., None] * normals(points)
    skin = paint(who, taken)
    pixel, got = _add(scene, Mesh(view.camera.project(points), _stacked(normals(points), a, v)))
    u, w = got[:, 0], got[:, 1]
    scene.color[pixel] = at(skin.color, u, w) ** 2
    scene.gloss[pixel] = np.clip(at(skin.gloss, u, w), 0, 1)
    rises = [cv2.Scharr(skin.relief, cv2.CV_32F, 1, 0), -cv2.Scharr(skin.relief, cv2.CV_32F, 0, 1)]
    slope = at(np.stack(rises, -1).astype(np.float32), u, w) * np.float32(SKIN_SCALE / 32)
    normal = scene.normal[pixel]
    sideways = np.stack([normal[:, 2], np.zeros_like(u), -normal[:, 0]], -1)
    upwards = np.cross(normal, sideways)
    scene.normal[pixel] = normal - slope[:, :1] * sideways - slope[:, 1:] * upwards


def _add_ear(scene: light.Scene, who: Person, points: Float64, camera: Camera) -> None:
    n = normals(points)
    n *= np.sign(n[..., 0].mean() * points[..., 0].mean())
    radius = np.broadcast_to(np.linspace(0, 1, points.shape[0])[:, None], points.shape[:2])
    pixel, got = _add(scene, Mesh(camera.project(points), _stacked(n, radius), both_sides=True))
    inner = 1 - 0.35 * np.exp(-(((got - 0.35) / 0.22) ** 2))
    skin = np.array(who.skin, np.float32) * np.array([1.0, 0.9, 0.88], np.float32)
    scene.color[pixel] = (skin * inner) ** 2
    scene.gloss[pixel] = 0.3


def _add_body(scene: light.Scene, who: Person, taken: Shot, camera: Camera, rng: np.random.Generator) -> None:
    plain = neck(who)
    with_head = turned(plain, rotation(taken.yaw, taken.pitch, taken.roll))
    with_body = turned(plain, rotation(0.3 * taken.yaw, 0.0, 0.1 * taken.roll))
    follow = step(-plain[..., 1], 2.2, 4.3)[..., None]
    points = with_head * (1 - follow) + with_body * follow
    pixel, got = _add(scene, Mesh(camera.project(points), _stacked(normals(points), plain)))
    x, y, z = got[:, 0], got[:, 1], got[:, 2]
    skin = np.array(who.skin, np.float32) * np.array([0.97, 0.94, 0.93], np.float32)
    collar = _collar(rng, x, z)
    inside = step(collar - y, 0.0, 0.05)
    cloth = _cloth(rng, x, y) * (1 - 0.3 * np.exp(-(((collar - y - 0.12) / 0.035) ** 2)))[:, None]
    scene.color[pixel] = (skin + inside[:, None] * (np.clip(cloth, 0, 1) - skin)) ** 2
    scene.gloss[pixel] = 0.25 * (1 - inside)


def _cloth(rng: np.random.Generator, x: Reals, y: Reals) -> Reals:
    """The colour of clothes at places, n x 3."""
    base = np.array(CLOTHES[int(rng.integers(len(CLOTHES)))]) + rng.normal(0, 0.03, 3)
    pitch, striped = float(rng.uniform(8, 26)), rng.random() < 0.3
    weave = 1 + 0.04 * np.sin(x * 55) * np.sin(y * 55) + (0.14 * striped) * np.sin(x * pitch)
    return np.asarray(base * weave[:, None], np.float32)


def _collar(rng: np.random.Generator, x: Reals, z: Reals) -> Reals:
    """The height y below which there is cloth."""
    kind = int(rng.integers(5))
    if kind == 0:
        return np.full_like(x, -3.35)  # turtleneck
    if kind == 1:
        return -4.05 - 0.9 * np.clip(1 - np.abs(x) / 0.9, 0, 1) * (z > 0)  # V
    if kind == 2:
        return -3.75 - 0.5 * np.clip(1 - np.abs(x) / 0.35, 0, 1) * (z > 0)  # shirt
    return np.full_like(x, -4.25)


def _photograph(scene: light.Scene, who: Person, taken: Shot, view: Posed, rng: np.random.Generator) -> Rgb:
    """Light the scene, lay the hair and the glasses over it, and take the picture."""
    hair = wig.grow(who, taken)
    if hair is not None and wig.hollow(who):
        _add_inside(scene, hair, who, view)
    worn = None if hair is None else _comb(hair, who, taken, view, scene.depth)
    depth = scene.depth if worn is None else worn.depth
    lit, open_ = light.shadows(depth, taken)
    picture = light.render(scene, taken, SOFT_SKIN, lit, open_)
    nothing = scene.depth < light.FAR / 2
    picture[nothing] = light.backdrop(rng).reshape(-1, 3)[nothing]
    if worn is not None:
        pixel = worn.layer.pixel
        shade = _hair_light(who, taken, worn.layer.values, worn.strand, lit[pixel], open_[pixel])
        picture[pixel] += worn.alpha[:, None] * (shade - picture[pixel])
    square, flat = picture.reshape(FRAME, FRAME, 3), depth.reshape(FRAME, FRAME)
    if who.glasses != "none":
        glasses.put_on(square, flat, view.camera.project(view.pose(glasses.rims(view.mesh, who))), who)
    bright = (0.62 / (np.array(who.skin) @ (0.3, 0.59, 0.11))) ** 0.35  # as a camera exposes for the face
    return light.develop(_smooth_edges(square * np.float32(bright), flat), taken, rng)


def _add_inside(scene: light.Scene, hair: wig.Hair, who: Person, view: Posed) -> None:
    """The inside of long hair, seen behind the neck."""
    points = view.pose(hair.points)
    back = np.abs(np.linspace(-np.pi, np.pi, points.shape[1])) > 1.5
    keep = np.broadcast_to(back, hair.depth.shape) & (hair.depth > 0.1)
    keep = keep & np.roll(keep, 1, 0) & np.roll(keep, -1, 0)
    carried = _stacked(-normals(points), hair.across)
    pixel, across = _add(scene, Mesh(view.camera.project(points), carried, keep, both_sides=True))
    tone = np.array(who.hair, np.float32) * (0.5 + 0.05 * np.sin(across * 40))
    scene.color[pixel] = tone**2
    scene.gloss[pixel] = 0


@dataclass(frozen=True)
class Worn:
    """Hair on the picture: its pixels, their strands and opacity, and the depth of everything with it."""

    layer: Layer
    strand: Reals
    alpha: Reals
    depth: Reals


def _comb(hair: wig.Hair, who: Person, taken: Shot, view: Posed, behind: Reals) -> Worn:
    points = view.pose(hair.points)
    carried = _stacked(normals(points), hair.across, hair.along, hair.depth)
    layer = rasterize(Mesh(view.camera.project(points), carried, hair.depth > -0.12))
    strand = wig.strands(who, taken, layer.values[:, 3], layer.values[:, 4])
    alpha = wig.opacity(layer.values[:, 5], strand) * (layer.depth > behind[layer.pixel] - 1)
    depth = behind.copy()
    solid = alpha > 0.5
    depth[layer.pixel[solid]] = np.maximum(depth[layer.pixel[solid]], layer.depth[solid])
    return Worn(layer, strand, alpha, depth)


def _hair_light(who: Person, taken: Shot, values: Reals, strand: Reals, lit: Reals, open_: Reals) -> Reals:
    normal = values[:, :3] / (np.linalg.norm(values[:, :3], axis=1, keepdims=True) + 1e-6)
    base = np.array(who.hair, np.float32) ** 2
    falls = light.irradiance(normal, lit, open_, taken, np.full(3, 0.3, np.float32))
    root = 0.55 + 0.45 * step(values[:, 5], 0.0, 0.5)
    tone = base * (np.clip(0.85 + 0.3 * strand, 0.25, 1.8) * root)[:, None]
    ring = np.exp(-(((normal[:, 1] - 0.45) / 0.16) ** 2)) * np.clip(0.55 + 0.6 * strand, 0, 2)
    gleam = (0.05 + 0.25 * base) * (ring * lit * np.clip(normal[:, 2] + 0.3, 0, 1))[:, None]
    return np.asarray(tone * falls + gleam * light.key_color(taken), np.float32)


def _smooth_edges(picture: Reals, depth: Reals) -> Reals:
    """Soften the steps where one surface ends in front of another."""
    jump = np.zeros(depth.shape, np.uint8)
    across, down = np.abs(np.diff(depth, axis=1)) > 9, np.abs(np.diff(depth, axis=0)) > 9
    jump[:, 1:] |= across
    jump[:, :-1] |= across
    jump[1:] |= down
    jump[:-1] |= down
    mask = cv2.GaussianBlur(jump.astype(np.float32), (0, 0), 0.8)[..., None]
    soft = cv2.GaussianBlur(picture, (0, 0), 1.1)
    return np.asarray(picture + np.clip(mask * 1.4, 0, 1) * (soft - picture), np.float32)
