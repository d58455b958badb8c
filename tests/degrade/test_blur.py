"""Blur and downscale at once against the plain way: the whole filter, then the resize."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ffhqref.degrade import blur, operators
from ffhqref.degrade.levels import load_level
from ffhqref.degrade.operators import Degradation

HEIGHT, WIDTH = 90, 130
DRAWN = [
    operators.draw_degradation(load_level(name), 3, str(n))
    for name in ("train", "moderate")
    for n in range(12)
]
WAYS = {"profiles": 1e9, "spectrum": 0.0, "the cheaper": blur.SPECTRUM_COST}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blur, "SPECTRUM_COST", WAYS[request.param])


def picture(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "noise":
        return rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    stripes = np.indices((HEIGHT, WIDTH)).sum(0) // 9 % 2 * 255
    levels = stripes if kind == "stripes" else np.full((HEIGHT, WIDTH), 255)
    return np.repeat(levels[:, :, None], 3, axis=2).astype(np.uint8)


def plain(image: np.ndarray, drawn: Degradation) -> np.ndarray:
    """rows x columns x 3, BGR, in levels."""
    kernel = operators.kernel_of(drawn)
    blurred = cv2.filter2D(np.ascontiguousarray(image[:, :, ::-1]).astype(np.float64), -1, kernel)
    rows, columns = operators.small_size(HEIGHT, WIDTH, drawn.scale)
    return cv2.resize(blurred, (columns, rows), interpolation=cv2.INTER_LINEAR)


def of(image: np.ndarray, drawn: Degradation) -> blur.Blur:
    size = operators.small_size(HEIGHT, WIDTH, drawn.scale)
    return blur.Blur(image, operators.kernel_of(drawn), size)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", ["noise", "stripes", "white"])
def test_both_ways_and_precisions(kind: str) -> None:
    for drawn in DRAWN:
        image = picture(kind)
        wanted, made = plain(image, drawn), of(image, drawn)
        np.testing.assert_allclose(made.whole(np.float64), wanted, rtol=0, atol=255e-9)
        single = made.whole(np.float32)
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, wanted, rtol=0, atol=operators.DOUBT / 3)


def test_single_values() -> None:
    rng = np.random.default_rng(1)
    for drawn in DRAWN:
        wanted = plain(picture("noise"), drawn)
        at = tuple(rng.integers(0, length, 50) for length in wanted.shape)
        np.testing.assert_allclose(of(picture("noise"), drawn).at(*at), wanted[at], rtol=0, atol=1e-10)


@pytest.mark.parametrize("most", [0, 10**9])  # all in float64; each by itself
def test_what_is_in_doubt_is_decided_as_in_the_plain_way(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "MOST_DOUBTS", most)
    monkeypatch.setattr(operators, "DOUBT", 0.6)  # everything is
    image = picture("noise")
    for drawn in (one for one in DRAWN if one.scale > 3):  # each value by itself holds 14 kB
        small = plain(image, drawn) / 255.0
        unit = operators.draw_noise(drawn.seed, small.shape)
        wanted = operators.round_levels(operators.add_noise(small, drawn.noise, unit))
        np.testing.assert_array_equal(operators.small_levels(image, drawn, unit), wanted)
