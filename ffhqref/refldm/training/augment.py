"""References as training sees them: colours, place and perspective moved a little, some mirrored."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb
from ffhqref.refldm.training.config import Config


def reference(picture: Rgb, config: Config, rng: np.random.Generator) -> Rgb:
    """One reference, uint8 RGB, moved as the configuration says; what comes from outside is black."""
    picture = colours(picture, config.jitter, rng)
    matrix = placement(picture.shape[0], picture.shape[1], config, rng)
    if not np.array_equal(matrix, np.eye(3)):
        size = (picture.shape[1], picture.shape[0])
        picture = np.asarray(cv2.warpPerspective(picture, matrix, size, flags=cv2.INTER_LINEAR), np.uint8)
    if rng.random() < config.reference_flip:
        picture = np.ascontiguousarray(picture[:, ::-1])
    return picture


def colours(picture: Rgb, jitter: tuple[float, float, float, float], rng: np.random.Generator) -> Rgb:
    """Brightness, contrast and saturation times 1 +- jitter, hue turned by +- jitter of a circle.

    In an order that is drawn, as usual (Howard 2013): the four do not commute.
    """
    factors = [rng.uniform(1 - width, 1 + width) for width in jitter[:3]]
    turn = rng.uniform(-jitter[3], jitter[3])
    values = picture.astype(np.float32)
    for change in rng.permutation(4):
        if change == 3:
            values = _turn_hue(values, turn) if turn else values
        elif factors[change] != 1:
            towards = (0.0, _grey(values).mean(), _grey(values)[..., None])[change]
            values = np.clip(towards + factors[change] * (values - towards), 0, 255)
    return np.asarray(np.rint(values), np.uint8)


def _grey(values: Float32) -> Float32:
    """Luma of BT.601."""
    return values @ np.array([0.299, 0.587, 0.114], np.float32)


def _turn_hue(values: Float32, turn: float) -> Float32:
    hsv = cv2.cvtColor(values / np.float32(255), cv2.COLOR_RGB2HSV)  # hue in degrees
    hsv[..., 0] = (hsv[..., 0] + 360 * turn) % 360
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255, np.float32)


def placement(height: int, width: int, config: Config, rng: np.random.Generator) -> Float64:
    """Rotation, shift and zoom about the middle, then a perspective, as one 3x3 matrix of pixels.

    One matrix, so that the picture is resampled once.
    """
    angle = math.radians(rng.uniform(-config.rotate, config.rotate))
    shift = rng.uniform(-config.shift, config.shift, 2) * (width, height)
    zoom = rng.uniform(*config.zoom)
    tilted = rng.random() < config.perspective_share
    corners = rng.uniform(0, config.perspective, (4, 2)) * (width / 2, height / 2)
    middle = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
    cosine, sine = zoom * math.cos(angle), zoom * math.sin(angle)
    turned = np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]], [0, 0, 1]])
    matrix = np.linalg.inv(middle) @ turned @ middle
    if tilted and config.perspective:
        old = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float32)
        inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        new = (old + inwards * corners).astype(np.float32)
        matrix = cv2.getPerspectiveTransform(old, new) @ matrix
    return np.asarray(matrix)
