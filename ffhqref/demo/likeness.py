"""Do restored pictures show the right person? Similarities of embeddings, with an interval over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffhqref.core import tables
from ffhqref.core.images import Rgb, find, png_name, read, resize
from ffhqref.demo import EMBEDDER
from ffhqref.faces.align import read_landmarks
from ffhqref.faces.geometry import align
from ffhqref.faces.networks import Embedder

SIZE = 512  # px of the pictures in which landmarks are given
DRAWS = 10_000  # of the bootstrap

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mean:
    """A mean over people and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_people(values: Sequence[float], people: Sequence[str]) -> Mean:
    """The mean of each person's mean; people, not pictures, are drawn for the interval."""
    by_person: dict[str, list[float]] = {}
    for value, who in zip(values, people, strict=True):
        by_person.setdefault(who, []).append(value)
    means = np.array([np.mean(by_person[who]) for who in sorted(by_person)])
    chosen = np.random.Generator(np.random.PCG64(0)).integers(len(means), size=(DRAWS, len(means)))
    low, high = np.percentile(means[chosen].mean(1), (2.5, 97.5))
    return Mean(float(means.mean()), float(low), float(high))


def embedded(embedder: Embedder, pictures: Sequence[Rgb], landmarks: Sequence[Floats]) -> Floats:
    """Unit embeddings [N, 512] of faces whose landmarks (5 x 2 px at 512 px) are known, of any size."""
    faces = [
        align(resize(picture, SIZE, SIZE), points.astype(np.float32))
        for picture, points in zip(pictures, landmarks, strict=True)
    ]
    return embedder.embed(np.stack(faces))


def similarities(
    embedder: Embedder,
    targets: Sequence[Rgb],
    made: Mapping[str, Sequence[Rgb]],
    landmarks: Sequence[Floats],
) -> dict[str, list[float]]:
    """Cosine similarity of each picture to its target, for every kind in `made`."""
    truth = embedded(embedder, targets, landmarks)
    return {
        kind: [float(value) for value in (embedded(embedder, pictures, landmarks) * truth).sum(1)]
        for kind, pictures in made.items()
    }


KINDS = {"severe low quality": "test_images/severe_degrad", "restored without references":
         "restored/severe-alone", "restored with references": "restored/severe"}  # fmt: skip


def of_restored(out: Path) -> list[str]:
    """Of a finished demo whose test images were restored: a line for each kind of picture."""
    dataset, photos = out / "dataset", out / "photos"
    known = tables.read_csv(out / "labels.csv", [tables.IMAGE, tables.IDENTITY])
    person = dict(zip(known[tables.IMAGE], known[tables.IDENTITY], strict=True))
    points = read_landmarks(out / "landmarks.csv")
    names = [name for name in tables.read_references(dataset / "reference_mapping/test_references.csv")
             if all((dataset / folder / png_name(name)).is_file() for folder in KINDS.values())]  # fmt: skip
    if not names:
        return []
    made = {kind: [read(dataset / folder / png_name(name)) for name in names]
            for kind, folder in KINDS.items()}  # fmt: skip
    marks = [points.find(name, SIZE) for name in names]
    targets = [read(find(photos, name)) for name in names]
    found = similarities(Embedder(EMBEDDER, "cpu"), targets, made, [m for m in marks if m is not None])
    who = [person[name] for name in names]
    lines = [f"  {kind:<28} {mean_over_people(values, who)}" for kind, values in found.items()]
    return [
        f"Similarity to the target's identity, {len(names)} pictures of {len(set(who))} people that the "
        "restorer never saw",
        "(cosine; mean and 95 % interval over people):",
        *lines,
        f"Look at {dataset / 'restored/severe/sheets'}",
    ]
