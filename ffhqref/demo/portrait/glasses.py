"""Glasses: rims, bridge and arms as lines in space, drawn where nothing is in front of them."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.demo.portrait.shape import Floats, Head
from ffhqref.demo.portrait.traits import Person, generator

RIM = 48  # points of one rim
ARM = 24  # points of one arm
BRIDGE = 9


def rims(mesh: Head, who: Person) -> Floats:
    """Both rims, the bridge and both arms, one after another: points in space, n x 3."""
    turn = np.linspace(0, 2 * np.pi, RIM)
    round_ = who.glasses == "round"
    power = 1.0 if round_ else 0.55
    wide, high = (0.66, 0.6) if round_ else (0.74, 0.5)
    x = wide * np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** power
    y = high * np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** power - 0.1
    eye = max(mesh.eye[0], wide + 0.13)
    front = float(max(mesh.at(0.0, -0.05)[2] - 0.02, mesh.at(mesh.eye[0], -0.05)[2] + 0.3))

    def at(x: Floats, y: Floats) -> Floats:
        return np.stack([x, y, front - 0.07 * x * x], -1)

    right = at(eye + x, y)
    t = np.linspace(-1, 1, BRIDGE)
    bridge = at((eye - wide) * t, 0.12 - 0.1 * t * t)
    ear = np.array([float(mesh.at(3.4, 0.1)[0]) + 0.06, 0.12, -0.2])
    hinge = np.array([eye + wide, 0.12, front - 0.07 * (eye + wide) ** 2])
    arm = hinge + np.linspace(0, 1, ARM)[:, None] * (ear - hinge)
    mirror = np.array([-1.0, 1.0, 1.0])
    return np.concatenate([right, right * mirror, bridge, arm, arm * mirror]).astype(np.float32)


def put_on(picture: Floats, depth: Floats, seen: Floats, who: Person) -> None:
    """Draw the points of `rims` as the camera sees them (px, px, depth) on the linear picture, in place."""
    rng = generator(who.seed, f"person {who.number}", "glasses")
    tones = (
        (0.01, 0.01, 0.012),
        (0.10, 0.045, 0.02),
        (0.25, 0.2, 0.12),
        (0.03, 0.04, 0.09),
        (0.16, 0.02, 0.025),
    )
    tone = np.array(tones[int(rng.integers(len(tones)))], np.float32)
    thick = int(rng.integers(4, 8))
    for start in (0, RIM):
        lens = np.round(seen[start : start + RIM, :2] * 16).astype(np.int32)
        mask = np.zeros(depth.shape, np.uint8)
        cv2.fillPoly(mask, [lens], 255, cv2.LINE_AA, 4)
        glass = (mask.astype(np.float32) / 255)[..., None]
        ramp = np.clip((np.indices(depth.shape).sum(0) - lens.mean(0).sum() / 16) / -60, 0, 1)[..., None]
        picture += glass * np.float32(0.03) * (0.5 + 1.5 * ramp.astype(np.float32)) - 0.05 * glass * picture
    mask = np.zeros(depth.shape, np.uint8)
    start = 0
    for length, width in ((RIM, thick), (RIM, thick), (BRIDGE, thick), (ARM, thick - 1), (ARM, thick - 1)):
        _line(mask, depth, seen[start : start + length], width)
        start += length
    frame = (mask.astype(np.float32) / 255)[..., None]
    edge = np.clip(
        cv2.GaussianBlur(frame, (0, 0), 1.5) - np.roll(cv2.GaussianBlur(frame, (0, 0), 1.5), 2, 0), 0, 1
    )
    picture += frame * (tone + 0.35 * edge[..., None] - picture)


def _line(mask: npt.NDArray[np.uint8], depth: Floats, seen: Floats, width: int) -> None:
    middle = (seen[1:] + seen[:-1]) / 2
    x, y = (np.clip(middle[:, k].astype(int), 0, depth.shape[0] - 1) for k in (0, 1))
    shown = middle[:, 2] > depth[y, x] - 6
    ends = np.round(seen[:, :2] * 16).astype(np.int32)
    for i in np.nonzero(shown)[0]:
        cv2.line(mask, tuple(map(int, ends[i])), tuple(map(int, ends[i + 1])), 255, width, cv2.LINE_AA, 4)
