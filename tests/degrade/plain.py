"""The degradation the plain way, whole pictures in float64: the oracle of `ffhqref.degrade`."""

from __future__ import annotations

import cv2
import numpy as np

from ffhqref.core.arrays import Float64, UInt8
from ffhqref.degrade import operators
from ffhqref.degrade.blur import Blur
from ffhqref.degrade.operators import Degradation


def to_bgr(image: UInt8) -> Float64:
    """uint8 RGB => float64 BGR in [0, 1]."""
    return np.ascontiguousarray(image[:, :, ::-1]) / 255.0


def blur(image: Float64, kernel: Float64) -> Float64:
    """Correlate with the kernel; beyond its border the picture is mirrored (reflect 101)."""
    return np.asarray(cv2.filter2D(image, -1, kernel), np.float64)


def downscale(image: Float64, scale: float) -> Float64:
    """Bilinear, half-pixel centres, no smoothing: each new pixel is drawn from four old ones."""
    height, width = operators.small_size(image.shape[0], image.shape[1], scale)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)


def jpeg(image: Float64, quality: int) -> UInt8:
    """Through a JPEG of this quality: BGR in [0, 1] => uint8 BGR."""
    return operators.through_jpeg(operators.round_levels(image), quality)


def ours(image: UInt8, degradation: Degradation) -> Float64:
    """Blurred and downscaled by the package, in float64, BGR in [0, 1]."""
    small = operators.small_size(image.shape[0], image.shape[1], degradation.scale)
    return Blur(image, operators.kernel_of(degradation), small).whole(np.float64) / 255.0
