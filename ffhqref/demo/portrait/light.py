"""Light on a drawn scene: shading in linear light, cast shadows, backdrops, and the camera's own marks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, UInt8
from ffhqref.demo.portrait.raster import FRAME
from ffhqref.demo.portrait.shape import Reals, step
from ffhqref.demo.portrait.traits import Shot

FAR = np.float32(-1e6)  # depth where nothing is


@dataclass
class Scene:
    """What the camera sees at FRAME * FRAME pixels: surface colour (linear), normal, gloss, depth (px)."""

    color: Reals
    normal: Reals
    gloss: Reals
    depth: Reals


def empty_scene() -> Scene:
    """A scene with nothing in it."""
    n = FRAME * FRAME
    return Scene(np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32), np.zeros(n, np.float32),
                 np.full(n, FAR, np.float32))  # fmt: skip


def key_color(taken: Shot) -> Reals:
    """Linear RGB of the key light."""
    w = taken.warmth
    return np.array([1 + 0.13 * w, 1.0, 1 - 0.2 * w], np.float32)


def irradiance(normal: Reals, shade: Reals, occlusion: Reals, taken: Shot, soft: Reals) -> Reals:
    """Light that falls on surfaces, n x 3. `soft` is how far light wraps around, per channel."""
    key = np.array(taken.light, np.float32)
    toward = (normal @ key)[:, None]
    direct = np.clip((toward + soft) / (1 + soft), 0, 1) ** 1.15 * shade[:, None]
    up = 0.5 + 0.5 * normal[:, 1:2]
    sky = key_color(taken)[::-1] * 0.5 + 0.5
    ambient = sky * (0.55 + 0.45 * up) * occlusion[:, None]
    fill = np.clip(normal[:, 2:3] * 0.8 - 0.25 * toward, 0, 1) * 0.22 * occlusion[:, None]
    strength, weak = 0.75 + 0.75 * taken.contrast, 0.72 - 0.42 * taken.contrast
    return np.asarray(strength * key_color(taken) * direct + weak * ambient + fill, np.float32)


def _shine(normal: Reals, power: float, taken: Shot) -> Reals:
    """Blinn-Phong highlight of the key light, n."""
    half = np.array(taken.light, np.float32) + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    return np.asarray(np.clip(normal @ half, 0, 1) ** power, np.float32)


def shadows(depth: Reals, taken: Shot) -> tuple[Reals, Reals]:
    """(how much key light arrives, how much ambient light), each FRAME * FRAME, from the depth alone."""
    half = FRAME // 2
    small = depth.reshape(FRAME, FRAME)[::2, ::2]
    x, y, z = taken.light
    blocked = np.zeros((half, half), np.bool_)
    for k in np.geomspace(3, 95, 11):
        move = np.array([[1, 0, -k * x / 2], [0, 1, k * y / 2]], np.float64)
        there = cv2.warpAffine(small, move, (half, half), flags=cv2.INTER_NEAREST, borderValue=float(FAR))
        over = there - (small + k * z)
        blocked |= (over > 2 + 0.06 * k) & (over < 120)
    soft = cv2.GaussianBlur(blocked.astype(np.float32), (0, 0), 3.2)
    light = _widened(1 - 0.85 * soft, FRAME).reshape(-1)
    seen = np.where(small > FAR / 2, small, small[small > FAR / 2].min())
    coarse = _widened(cv2.GaussianBlur(seen[::4, ::4], (0, 0), 3.0), half)
    near = np.clip((cv2.GaussianBlur(seen, (0, 0), 4) - seen) / 6.8, 0, 0.9)
    hollow = near + np.clip((coarse - seen) / 20.4, 0, 0.9)
    open_ = _widened(np.clip(1 - 0.55 * hollow, 0.25, 1), FRAME).reshape(-1)
    return np.asarray(light, np.float32), np.asarray(open_, np.float32)


def _widened(picture: cv2.typing.MatLike, side: int) -> Float32:
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def render(scene: Scene, taken: Shot, wrap: Reals, light: Reals, open_: Reals) -> Reals:
    """Radiance of every pixel of the scene, FRAME * FRAME x 3, linear."""
    seen = np.nonzero(scene.depth > FAR / 2)[0]
    normal = scene.normal[seen]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-6
    falls = irradiance(normal, light[seen], open_[seen], taken, wrap)
    glance = (1 - np.clip(normal[:, 2], 0, 1)) ** 4
    highlights = 0.15 * _shine(normal, 22, taken) + 0.11 * _shine(normal, 70, taken)
    spark = scene.gloss[seen] * highlights * light[seen]
    spark += 0.06 * glance * scene.gloss[seen] * open_[seen]
    out = np.zeros_like(scene.color)
    out[seen] = scene.color[seen] * falls + spark[:, None] * key_color(taken) * (0.6 + taken.contrast)
    return out


def backdrop(rng: np.random.Generator) -> Reals:
    """What is behind the person, FRAME x FRAME x 3, linear: a wall, the open or a room, out of focus."""
    kind = int(rng.integers(4))
    if kind == 0:
        return _studio(rng)
    tint = 0.75 + 0.25 * rng.uniform(0.2, 1.4, 3)
    base = rng.uniform(0.03, 0.42, (7, 7, 1)) * tint * (1 + 0.16 * rng.standard_normal((7, 7, 3)))
    if kind == 1:  # outdoors: sky above, green below
        mix = step(np.linspace(0, 1, 7), 0.15, 0.8)[:, None, None]
        sky, green = np.array([0.55, 0.72, 0.9]), np.array([0.13, 0.25, 0.08])
        base = (1 - mix) * sky * rng.uniform(0.6, 1) + mix * green + (base - 0.2) * np.array([0.5, 0.55, 0.3])
    if kind == 2:  # a room: upright blocks in warm colours
        base = np.repeat(rng.uniform(0.03, 0.5, (1, 7, 1)), 7, 0) * np.array([1.0, 0.82, 0.62]) + base * 0.25
    small = cv2.resize(base.astype(np.float32), (64, 64), interpolation=cv2.INTER_CUBIC)
    small = cv2.GaussianBlur(np.clip(small, 0.01, 1), (0, 0), 2.8)
    plain = np.asarray(cv2.resize(small, (FRAME, FRAME), interpolation=cv2.INTER_CUBIC), np.float32)
    if kind != 2:
        _lights(plain, rng)
    return plain


def _studio(rng: np.random.Generator) -> Reals:
    hue = rng.uniform(0.08, 0.62, 3) * 0.3 + rng.uniform(0.05, 0.5) * 0.7
    y, x = np.mgrid[0:FRAME, 0:FRAME].astype(np.float32) / FRAME
    centre = rng.uniform(0.2, 0.8), rng.uniform(0.1, 0.7)
    glow = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) * 2.6)
    return np.asarray((0.45 + 0.75 * glow)[..., None] * hue.astype(np.float32), np.float32)


def _lights(plain: Reals, rng: np.random.Generator) -> None:
    """Discs of light out of focus."""
    discs = np.zeros_like(plain)
    for _ in range(int(rng.integers(0, 16))):
        place = rng.integers(0, FRAME, 2)
        tint = rng.uniform(0.3, 1, 3) * rng.uniform(0.1, 0.45)
        radius = int(rng.integers(8, 34))
        cv2.circle(discs, (int(place[0]), int(place[1])), radius, tint.tolist(), -1, cv2.LINE_AA)
    plain += cv2.GaussianBlur(discs, (0, 0), 3.0)


def develop(linear: Reals, taken: Shot, rng: np.random.Generator) -> UInt8:
    """The camera: exposure, tone curve, lens blur, vignette, noise; FRAME x FRAME x 3 uint8."""
    bright = linear * np.float32(1.08 * taken.exposure)
    tone = np.sqrt(bright * (1 + 0.12 * bright) / (1 + 0.38 * bright))
    tone = cv2.GaussianBlur(tone, (0, 0), taken.blur)
    y, x = np.mgrid[-1 : 1 : FRAME * 1j, -1 : 1 : FRAME * 1j].astype(np.float32)
    tone *= (1 - 0.10 * step(x * x + y * y, 0.6, 2.0))[..., None]
    grain = rng.standard_normal((FRAME, FRAME, 3), np.float32)
    grain = cv2.GaussianBlur(grain, (0, 0), 0.5) * 1.6
    return np.asarray(np.clip(tone * 255 + grain * np.float32(taken.noise) + 0.5, 0, 255), np.uint8)
