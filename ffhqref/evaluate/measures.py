"""PSNR and SSIM as pyiqa defines them: what published numbers were computed with. Arrays in, numbers out."""

from __future__ import annotations

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb

REVISION = 1  # of the numbers: a higher one computes them again
PSNR_EPS = 1e-8  # added to the mean squared error of [0, 1]: equal pictures have 80 dB
LUMA = (0.299, 0.587, 0.114)  # the Y of YIQ
TAPS, SIGMA = 11, 1.5  # of SSIM's Gaussian window, px
C1, C2 = np.float32((0.01 * 255) ** 2), np.float32((0.03 * 255) ** 2)  # Wang et al. 2004, equation 13
MIDDLE = np.float32(128)  # of the range 0 to 255


def psnr(one: Rgb, other: Rgb) -> float:
    """Peak signal-to-noise ratio in dB over all RGB values of two pictures of one size."""
    error = np.subtract(one, other, dtype=np.float64).ravel()
    mean = float(error @ error) / error.size / 255**2  # whole numbers below 2^53: the sum is exact
    return float(10 * np.log10(1 / (mean + PSNR_EPS)))


def luma(image: Rgb) -> Float64:
    """The Y of YIQ (H x W), 0 to 255 in whole numbers, halves to even: so pyiqa rounds it."""
    return np.asarray(np.rint(image.astype(np.float64) @ np.asarray(LUMA)), np.float64)


def ssim(one: Float64, other: Float64) -> float:
    """Structural similarity of two lumas of one size, at least 11 x 11 px: the mean where the window fits.

    The contrast-structure term counts as 0 where it is negative, as in pyiqa. In float32, four times as fast
    as float64; since variances do not change when a constant is taken off, 128 is, and the mean is right to
    1e-6.
    """
    kernel, edge = cv2.getGaussianKernel(TAPS, SIGMA, cv2.CV_32F), TAPS // 2

    def blurred(plane: Float32) -> Float32:
        whole = cv2.sepFilter2D(plane, cv2.CV_32F, kernel, kernel)
        return np.asarray(whole[edge:-edge, edge:-edge], np.float32)

    x, y = (np.asarray(plane - MIDDLE, np.float32) for plane in (one, other))
    a, b = blurred(x), blurred(y)
    squares, product = blurred(x * x + y * y), blurred(x * y)
    structure = (2 * (product - a * b) + C2) / (squares - (a * a + b * b) + C2)
    a, b = a + MIDDLE, b + MIDDLE
    light = (2 * a * b + C1) / (a * a + b * b + C1)
    return float((light * np.maximum(structure, 0)).mean(dtype=np.float64))
