"""How a drawn head is turned, and where its points are on the picture: a camera in front, FFHQ's frame.

The five landmarks are points of the head's mesh, so they are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ffhqref.core.arrays import Float64
from ffhqref.demo.portrait.raster import FRAME
from ffhqref.demo.portrait.shape import Head, Reals, head
from ffhqref.demo.portrait.traits import Person, Shot, person, shot

CAMERA_DISTANCE = 26.0  # units from the camera to the face: about 80 cm
PIVOT = np.array([0.0, -2.3, -0.7])  # where the head turns on the neck

Pose = Callable[[Reals], Float64]  # points of the upright head -> of the turned one


@dataclass(frozen=True)
class Camera:
    """Points in space to px: perspective, then the frame's similarity (2 x 3)."""

    frame: Float64

    def project(self, points: Reals) -> Reals:
        """x, y in px and the depth in px towards the camera, of points (... x 3)."""
        flat = perspective(points)
        scale = np.hypot(self.frame[0, 0], self.frame[0, 1])
        x = flat[..., 0] * self.frame[0, 0] + flat[..., 1] * self.frame[0, 1] + self.frame[0, 2]
        y = flat[..., 0] * self.frame[1, 0] + flat[..., 1] * self.frame[1, 1] + self.frame[1, 2]
        return np.stack([x, y, points[..., 2] * scale], -1).astype(np.float32)


def perspective(points: Reals) -> Float64:
    """x and y (down) of points in space as a camera at CAMERA_DISTANCE sees them."""
    grow = CAMERA_DISTANCE / (CAMERA_DISTANCE - points[..., 2])
    return np.stack([points[..., 0] * grow, -points[..., 1] * grow], -1).astype(np.float64)


def rotation(yaw: float, pitch: float, roll: float) -> Float64:
    """The matrix that turns a head: to the right of the picture, up, clockwise (radians)."""
    (cy, sy), (cp, sp), (cr, sr) = ((np.cos(angle), np.sin(angle)) for angle in (yaw, pitch, roll))
    around_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    around_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    around_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return np.asarray(around_y @ around_x @ around_z)


def turned(points: Reals, by: Float64) -> Float64:
    """Points of the upright head after it turned on the neck."""
    return np.asarray((points - PIVOT) @ by.T + PIVOT)


def ffhq_frame(marks: Float64, taken: Shot) -> Float64:
    """The similarity (2 x 3) that brings FFHQ's square around these landmarks to the picture.

    FFHQ's rule (Karras et al. 2019, section A; see `faces.geometry.ffhq_matrix`), with the tilt, the zoom
    and the shift of a photographer who is not exact.
    """
    eyes, mouth = marks[:2].mean(0), marks[3:].mean(0)
    between, down = marks[1] - marks[0], mouth - eyes
    x = between + np.array([down[1], -down[0]])
    x *= max(np.hypot(*between) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    centre = eyes + down * 0.1
    angle = np.arctan2(x[1], x[0]) + taken.tilt
    scale = FRAME / 2 / np.hypot(*x) * taken.zoom
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    matrix = np.array([[c, s], [-s, c]])
    offset = np.array([FRAME / 2, FRAME / 2]) + taken.shift - matrix @ centre
    return np.hstack([matrix, offset[:, None]])


@dataclass(frozen=True)
class Posed:
    """A head before the camera: its upright mesh, how it is turned, the camera that frames it."""

    mesh: Head
    pose: Pose
    camera: Camera
    landmarks: Float64  # 5 x 2 px: eye, eye, nose tip, mouth corner, mouth corner


def posed(who: Person, taken: Shot) -> Posed:
    """The head of one photo."""
    mesh = head(who, taken)
    pose = partial(turned, by=rotation(taken.yaw, taken.pitch, taken.roll))
    marks = pose(mesh.landmarks())
    camera = Camera(ffhq_frame(perspective(marks), taken))
    return Posed(mesh, pose, camera, camera.project(marks)[:, :2].astype(np.float64))


def landmarks_of(seed: int, number: int, photo: int) -> Float64:
    """The landmarks of a photo (5 x 2 px) without rendering it."""
    return posed(person(seed, number), shot(seed, number, photo)).landmarks
