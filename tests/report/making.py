"""A small built dataset with doubts, made from vectors, for the tests of the report and the review."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from ffhqref.dataset.build import write_recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from tests.synthetic import people, recipe, unit, write_embedded

HOSTILE = (
    "</script><script>alert(1)</script>.png",
    "\"><img src=x onerror=alert('1')>.png",
    "{{ 7 * 7 }} & <b>.png",
    "photo\u202egnp.png",
)


def names_of(count: int) -> list[str]:
    return [f"{number:03d}.png" for number in range(count)]


def make_dataset(folder: Path, names: list[str] | None = None, size: int = 64) -> Path:
    """29 photos of nine people. Two of four photos each are chained into one by their last and first.

    The chained people are photos 0 to 3 and 4 to 7 (of `names`, ordered); every other person is found.
    """
    vectors, _ = people([4, 4, 4, 4, 3, 3, 3, 2, 2], seed=10, spread=0.4)
    vectors[3] = unit([0.72 * vectors[3] + 0.585 * vectors[4]])[0]  # nearer to the other person than 0.4
    names = sorted(names or names_of(len(vectors)))
    out = folder / "made"
    images = write_embedded(out, names, vectors)
    rng = np.random.default_rng(0)
    for name in names:
        picture = np.full((size, size, 3), rng.integers(40, 220, 3), np.uint8)
        cv2.circle(picture, (size // 2, size // 2), size // 3, rng.integers(0, 255, 3).tolist(), -1)
        _, data = cv2.imencode(".png", picture)
        (images / name).write_bytes(data.tobytes())
    made = recipe(val_identities=2, test_identities=2, distance=0.4, min_distance=0.02)
    write_recipe(out, made)
    find_identities(out, made)
    split_identities(out, made)
    write_references(out, made)
    return out
