"""Meshes to pixels: a small z-buffer rasteriser over grids of vertices, in NumPy alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ffhqref.core.arrays import Int64
from ffhqref.demo.portrait.shape import Reals

FRAME = 512  # px, side of a portrait
BOXES = (4, 6, 9, 14, 24)  # px, sides of the boxes in which triangles are searched; larger ones singly


@dataclass(frozen=True)
class Mesh:
    """A grid of vertices on the picture.

    `points` is rows x columns x 3: px right, px down, depth towards the camera. `values` is rows x columns
    x n, carried to the pixels. Quads with a corner where `keep` is False everywhere are left out.
    """

    points: Reals
    values: Reals
    keep: npt.NDArray[np.bool_] | None = None
    both_sides: bool = False


@dataclass(frozen=True)
class Layer:
    """What a mesh shows: flat pixel indices, their depth and the values carried there."""

    pixel: Int64
    depth: Reals
    values: Reals  # pixels x n


def normals(points: Reals) -> Reals:
    """Unit normals of a grid of points in space (outwards where rows run down and columns to the right)."""
    down = np.gradient(points, axis=0)
    right = np.gradient(points, axis=1)
    n = np.cross(down, right)
    return np.asarray(n / (np.linalg.norm(n, axis=-1, keepdims=True) + 1e-9), np.float32)


def _triangles(mesh: Mesh) -> Int64:
    rows, columns = mesh.points.shape[:2]
    index = np.arange(rows * columns).reshape(rows, columns)
    corners = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    if mesh.keep is not None:
        corners = corners[mesh.keep.reshape(-1)[corners].any(1)]
    return np.concatenate([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]])


def _ends(x: Reals) -> tuple[Reals, Reals]:
    """The least and the greatest of three columns."""
    first, second, third = x.T
    return np.minimum(np.minimum(first, second), third), np.maximum(np.maximum(first, second), third)


def _double_area(x: Reals, y: Reals) -> Reals:
    """Twice the area of triangles (corners n x 3 each), negative where they face the camera."""
    return (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])


def _fragments(x: Reals, y: Reals, box: int) -> tuple[Int64, Int64, Reals]:
    """(triangle, pixel, barycentric weights) of all pixels inside triangles (n x 3 each) that fit the box."""
    left, top, area = np.ceil(_ends(x)[0]), np.ceil(_ends(y)[0]), _double_area(x, y)
    scale = 1 / np.where(np.abs(area) < 1e-6, 1e-6, area)
    dx, dy = np.tile(np.arange(box, dtype=np.float32), box), np.repeat(np.arange(box, dtype=np.float32), box)
    weights = []
    for i, j in ((1, 2), (2, 0)):  # the weight of a corner is 0 on the line through the other two
        across, along = (y[:, i] - y[:, j]) * scale, (x[:, j] - x[:, i]) * scale
        start = across * (left - x[:, j]) + along * (top - y[:, j])
        weights.append(start[:, None] + across[:, None] * dx + along[:, None] * dy)
    first, second = weights
    third = 1 - first - second
    inside = np.minimum(np.minimum(first, second), third) >= -1e-5
    triangle, offset = np.nonzero(inside)
    px, py = left[triangle] + dx[offset], top[triangle] + dy[offset]
    seen = (px >= 0) & (px < FRAME) & (py >= 0) & (py < FRAME)
    triangle, offset = triangle[seen], offset[seen]
    pixel = (py[seen] * FRAME + px[seen]).astype(np.int64)
    w = np.stack([part[triangle, offset] for part in (first, second, third)], -1)
    return triangle, pixel, w.astype(np.float32)


def rasterize(mesh: Mesh) -> Layer:
    """The pixels that the mesh covers, each from its nearest triangle."""
    points = mesh.points.reshape(-1, 3).astype(np.float32)
    triangles = _triangles(mesh)
    x, y = points[:, 0][triangles], points[:, 1][triangles]
    owners, pixels, weights = [], [], []
    for chosen, box in _by_box(x, y, mesh.both_sides):
        triangle, pixel, weight = _fragments(x[chosen], y[chosen], box)
        owners.append(chosen[triangle])
        pixels.append(pixel)
        weights.append(weight)
    if not owners:
        nothing = np.zeros((0, mesh.values.shape[-1]), np.float32)
        return Layer(np.zeros(0, np.int64), np.zeros(0, np.float32), nothing)
    return _nearest(mesh, triangles, np.concatenate(owners), np.concatenate(pixels), np.concatenate(weights))


def _by_box(x: Reals, y: Reals, both_sides: bool) -> Iterator[tuple[Int64, int]]:
    """Triangles on the picture that face the camera, by the side (px) of the box to search them in."""
    area, (left, right), (top, bottom) = _double_area(x, y), _ends(x), _ends(y)
    facing = np.abs(area) > 1e-4 if both_sides else area < -1e-4
    seen = facing & (right >= 0) & (left < FRAME) & (bottom >= 0) & (top < FRAME)
    extent = np.maximum(np.floor(right) - np.ceil(left), np.floor(bottom) - np.ceil(top)) + 1
    for smaller, box in pairwise((0, *BOXES)):
        chosen = np.nonzero(seen & (extent > smaller) & (extent <= box))[0]
        if len(chosen):
            yield chosen, box
    for one in np.nonzero(seen & (extent > BOXES[-1]))[0]:
        yield np.array([one]), int(extent[one])


def _nearest(mesh: Mesh, triangles: Int64, owner: Int64, pixel: Int64, weight: Reals) -> Layer:
    """Of the fragments at each pixel the nearest, and the mesh's values there."""
    height = mesh.points.reshape(-1, 3)[:, 2][triangles][owner]
    depth = (height * weight).sum(1).astype(np.float32)
    buffer = np.full(FRAME * FRAME, -np.inf, np.float32)
    np.maximum.at(buffer, pixel, depth)
    winners = np.full(FRAME * FRAME, -1, np.int64)
    best = np.nonzero(depth >= buffer[pixel])[0]
    winners[pixel[best]] = best
    chosen = winners[winners >= 0]
    values = mesh.values.reshape(-1, mesh.values.shape[-1])
    carried = np.einsum("nkc,nk->nc", values[triangles[owner[chosen]]], weight[chosen])
    return Layer(pixel[chosen], depth[chosen], carried.astype(np.float32))
