"""PSNR and SSIM against hand-made cases, scikit-image with the same settings, and their own properties."""

from __future__ import annotations

import numpy as np
import pytest

from ffhqref.core.images import Rgb
from ffhqref.evaluate.measures import luma, psnr, ssim


def picture(seed: int, side: int = 48) -> Rgb:
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.integers(0, 256, (side // 8, side // 8, 3)), np.ones((8, 8, 1)))
    return np.clip(smooth + rng.normal(0, 9, smooth.shape), 0, 255).astype(np.uint8)


def test_psnr_by_hand() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == pytest.approx(80)  # 10 log10(1 / 1e-8)
    white = np.full_like(black, 255)
    assert psnr(black, white) == pytest.approx(0, abs=1e-6)
    one = black.copy()
    one[0, 0, 0] = 51  # a fifth of the range in one of 48 values: mean square 0.04 / 48
    assert psnr(one, black) == pytest.approx(10 * np.log10(48 / 0.04), abs=1e-3)


def test_psnr_is_scikit_image_s() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    for seed in range(4):
        one, other = picture(seed), picture(seed + 10)
        assert psnr(one, other) == pytest.approx(metrics.peak_signal_noise_ratio(one, other), abs=1e-5)
        assert psnr(one, other) == psnr(other, one)


def test_ssim_is_scikit_image_s() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    for seed in range(4):
        one = picture(seed)
        noisy = np.clip(one + np.random.default_rng(seed).normal(0, 20, one.shape), 0, 255).astype(np.uint8)
        wanted = metrics.structural_similarity(
            luma(one),
            luma(noisy),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim(luma(one), luma(noisy)) == pytest.approx(wanted, abs=1e-6)


def test_ssim_by_hand() -> None:
    flat, darker = np.full((11, 11), 200.0), np.full((11, 11), 100.0)
    c1 = 2.55**2  # two flat pictures differ in light alone: the first factor
    assert ssim(flat, darker) == pytest.approx((2 * 200 * 100 + c1) / (200**2 + 100**2 + c1))
    assert ssim(flat, flat) == pytest.approx(1)
    one = luma(picture(1))
    assert ssim(one, one) == pytest.approx(1) and ssim(one, 255 - one) >= 0  # opposite structure counts as 0


def test_luma_is_rounded_and_weighs_green_most() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 10, 10]]], np.uint8)
    assert luma(colours).tolist() == [[76, 150, 29, 10]]
