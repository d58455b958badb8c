"""Datasets made from vectors, without pictures or networks, for tests of what follows embedding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.core import tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import read_receipt, write_receipt
from ffhqref.dataset.embed import wanted_receipt
from ffhqref.dataset.source import Source


def unit(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    wide = np.asarray(rows, np.float64)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True), np.float32)


def people(
    sizes: Sequence[int], seed: int = 0, spread: float = 0.55, dimension: int = 128
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Unit vectors of people with so many photos each, and who is who. `spread` is noise over signal."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(len(sizes)), sizes)
    centres = unit(rng.standard_normal((len(sizes), dimension)))
    noise = unit(rng.standard_normal((len(person), dimension)))
    return unit(centres[person] + spread * noise), person


def at_distances(first: npt.ArrayLike, *distances: float) -> npt.NDArray[np.float32]:
    """`first` and a vector at each cosine distance from it, each in a direction of its own."""
    base = np.asarray(first, np.float64)
    rows = [base]
    for number, distance in enumerate(distances, 1):
        side = np.zeros_like(base)
        side[-number] = 1.0
        side -= side @ base * base
        side /= np.linalg.norm(side)
        cosine = 1 - distance
        rows.append(cosine * base + np.sqrt(1 - cosine**2) * side)
    return unit(rows)


def write_embedded(
    out: Path, names: Sequence[str], vectors: npt.NDArray[np.float32], pixels: Sequence[str] | None = None
) -> Path:
    """An embedded dataset of these photos; their files are tiny pictures in `<out>/../photos`."""
    images = out.parent / "photos"
    for name in names:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(images / name), np.zeros((4, 4, 3), np.uint8))
    order = np.argsort(np.array(names, object))
    rows = [
        (
            names[i],
            "ok",
            "",
            512,
            512,
            pixels[i] if pixels else names[i],
            "",
            names[i],
            *[None] * 4,
            "",
            1,
            0.9,
            [0.0] * 10,
            vectors[i],
        )
        for i in order
    ]
    shard = tables.embeddings_folder(out) / "shard-00000.parquet"
    tables.write_rows(shard, tables.EMBEDDINGS, rows)
    notes = {"images": str(images), "statuses": {"ok": len(names)}}
    write_receipt(out, wanted_receipt(Source([], frozenset(), []), {"test": len(names)}), [shard], notes)
    return images


def recipe(**changes: object) -> Recipe:
    return Recipe(**{"name": "test", "distance": 0.4, **changes})  # type: ignore[arg-type]


def statuses(out: Path) -> dict[str, tuple[str, str]]:
    """Every photo's status and reason in the dataset `out`, ordered by name."""
    receipt = read_receipt(out, "embed")
    assert receipt is not None
    columns = [tables.IMAGE, tables.STATUS, tables.REASON]
    shards = [tables.read(out / name, tables.EMBEDDINGS, columns) for name in receipt.outputs]
    rows = [row for shard in shards for row in shard.to_pylist()]
    return {
        row["image"]: (row["status"], row["reason"]) for row in sorted(rows, key=lambda row: row["image"])
    }
