"""A picture -> a label for each pixel of the face, by an ONNX face parser of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffhqref.core.images import Rgb, resize
from ffhqref.core.store import UserError, digest_file
from ffhqref.faces.networks import open_session, provider_for

SIDE = 512  # px that such parsers are trained at, where the file does not say
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class FaceParser:
    """A segmentation network of CelebAMask-HQ's 19 classes: N x 3 x S x S in ImageNet's normalisation ->
    N x 19 x S' x S' of scores (its first output)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run = open_session(path, provider_for("auto"))
        shape = self._run.get_inputs()[0].shape
        if len(shape) != 4 or shape[1] != 3:
            raise UserError(f"{path} is not a face parser: it must take N x 3 x height x width.")
        self._input = self._run.get_inputs()[0].name
        self._side = shape[2] if isinstance(shape[2], int) else SIDE
        self.digest = digest_file(path)

    def labels(self, image: Rgb) -> npt.NDArray[np.uint8]:
        """S' x S' labels, 0 to 18."""
        small = resize(image, self._side, self._side).astype(np.float32) / 255
        blob = ((small - np.array(MEAN, np.float32)) / np.array(DEVIATION, np.float32)).transpose(2, 0, 1)[
            None
        ]
        try:
            scores = np.asarray(self._run.run(None, {self._input: np.ascontiguousarray(blob)})[0])
        except Exception as error:  # ONNX Runtime's own exceptions have no common base
            raise UserError(
                f"{self.path} failed on a picture ({str(error).splitlines()[0][:120]})."
            ) from None
        if scores.ndim != 4 or scores.shape[:2] != (1, 19):
            raise UserError(f"{self.path} is not a face parser of 19 classes: it gives {list(scores.shape)}.")
        return np.asarray(scores[0].argmax(0), np.uint8)
