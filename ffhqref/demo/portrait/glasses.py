"""Glasses: rims, bridge and arms as lines in space, drawn where nothing is in front of them."""

from __future__ import annotations

import cv2
import numpy as np

from ffhqref.core.arrays import UInt8
from ffhqref.demo.portrait.shape import Head, Reals
from ffhqref.demo.portrait.traits import Person

RIM, BRIDGE, ARM = 48, 9, 24  # points of one rim, of the bridge, of one arm
FRAMES = (
    (0.01, 0.01, 0.012), (0.10, 0.045, 0.02), (0.25, 0.2, 0.12), (0.03, 0.04, 0.09), (0.16, 0.02, 0.025),
)  # fmt: skip


def rims(mesh: Head, who: Person) -> Reals:
    """Both rims, the bridge and both arms, one after another: points in space, n x 3."""
    turn = np.linspace(0, 2 * np.pi, RIM)
    round_ = who.glasses == "round"
    power = 1.0 if round_ else 0.55
    wide, high = (0.66, 0.6) if round_ else (0.74, 0.5)
    x = wide * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
    y = high * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power - 0.1
    eye = max(mesh.eye[0], wide + 0.13)
    front = float(max(mesh.at(0.0, -0.05)[2] - 0.02, mesh.at(mesh.eye[0], -0.05)[2] + 0.3))

    def at(x: Reals, y: Reals) -> Reals:
        return np.stack([x, y, front - 0.07 * x * x], -1)

    right = at(eye + x, y)
    t = np.linspace(-1, 1, BRIDGE)
    bridge = at((eye - wide) * t, 0.12 - 0.1 * t * t)
    ear = np.array([float(mesh.at(3.4, 0.1)[0]) + 0.06, 0.12, -0.2])
    hinge = np.array([eye + wide, 0.12, front - 0.07 * (eye + wide) ** 2])
    arm = hinge + np.linspace(0, 1, ARM)[:, None] * (ear - hinge)
    mirror = np.array([-1.0, 1.0, 1.0])
    return np.concatenate([right, right * mirror, bridge, arm, arm * mirror]).astype(np.float32)


def put_on(picture: Reals, depth: Reals, seen: Reals, who: Person) -> None:
    """Draw the points of `rims` as the camera sees them (px, px, depth) on the linear picture, in place."""
    rng = who.generator("glasses")
    tone = np.array(FRAMES[int(rng.integers(len(FRAMES)))], np.float32)
    thick = int(rng.integers(4, 8))
    parts = np.split(seen, np.cumsum((RIM, RIM, BRIDGE, ARM)))
    for rim in parts[:2]:
        lens = np.round(rim[:, :2] * 16).astype(np.int32)
        mask = np.zeros(depth.shape, np.uint8)
        cv2.fillPoly(mask, [lens], 255, cv2.LINE_AA, 4)
        glass = (mask.astype(np.float32) / 255)[..., None]
        ramp = np.clip((np.indices(depth.shape).sum(0) - lens.mean(0).sum() / 16) / -60, 0, 1)[..., None]
        picture += glass * np.float32(0.03) * (0.5 + 1.5 * ramp.astype(np.float32)) - 0.05 * glass * picture
    mask = np.zeros(depth.shape, np.uint8)
    for part, width in zip(parts, (thick, thick, thick, thick - 1, thick - 1), strict=True):
        _draw_line(mask, depth, part, width)
    frame = (mask.astype(np.float32) / 255)[..., None]
    soft = cv2.GaussianBlur(frame, (0, 0), 1.5)
    edge = np.clip(soft - np.roll(soft, 2, 0), 0, 1)
    picture += frame * (tone + 0.35 * edge[..., None] - picture)


def _draw_line(mask: UInt8, depth: Reals, seen: Reals, width: int) -> None:
    """The pieces of a line that nothing is in front of."""
    middle = (seen[1:] + seen[:-1]) / 2
    x, y = (np.clip(middle[:, k].astype(int), 0, depth.shape[0] - 1) for k in (0, 1))
    shown = middle[:, 2] > depth[y, x] - 6
    ends = np.round(seen[:, :2] * 16).astype(np.int32)
    for i in np.nonzero(shown)[0]:
        cv2.line(mask, tuple(map(int, ends[i])), tuple(map(int, ends[i + 1])), 255, width, cv2.LINE_AA, 4)
