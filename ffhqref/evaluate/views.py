"""A picture -> its embeddings: by the published crop, by five points, and by a judge that nobody trained for.

A view is a network and a way to cut the face out. Each face is embedded alone, so that no digit depends on
what else is in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError, read_receipt
from ffhqref.faces.align import read_landmarks
from ffhqref.faces.geometry import align, published_crop
from ffhqref.faces.networks import Detector, Device, Embedder

CROP, ALIGNED, JUDGE = "crop", "aligned", "judge"  # the views
Points = Callable[[str, Rgb], Float32 | None]  # name, whole picture -> five points (px), where known


@dataclass(frozen=True)
class Recogniser:
    """The networks of the identity scores. `judge` is an independent one, or None."""

    embedder: Embedder
    judge: Embedder | None = None
    detector: Detector | None = None

    def views(self, points: Float32 | None) -> dict[str, tuple[Embedder, Float32 | None]]:
        """Network and points of each view; with None as points the published crop is taken."""
        found: dict[str, tuple[Embedder, Float32 | None]] = {CROP: (self.embedder, None)}
        if points is not None:
            found[ALIGNED] = self.embedder, points
        if self.judge:
            found[JUDGE] = self.judge, points
        return found

    def embed(self, image: Rgb, points: Float32 | None) -> dict[str, Float32]:
        """View -> unit embedding of a picture whose landmarks (5 x 2 px of it) are known or not."""
        found = {}
        for view, (network, marks) in self.views(points).items():
            face = published_crop(image) if marks is None else align(image, marks)
            found[view] = network.embed(face[None])[0]
        return found

    def sees_face(self, image: Rgb) -> bool:
        """Whether the detector finds a face; True where there is no detector to ask."""
        return self.detector is None or bool(self.detector.find(image))

    @property
    def parts(self) -> list[str]:
        """The digests of what the embeddings depend on."""
        networks = (self.embedder, self.judge, self.detector)
        return [network.digest if network else "" for network in networks]


def open_recogniser(
    embedder: Path, judge: Path | None = None, detector: Path | None = None, device: Device = "auto"
) -> Recogniser:
    """The networks from their files; UserError where one cannot serve."""
    opened = Embedder(embedder, device)
    other = Embedder(judge, device) if judge else None
    if other and other.digest == opened.digest:
        raise UserError(f"--judge {judge} is the embedder itself: give another recognition network.")
    return Recogniser(opened, other, Detector(detector, device) if detector else None)


def known_points(out: Path | None, landmarks: Path | None, detector: Detector | None) -> Points:
    """Where five points come from: a file, the dataset's own table, else the detector, in this order."""
    given = read_landmarks(landmarks) if landmarks else None
    stored = stored_points(out) if out and not given else {}

    def points(name: str, image: Rgb) -> Float32 | None:
        if given is not None:
            return given.find(name, image.shape[1])
        if name in stored:
            return stored[name]
        faces = detector.find(image) if detector else []
        return faces[0].landmarks if faces else None

    return points


def stored_points(out: Path) -> dict[str, Float32]:
    """Image -> five points (px) as `embed` found them; empty where the dataset has no embeddings."""
    receipt = read_receipt(out, "embed")
    found: dict[str, Float32] = {}
    for name in receipt.outputs if receipt else ():
        table = tables.read(out / name, tables.EMBEDDINGS, [tables.IMAGE, tables.LANDMARKS])
        for image, values in zip(*(table[column].to_pylist() for column in table.column_names), strict=True):
            marks = np.asarray(values or [], np.float32)
            if marks.size == 10 and np.ptp(marks) > 0:
                found[image] = marks.reshape(5, 2)
    return found


def scaled(points: Float32 | None, image: Rgb, size: int) -> Float32 | None:
    """Points of a picture after it was squeezed to `size` x `size` px."""
    if points is None:
        return None
    height, width = image.shape[:2]
    return np.asarray(points * np.array([size / width, size / height]), np.float32)


def mean_similarity(one: Float32, others: Sequence[Float32]) -> float:
    """The mean cosine of an embedding with others (at least one), in float64 however they are batched."""
    return float(np.mean([cosine(one, other) for other in others]))


def cosine(one: Float32, other: Float32) -> float:
    """The cosine of two unit embeddings."""
    return float((one.astype(np.float64) * other).sum())
