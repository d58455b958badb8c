"""Formats of pictures: which can be read here, and how those that OpenCV does not read become RGB.

HEIC and HEIF need pillow-heif, AVIF a Pillow that has it: `pip install 'ffhqref[heif]'` brings both.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, features

PUBLISHED = ("PNG", "JPEG", "WEBP")  # what OpenCV decodes here
SUFFIXES = {  # suffix -> Pillow's name of the format
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF",
    ".tiff": "TIFF", ".heic": "HEIF", ".heif": "HEIF", ".avif": "AVIF",
}  # fmt: skip
EXTRA = "pip install 'ffhqref[heif]'"
_FILTERS = threading.Lock()  # warning filters belong to the process: two threads at once would mix them up


@cache
def readable() -> frozenset[str]:
    """Pillow's names of the formats that can be read on this machine."""
    heif = {"HEIF"} if _register_heif() else set()
    avif = {"AVIF"} if features.check("avif") else set()
    return frozenset({*PUBLISHED, "BMP", "TIFF", *heif, *avif})


def _register_heif() -> bool:
    if not find_spec("pillow_heif"):
        return False
    import pillow_heif

    pillow_heif.register_heif_opener()
    return True


def can_read(suffix: str) -> bool:
    """Whether files of this suffix, in lower case with its dot, are pictures that can be read here."""
    return SUFFIXES.get(suffix) in readable()


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Files that were passed over by suffix, as a line for people; empty where there are none."""
    if not skipped:
        return ""
    counts = ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in skipped.items())
    hint = f" (for HEIC, HEIF and AVIF: {EXTRA})" if skipped.keys() & SUFFIXES.keys() else ""
    return f"Skipped, as they are no pictures that can be read here: {counts}{hint}."


def open_lazily(data: bytes) -> Image.Image:
    """Pillow's lazy picture: the header is parsed, no pixel decoded. Hostile bytes raise any error."""
    boxed = data[4:8] == b"ftyp"  # of HEIF and AVIF: only then are their parsers loaded
    formats = sorted(readable() - set(PUBLISHED)) if boxed else ["BMP", "TIFF"]
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own warning on large pictures; ours is an error
        return Image.open(io.BytesIO(data), formats=(*PUBLISHED, *formats))


def whole_file_needed(head: bytes) -> bool:
    """Whether a format's header is found with the whole file alone: WebP, TIFF, HEIF, AVIF."""
    return head[:4] in (b"RIFF", b"II*\0", b"MM\0*") or head[4:8] == b"ftyp"


def to_rgb(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode what OpenCV does not: height x width x 3. ValueError and Pillow's errors where it is damaged."""
    with open_lazily(data) as picture, _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):  # 16 bits of grey
            grey = np.clip(np.asarray(upright, np.int64) >> 8, 0, 255).astype(np.uint8)
            return np.repeat(grey[..., None], 3, axis=2)
        if upright.mode == "F":
            raise ValueError("its pixels are fractions")
        return np.asarray(upright.convert("RGB"), np.uint8)
