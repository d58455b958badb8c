"""Photographs as small pictures inside a page: cut to the face, JPEG, base64."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Rgb, encode, find, read
from ffhqref.core.sheets import fitted
from ffhqref.core.store import UserError
from ffhqref.core.terminal import progress
from ffhqref.report.facts import Faces

SIDE, QUALITY = 128, 78  # px; of the JPEG
READERS = 2  # photographs decoded at a time


def face_square(landmarks: Float32, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (px) of the square that FFHQ would cut, moved and shrunk into the picture.

    `landmarks` is 5 x 2, px. FFHQ's square is twice the greater of 2 x the distance of the eyes and 1.8 x
    that from eyes to mouth. Landmarks that are all zero (not known) give the middle square.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    side = 2 * max(
        2 * float(np.linalg.norm(landmarks[1] - landmarks[0])), 1.8 * float(np.linalg.norm(mouth - eyes))
    )
    centre = (eyes + 0.1 * (mouth - eyes)) if side > 8 else np.array([width / 2, height / 2])
    side = min(side if side > 8 else width, width, height)
    left = min(max(float(centre[0]) - side / 2, 0), width - side)
    top = min(max(float(centre[1]) - side / 2, 0), height - side)
    return round(left), round(top), round(left + side), round(top + side)


def cut(picture: Rgb, landmarks: Float32 | None, side: int) -> Rgb:
    """The face of a picture, its longer side `side` px; the whole picture without landmarks."""
    if landmarks is not None:
        left, top, right, bottom = face_square(landmarks, picture.shape[1], picture.shape[0])
        if right - left > 8 and bottom - top > 8:
            picture = picture[top:bottom, left:right]
    return fitted(picture, side)


def jpeg(picture: Rgb) -> bytes:
    return encode(picture, ".jpg", QUALITY)


def data_address(data: bytes) -> str:
    """A JPEG as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(data).decode('ascii')}"


@dataclass
class Thumbnails:
    """Small pictures of photographs by name, each read once; one that cannot be read is None and noted."""

    images: Path
    faces: Faces
    missing: set[str] = field(default_factory=set)
    made: dict[str, str | None] = field(default_factory=dict)

    def prepare(self, names: Iterable[str]) -> None:
        """Read these photographs, several at a time."""
        wanted = [name for name in dict.fromkeys(names) if name not in self.made]
        with ThreadPoolExecutor(READERS) as pool:
            found = pool.map(self.picture, wanted)
            for name, picture in progress(zip(wanted, found, strict=True), "pictures", "photo", len(wanted)):
                self.made[name] = data_address(picture) if picture else None
                if picture is None:
                    self.missing.add(name)

    def address(self, name: str) -> str | None:
        """The picture of a photograph inside an address, or None."""
        if name not in self.made:
            self.prepare([name])
        return self.made[name]

    def picture(self, name: str, side: int = SIDE) -> bytes | None:
        """The picture of a photograph as JPEG bytes, or None where it cannot be read."""
        at = self.faces.index.get(name)
        landmarks = None if at is None else self.faces.landmarks[at]
        try:
            return jpeg(cut(read(find(self.images, name)), landmarks, side))
        except (BadImage, UserError):
            return None


def of_file(path: Path, side: int = SIDE) -> str | None:
    """A picture file as a small picture inside an address, or None where it cannot be read."""
    try:
        return data_address(jpeg(fitted(read(path), side)))
    except BadImage:
        return None
