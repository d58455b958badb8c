"""Do restored pictures show the right person? Similarities of embeddings, with an interval over people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffhqref.core import images, lists
from ffhqref.core.arrays import Float32
from ffhqref.core.images import Rgb, find, png_name, resize
from ffhqref.demo import EMBEDDER
from ffhqref.demo.portrait.raster import FRAME
from ffhqref.demo.portrait.shape import Reals
from ffhqref.faces.align import read_landmarks
from ffhqref.faces.geometry import align
from ffhqref.faces.networks import Embedder

RESAMPLES = 10_000  # of the bootstrap
RESTORED_KINDS = {  # as the report calls them: where they are in the dataset
    "severe low quality": "test_images/severe_degrad",
    "restored without references": "restored/severe-alone",
    "restored with references": "restored/severe",
}


@dataclass(frozen=True)
class Mean:
    """A mean over people and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_over_people(values: Sequence[float], people: Sequence[str]) -> Mean:
    """The mean of each person's mean; the bootstrap resamples people, not pictures."""
    by_person: dict[str, list[float]] = {}
    for value, who in zip(values, people, strict=True):
        by_person.setdefault(who, []).append(value)
    means = np.array([np.mean(by_person[who]) for who in sorted(by_person)])
    chosen = np.random.Generator(np.random.PCG64(0)).integers(len(means), size=(RESAMPLES, len(means)))
    low, high = np.percentile(means[chosen].mean(1), (2.5, 97.5))
    return Mean(float(means.mean()), float(low), float(high))


def embedded(embedder: Embedder, pictures: Sequence[Rgb], landmarks: Sequence[Reals]) -> Float32:
    """Unit embeddings [N, 512] of pictures of any size whose landmarks (5 x 2) are given for FRAME px."""
    faces = [
        align(resize(picture, FRAME, FRAME), points.astype(np.float32))
        for picture, points in zip(pictures, landmarks, strict=True)
    ]
    return embedder.embed(np.stack(faces))


def target_similarities(
    embedder: Embedder, targets: Sequence[Rgb], made: Mapping[str, Sequence[Rgb]], landmarks: Sequence[Reals]
) -> dict[str, list[float]]:
    """Cosine similarity of each picture to its target, for every kind in `made`."""
    truth = embedded(embedder, targets, landmarks)
    return {
        kind: [float(value) for value in (embedded(embedder, pictures, landmarks) * truth).sum(1)]
        for kind, pictures in made.items()
    }


def of_restored(out: Path) -> list[str]:
    """Of a finished demo whose test images were restored: a line for each kind of picture."""
    dataset, photos = out / "dataset", out / "photos"
    points = read_landmarks(out / "landmarks.csv")
    targets = lists.read_references(dataset / "reference_mapping/test_references.csv")
    marks = {name: place for name in targets if (place := points.find(name, FRAME)) is not None}
    folders = {kind: dataset / folder for kind, folder in RESTORED_KINDS.items()}
    names = [name for name in marks if all((at / png_name(name)).is_file() for at in folders.values())]
    if not names:
        return []
    found = target_similarities(
        Embedder(EMBEDDER, "cpu"),
        [images.read(find(photos, name)) for name in names],
        {kind: [images.read(folder / png_name(name)) for name in names] for kind, folder in folders.items()},
        [marks[name] for name in names],
    )
    person = lists.read_labels(out / "labels.csv")
    who = [person[name] for name in names]
    lines = [f"  {kind:<28} {mean_over_people(values, who)}" for kind, values in found.items()]
    return [
        f"Similarity to the target's identity, {len(names)} pictures of {len(set(who))} people that the "
        "restorer never saw",
        "(cosine; mean and 95 % interval over people):",
        *lines,
        f"Look at {dataset / 'restored/severe/sheets'}",
    ]
