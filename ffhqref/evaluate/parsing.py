"""Face parsing for fLPIPS: CelebAMask-HQ's classes as maps in a folder, or by a user's ONNX parser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ffhqref.core import images
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.store import UserError
from ffhqref.faces.parser import FaceParser

# the paper's of CelebAMask-HQ's: face, both brows, both eyes, nose, three mouth classes, eyeglasses
CLASSES = (2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15)
MOST = 19  # labels run from 0 to 18

Mask = npt.NDArray[np.bool_]
Masks = Callable[[str, Rgb], Mask]  # a target's name and picture -> where its face is; BadImage where unknown


def open_masks(parsing: Path, size: int) -> Masks:
    """From a folder of label maps (PNG, 8-bit labels, under the targets' names) or an ONNX parser."""
    if parsing.is_dir():
        return lambda name, image: mask_of(read_labels(parsing, name), size)
    if parsing.suffix == ".onnx":
        parser = FaceParser(parsing)
        return lambda name, image: mask_of(parser.labels(image), size)
    raise UserError(f"--parsing {parsing}: give a folder of label maps or an ONNX file of a face parser.")


def read_labels(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """A label map (H x W, labels 0 to 18) below the folder, under the target's name with `.png`.

    BadImage where it is not there, or not a map of labels.
    """
    path = images.find(folder, images.png_name(name))
    try:
        with Image.open(path, formats=("PNG",)) as opened:
            if opened.mode not in ("L", "P") or opened.width * opened.height > images.MAX_PIXELS:
                raise BadImage("no_parsing", f"its parsing map {path} is not an 8-bit label map")
            labels = np.asarray(opened, np.uint8)
    except FileNotFoundError:
        raise BadImage("no_parsing", f"it has no parsing map {path}") from None
    except OSError as error:
        raise BadImage("no_parsing", f"its parsing map {path} cannot be read ({error})") from None
    if labels.max(initial=0) >= MOST:
        raise BadImage("no_parsing", f"its parsing map {path} has labels above {MOST - 1}")
    return labels


def mask_of(labels: npt.NDArray[np.uint8], size: int) -> Mask:
    """Where the face's own classes are, at `size` x `size` px (nearest neighbour)."""
    inside = np.isin(labels, CLASSES).astype(np.uint8) * 255
    return np.asarray(Image.fromarray(inside).resize((size, size), Image.Resampling.NEAREST)) > 0


def masked(image: Rgb, mask: Mask) -> Rgb:
    """The picture with everything outside the mask black."""
    return np.asarray(image * mask[:, :, None], np.uint8)
