"""How pictures are read: whole, or as the published code reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ffhqref.core import images
from ffhqref.core.images import BadImage, Rgb

Reading = Literal["whole", "published"]


def published(path: Path) -> Rgb:
    """A picture as Pillow's `convert("RGB")` gives it, which is what the published code does.

    Differs from `images.read` where EXIF says that the camera was turned (here it stays as stored), and in
    16-bit, palette and CMYK pictures, which Pillow converts in its own way. BadImage as there.
    """
    images.read(path)  # the same files are refused: cut off, too large, no picture
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, on palettes with transparency
            with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as picture:
                return np.array(picture.convert("RGB"))
    except (OSError, ValueError) as error:
        raise BadImage("unreadable", f"is no picture that Pillow converts ({error})") from None


READERS: Mapping[Reading, Callable[[Path], Rgb]] = {"whole": images.read, "published": published}
