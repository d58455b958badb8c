"""Unit rows with planted people, in FFHQ's proportions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DIMENSION = 512


def planted(
    photos: int, sizes: npt.NDArray[np.int64], seed: int, *, axes: float = 200.0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """`photos` unit rows (n x 512 float32) in shuffled order and each one's person.

    `sizes` are the planted people's photos; the others are alone. Two photos of a person have a mean
    similarity of about 0.66 (single ones 0.45 to 0.85), two people 0 with a deviation of 1 / sqrt(about
    `axes`): the coordinates' deviations fall off as exp(-i / axes), for faces fill fewer than 512 axes.
    """
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(len(sizes)), sizes)
    people = np.concatenate([people, len(sizes) + np.arange(photos - len(people))])
    rng.shuffle(people)
    spread = np.exp(-np.arange(DIMENSION) / axes).astype(np.float32)
    centres = _unit(rng.standard_normal((people.max() + 1, DIMENSION), np.float32) * spread)
    own = _unit(rng.standard_normal((photos, DIMENSION), np.float32) * spread)
    share = rng.uniform(0.45, 0.85, (photos, 1)).astype(np.float32)  # of a photo that is its person's
    return _unit(np.sqrt(share) * centres[people] + np.sqrt(1 - share) * own), people


def ffhq_like(photos: int, seed: int = 0) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """People of 2 to 9 photos, most of 2, 6,500 of them in 70,000 photos; the others are alone."""
    rng = np.random.default_rng(seed)
    share = 0.5 ** np.arange(8)
    sizes = rng.choice(np.arange(2, 10), 6500 * photos // 70000, p=share / share.sum())
    return planted(photos, sizes, seed + 1)


def _unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
