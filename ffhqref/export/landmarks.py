"""The 68 points of FFHQ's images, from its own metadata: the only place where they are known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.core.store import UserError
from ffhqref.core.stream import entries
from ffhqref.export.contents import Picture
from ffhqref.faces.align import FFHQ_SIDE, MAX_PX


class Landmarks68:
    """68 points (x, y) of pictures that are images of FFHQ, by name."""

    def __init__(self, points: Mapping[str, Float32]) -> None:
        self._points = points

    def find(self, picture: Picture, size: int) -> Float32 | None:
        """68 x 2 px of the picture when it is `size` px wide (0: as it is), or None where it has none."""
        points = self._points.get(PurePosixPath(picture.name).stem)
        if points is None:
            return None
        return np.asarray(points * ((size or picture.side) / FFHQ_SIDE), np.float32)


def read_68(path: Path | None, names: Iterable[str]) -> Landmarks68:
    """The points of these images from `ffhq-dataset-v2.json`; none without a file."""
    if path is None:
        return Landmarks68({})
    wanted = {PurePosixPath(name).stem for name in names}
    found = {}
    try:
        with path.open(encoding="utf-8") as opened:
            for key, entry in entries(opened):
                if (stem := f"{int(key):05d}") in wanted:
                    points = np.asarray(entry["image"]["face_landmarks"], np.float64).reshape(68, 2)
                    if not (np.abs(points) < MAX_PX).all():
                        raise ValueError("not finite")
                    found[stem] = np.asarray(points, np.float32)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} is not FFHQ's metadata: give --landmarks ffhq-dataset-v2.json.") from None
    except OSError as error:
        raise UserError(f"Cannot read {path} ({error.strerror}): give FFHQ's ffhq-dataset-v2.json.") from None
    return Landmarks68(found)
