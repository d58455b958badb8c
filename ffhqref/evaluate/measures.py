"""PSNR and SSIM as pyiqa defines them: what published numbers were computed with. Arrays in, numbers out."""

from __future__ import annotations

import cv2
import numpy as np

from ffhqref.core.arrays import Float64
from ffhqref.core.images import Rgb

REVISION = 1  # of the numbers: a higher one computes them again
PSNR_EPS = 1e-8  # added to the mean squared error of [0, 1]: equal pictures have 80 dB
LUMA = (0.299, 0.587, 0.114)  # the Y of YIQ
TAPS, SIGMA = 11, 1.5  # of SSIM's Gaussian window, px
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # Wang et al. 2004, equation 13, for a range of 255


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

    The contrast-structure term counts as 0 where it is negative, as in pyiqa.
    """
    kernel, edge = cv2.getGaussianKernel(TAPS, SIGMA, cv2.CV_64F), TAPS // 2

    def blurred(plane: Float64) -> Float64:
        whole = cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)
        return np.asarray(whole[edge:-edge, edge:-edge], np.float64)

    a, b = blurred(one), blurred(other)
    squares, product = blurred(one * one + other * other), blurred(one * other)
    means = a * b
    both = a * a + b * b
    structure = (2 * (product - means) + C2) / (squares - both + C2)
    return float(((2 * means + C1) / (both + C1) * np.maximum(structure, 0)).mean())
