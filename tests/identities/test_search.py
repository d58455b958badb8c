"""The search for pairs: shortened rows never lose a pair, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest

from ffhqref.identities import search


def rows(count: int, falling: float, seed: int = 0) -> np.ndarray:
    """Unit rows (count x 64) in twos of one person; deviations of axes fall off as exp(-i / falling)."""
    rng = np.random.default_rng(seed)
    spread = np.exp(-np.arange(64) / falling)
    turn = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    people = np.repeat(rng.standard_normal((count // 2, 64)), 2, axis=0)
    wide = (people + 0.6 * rng.standard_normal((count, 64))) * spread @ turn
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize("falling", [4.0, 20.0, 1e9])
@pytest.mark.parametrize("distance", [0.1, 0.4, 0.8])
def test_pairs_of_shortened_rows_are_the_brute_force_ones(
    falling: float, distance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "FEW", 2)
    monkeypatch.setattr(search, "DECISION", 100)  # so that shortening pays on few rows too
    vectors = rows(400, falling)
    exact = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    assert np.abs(exact - distance).min() > 1e-12
    wanted = np.argwhere(np.triu(exact < distance, 1))
    found = [np.stack(block[:2], axis=1) for block in search.pairs_below(vectors, distance)]
    np.testing.assert_array_equal(np.concatenate(found), wanted)


def test_shortened_rows_bound_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "FEW", 2)
    monkeypatch.setattr(search, "DECISION", 100)
    vectors = rows(400, 8.0)
    short = search._bounding(vectors, 0.6)
    assert short.shape[1] < 48
    assert (short @ short.T >= vectors @ vectors.T - 1e-6).all()
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)


def test_rows_stay_as_they_are_where_shortening_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without main axes the bounds of strangers pass a low similarity."""
    monkeypatch.setattr(search, "FEW", 2)
    vectors = rows(400, 1e9)
    assert search._bounding(vectors, 0.05) is vectors
