"""A face -> predicted gender and age, by InsightFace's genderage networks. Always called predicted."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError, digest_file
from ffhqref.faces.geometry import ALIGNED_SIDE, TEMPLATE, similarity_to
from ffhqref.faces.networks import Device, open_session, provider_for

GENDERS = ("female", "male")
PAIRS = 100  # outputs of the older network: a pair for each year, whether the person is older
PACK_SIDE = 96  # px that the newer one sees: a square of 1.5 box sides around the face's box,
BOX, BOX_CENTRE = 158.0, (56.0, 62.0)  # which lies so in ArcFace's 112 px (measured on shared photographs)


@dataclass(frozen=True)
class Predicted:
    """Gender with its probability; age in years, with the odds of each year (0 to 100) where known."""

    gender: str
    gender_probability: float
    age: int
    years: Float64 | None = None


class GenderAge:
    """The network of an InsightFace pack (96 px, three outputs) or its older one (112 px, 202 outputs)."""

    def __init__(self, path: Path, device: Device = "auto") -> None:
        self.path, self.digest = path, digest_file(path) if path.is_file() else ""
        self._run = open_session(path, provider_for(device))
        self._input = self._run.get_inputs()[0].name
        self._mean, self._scale = 0.0, 1.0
        shape = list(self._run.get_inputs()[0].shape)
        self._side = shape[2] if len(shape) == 4 and isinstance(shape[2], int) else 0
        if self._side == PACK_SIDE:
            self._read_range()
        self._outputs = self._probe()

    def _read_range(self) -> None:
        """How pixels go in, as insightface reads it from the network's first nodes."""
        from insightface.model_zoo.attribute import Attribute

        with contextlib.redirect_stdout(io.StringIO()):
            head = Attribute(model_file=str(self.path), session=self._run)
        self._mean, self._scale = float(head.input_mean), float(head.input_std)

    def _probe(self) -> int:
        wanted = {PACK_SIDE: 3, ALIGNED_SIDE: 2 + 2 * PAIRS}
        if self._side in wanted:
            with contextlib.suppress(Exception):  # ONNX Runtime's own have no common base
                blank = np.zeros((self._side, self._side, 3), np.uint8)
                if self._forward(blank).size == wanted[self._side]:
                    return wanted[self._side]
        raise UserError(f"{self.path} is no genderage network of InsightFace: its inputs or outputs differ.")

    def _forward(self, face: Rgb) -> Float64:
        blob = ((face.astype(np.float32) - self._mean) / self._scale).transpose(2, 0, 1)[None]
        found = self._run.run(None, {self._input: np.ascontiguousarray(blob)})[0]
        return np.asarray(found, np.float64).ravel()

    def predict(self, image: Rgb, landmarks: Float32) -> Predicted:
        """Labels of the face with these five points (5 x 2 px)."""
        points = np.asarray(TEMPLATE, np.float32)
        if self._side == PACK_SIDE:
            points = (points - np.array(BOX_CENTRE, np.float32)) * np.float32(PACK_SIDE / BOX) + PACK_SIDE / 2
        matrix = similarity_to(landmarks, np.asarray(points, np.float32))
        face = cv2.warpAffine(image, matrix, (self._side, self._side), flags=cv2.INTER_LINEAR)
        return read_outputs(self._forward(np.asarray(face, np.uint8)))


def read_outputs(found: Float64) -> Predicted:
    """What three or 202 outputs say."""
    genders = _softmax(found[None, :2])[0]
    gender = int(genders.argmax())
    if found.size == 3:
        return Predicted(GENDERS[gender], float(genders[gender]), round(float(found[2]) * 100))
    pairs = found[2:].reshape(PAIRS, 2)
    older = _softmax(pairs)[:, 1]
    return Predicted(GENDERS[gender], float(genders[gender]), int(pairs.argmax(1).sum()), year_odds(older))


def _softmax(rows: Float64) -> Float64:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), np.float64)


def year_odds(older: Float64) -> Float64:
    """The probability of each sum of independent yes-no answers (0 to n): the Poisson binomial."""
    odds = np.ones(1)
    for chance in older:
        odds = np.convolve(odds, [1 - chance, chance])
    return odds
