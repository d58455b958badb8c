"""A photograph's faces, aligned for the embedder: found by a detector, by given landmarks, or by a crop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.lists import read_csv
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError, digest
from ffhqref.core.stream import entries
from ffhqref.core.tables import IMAGE, LANDMARK_COLUMNS
from ffhqref.faces.geometry import align, crop_middle, five_of_68
from ffhqref.faces.networks import Detector, Face, best_placed

FFHQ_SIDE = 1024  # px of the picture that FFHQ's points are for
MIN_SPAN = 4  # px between the farthest of five points
MAX_PX = 1e6  # no picture is as wide


@dataclass(frozen=True)
class Aligned:
    """A face ready for the embedder: 112 x 112 px, the detector's score, five points in the photograph."""

    face: Rgb
    score: float
    landmarks: Float32 | None  # 5 x 2 px; None where only a crop was taken


class Aligner(Protocol):
    """A picture and its name -> its faces, the one to use first, and how many were found in all.

    BadImage with the status no_face, too_small or no_landmarks where there is none to use.
    """

    def __call__(self, image: Rgb, name: str) -> tuple[list[Aligned], int]: ...


def by_detector(detector: Detector, recipe: Recipe) -> Aligner:
    """Faces found by SCRFD: the one largest near the middle, or all from left to right."""

    def aligner(image: Rgb, name: str) -> tuple[list[Aligned], int]:
        found = detector.find_all(image) if recipe.faces == "all" else detector.find(image)
        if not found:
            raise BadImage("no_face", "no face was found")
        large = [face for face in found if face.side >= recipe.min_face]
        if not large:
            side = max(face.side for face in found)
            raise BadImage("too_small", f"its face is {side:.0f} px, below {recipe.min_face}")
        if recipe.faces == "largest":
            large = best_placed(large, image.shape[1], image.shape[0])[:1]
        return [_aligned(image, face) for face in large], len(found)

    return aligner


def _aligned(image: Rgb, face: Face) -> Aligned:
    return Aligned(align(image, face.landmarks), face.score, face.landmarks)


def by_landmarks(landmarks: Landmarks) -> Aligner:
    """The one face whose five points are given; no detector."""

    def aligner(image: Rgb, name: str) -> tuple[list[Aligned], int]:
        points = landmarks.find(name, image.shape[1])
        if points is None:
            raise BadImage("no_landmarks", "the landmarks file has no row for it")
        if np.ptp(points, axis=0).max() < MIN_SPAN:
            raise BadImage("no_landmarks", "its landmarks span no face")
        if not ((points >= 0) & (points < image.shape[1::-1])).all(axis=1).any():
            raise BadImage("no_landmarks", "its landmarks lie outside the picture")
        return [Aligned(align(image, points), 1.0, points)], 1

    return aligner


def by_crop(image: Rgb, name: str) -> tuple[list[Aligned], int]:
    """The middle of a picture that is aligned as FFHQ is: the crop of the paper's identity metric."""
    return [Aligned(crop_middle(image), 1.0, None)], 1


class Landmarks:
    """Five points (5 x 2) by image name, scaled to the size of the picture at hand."""

    def __init__(self, points: dict[str, Float32], side: int | None) -> None:
        self._points = points
        self._side = side  # px the points were given for; None: the picture's own

    def find(self, name: str, width: int) -> Float32 | None:
        """The points of `name` in px of a picture `width` px wide, or None where it has none."""
        points = self._given(name)
        if points is None or self._side is None:
            return points
        return np.asarray(points * (width / self._side), np.float32)

    def _given(self, name: str) -> Float32 | None:
        return self._points.get(name if self._side is None else PurePosixPath(name).stem)

    def digest(self, name: str) -> str:
        """Of the points given for `name`, empty where there are none."""
        points = self._given(name)
        return "" if points is None else digest(np.ascontiguousarray(points, "<f4").tobytes())


def read_landmarks(path: Path) -> Landmarks:
    """FFHQ's `ffhq-dataset-v2.json`, or a CSV with `image` and ten columns of px; UserError else."""
    if path.suffix.lower() == ".json":
        return Landmarks(dict(_ffhq(path)), FFHQ_SIDE)
    frame = read_csv(path, [IMAGE, *LANDMARK_COLUMNS])
    if frame[IMAGE].duplicated().any():
        twice = frame[IMAGE][frame[IMAGE].duplicated()].iloc[0]
        raise UserError(f"{path}: {twice} stands twice; give each image one line.")
    try:
        values = frame[list(LANDMARK_COLUMNS)].to_numpy(np.float64).reshape(-1, 5, 2)
    except ValueError as error:
        raise UserError(f"{path}: a landmark is not a number ({error}).") from None
    if not (np.abs(values) < MAX_PX).all():
        raise UserError(f"{path}: a landmark is not a finite number of pixels.")
    return Landmarks(dict(zip(frame[IMAGE], values.astype(np.float32), strict=True)), None)


def _ffhq(path: Path) -> Iterator[tuple[str, Float32]]:
    """Stem (NNNNN) and five points of each entry, one entry in memory at a time."""
    try:
        with path.open(encoding="utf-8") as opened:
            for key, entry in entries(opened):
                points = np.asarray(entry["image"]["face_landmarks"], np.float64).reshape(68, 2)
                if not (np.abs(points) < MAX_PX).all():
                    raise ValueError("not finite")
                yield f"{int(key):05d}", five_of_68(np.asarray(points, np.float32))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is not FFHQ's metadata: give ffhq-dataset-v2.json or a CSV.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give FFHQ's ffhq-dataset-v2.json.") from None
