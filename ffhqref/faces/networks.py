"""Photograph -> aligned face -> unit embedding: the only user of insightface and ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from ffhqref.core.images import Rgb, resize
from ffhqref.core.store import UserError, digest_file

Floats = npt.NDArray[np.float32]
Device = Literal["auto", "cpu", "cuda"]

SIDE = 112  # px of an aligned face
TEMPLATE = (  # px of both eyes, nose and mouth corners in ArcFace's 112 x 112 face (Deng et al. 2019)
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
)  # fmt: skip
MIDDLE = (0.0625, 0.9375)  # of height and width: the crop of the paper's identity metric
DIMENSIONS = (128, 256, 512, 1024)  # that an embedding may have
SAME_EMBEDDING = 0.9999  # cosine between a face embedded singly and beside another


@dataclass(frozen=True)
class Face:
    """A face found in a photograph; px in the decoded picture."""

    box: Floats  # left, top, right, bottom
    score: float  # 0..1
    landmarks: Floats  # 5 x 2: eyes, nose, mouth corners; the picture's left one first

    @property
    def side(self) -> float:
        """The box's shorter side, px."""
        left, top, right, bottom = map(float, self.box)
        return min(right - left, bottom - top)


def provider_for(device: Device) -> str:
    """The ONNX Runtime provider for a device; UserError where CUDA is asked for and not there."""
    there = onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and "CUDAExecutionProvider" not in there):
        return "CPUExecutionProvider"
    if "CUDAExecutionProvider" in there:
        return "CUDAExecutionProvider"
    raise UserError(
        "--device cuda: this ONNX Runtime has no CUDA provider; install onnxruntime-gpu as the README's "
        "section on GPUs says, or give --device cpu."
    )


def _session(path: Path, provider: str) -> Any:
    """A session whose calls run in the calling thread, so that threads share it and results never vary."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not path.is_file():
        raise UserError(f"There is no network file {path}: give the path of an ONNX file.")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime raises kinds of its own, with no common base
        reason = str(error).splitlines()[0][:120]
        raise UserError(f"{path} is not a network that ONNX Runtime can load ({reason}).") from None
    if session.get_providers()[0] != provider:  # it falls back to the CPU with no more than a log line
        raise UserError(f"{path}: {provider} did not start; see `ffhqref doctor`, or give --device cpu.")
    return session


class Detector:
    """SCRFD with five landmarks, from an ONNX file of InsightFace's model zoo.

    `size` is the side in px of the square it looks at. A face that fills the picture is missed there
    unless the picture is padded, a small face in a large photograph unless the square is larger: these
    are tried in turn until a face is found.
    """

    def __init__(self, path: Path, device: Device = "auto", *, size: int = 320, min_score: float = 0.5):
        session = _session(path, provider_for(device))
        if len(session.get_outputs()) not in (9, 15):
            raise UserError(f"{path} is not an SCRFD detector with landmarks: it must have 9 or 15 outputs.")
        from insightface.model_zoo.scrfd import SCRFD  # a second to import: only where it is used

        self._network = SCRFD(model_file=str(path), session=session)
        self._network.prepare(0, det_thresh=min_score)
        self.size = size
        self.digest = digest_file(path)
        self._probe(path, session)

    def _probe(self, path: Path, session: Any) -> None:
        """UserError unless a black picture gives scores, boxes and five landmarks at each stride."""
        blob = np.zeros((1, 3, self.size, self.size), np.float32)
        try:
            outputs = session.run(None, {session.get_inputs()[0].name: blob})
            widths = [output.shape[-1] for output in outputs]
            strides = len(widths) // 3
            good = widths == [1] * strides + [4] * strides + [10] * strides
            self._look(np.zeros((self.size, self.size, 3), np.uint8), 0.0, self.size)
        except Exception:  # ONNX Runtime and insightface raise kinds of their own
            good = False
        if not good:
            raise UserError(f"{path} is not an SCRFD detector with landmarks: its outputs are others.")

    def find(self, image: Rgb) -> list[Face]:
        """The faces of the first try that finds any, best placed first (see `best_placed`)."""
        for padding, size in [*self._scales(image), (1.5, self.size)]:
            if faces := self._look(image, padding, size):
                return faces
        return []

    def find_all(self, image: Rgb) -> list[Face]:
        """Every face at all scales tried by `find`, overlapping ones joined, from left to right."""
        found = [face for scale in self._scales(image) for face in self._look(image, *scale)]
        return sorted(_without_overlaps(found), key=lambda face: tuple(face.box.tolist()))

    def _scales(self, image: Rgb) -> list[tuple[float, int]]:
        """Padding, as a part of the longer side, and side of the square; none for a mere strip."""
        longest = max(image.shape[:2])
        if longest > 16 * min(image.shape[:2]):
            return []
        scales = [(0.0, self.size), (0.5, self.size), (0.0, 2 * self.size)]
        return scales + ([(0.0, 4 * self.size)] if longest > 4 * self.size else [])

    def _look(self, image: Rgb, padding: float, size: int) -> list[Face]:
        seen, scale, corner = _padded(image, padding, size) if padding else (image, 1.0, 0)
        boxes, landmarks = self._network.detect(
            cv2.cvtColor(seen, cv2.COLOR_RGB2BGR), input_size=(size, size)
        )
        faces = [
            Face((_floats(box[:4]) - corner) / scale, float(box[4]), (_floats(points) - corner) / scale)
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return best_placed(faces, image.shape[1], image.shape[0])


def _padded(image: Rgb, padding: float, size: int) -> tuple[Rgb, float, int]:
    """A picture in a black square of `size` px, its scale there, and where its corner is (both axes).

    It is shrunk before it is padded: a large photograph must not take many times its memory.
    """
    height, width = image.shape[:2]
    scale = size / (max(height, width) * (1 + 2 * padding))
    small = resize(image, max(1, round(width * scale)), max(1, round(height * scale)))
    corner = round(padding * max(height, width) * scale)
    square = np.zeros((size, size, 3), np.uint8)
    square[corner : corner + small.shape[0], corner : corner + small.shape[1]] = small
    return square, scale, corner


def _floats(values: Any) -> Floats:
    return np.asarray(values, np.float32)


def best_placed(faces: Sequence[Face], width: int, height: int) -> list[Face]:
    """Faces ordered by area less twice the squared distance from the picture's middle, greatest first."""

    def worth(face: Face) -> float:
        left, top, right, bottom = map(float, face.box)
        off = ((left + right) / 2 - width / 2) ** 2 + ((top + bottom) / 2 - height / 2) ** 2
        return (right - left) * (bottom - top) - 2 * off

    return sorted(faces, key=worth, reverse=True)


def _without_overlaps(faces: Sequence[Face]) -> list[Face]:
    """One face for each place: of boxes whose intersection over union passes 0.4 the best score stays."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face.box, other.box) <= 0.4 for other in kept):
            kept.append(face)
    return kept


def _overlap(a: Floats, b: Floats) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    both = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common
    return common / both if both > 0 else 0.0


class Embedder:
    """ArcFace: aligned faces -> unit embeddings, from an ONNX file as InsightFace's model zoo has them.

    Takes RGB faces of 112x112 px, (x - 127.5) / 127.5 (or whatever the network's own head says).
    """

    def __init__(self, path: Path, device: Device = "auto"):
        self.provider = provider_for(device)
        self._run = _session(path, self.provider)
        inputs, outputs = self._run.get_inputs(), self._run.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(outputs) != 1 or len(shape) != 4 or list(shape[1:]) != [3, SIDE, SIDE]:
            raise UserError(f"{path} is not an ArcFace network: it must take N x 3 x {SIDE} x {SIDE}.")
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        with contextlib.redirect_stdout(io.StringIO()):
            head = ArcFaceONNX(model_file=str(path), session=self._run)
        self._mean, self._scale = float(head.input_mean), float(head.input_std)
        self._input, self._fixed_batch = inputs[0].name, shape[0] if isinstance(shape[0], int) else None
        self.path, self.digest = path, digest_file(path)
        self.dimension = self._probe_dimension()

    def _probe_dimension(self) -> int:
        found = self._forward(np.zeros((1, SIDE, SIDE, 3), np.uint8))
        if found.ndim != 2 or found.shape[0] != 1 or found.shape[1] not in DIMENSIONS:
            wanted = ", ".join(map(str, DIMENSIONS))
            shape = list(found.shape)
            raise UserError(
                f"{self.path} is not an ArcFace network: it gives {shape}, not 1 x one of {wanted}."
            )
        return int(found.shape[1])

    def _forward(self, faces: Rgb) -> Floats:
        """N x 112 x 112 x 3 uint8 RGB -> N x D as the network gives it."""
        blob = (faces.astype(np.float32) - self._mean) / self._scale
        blob = np.ascontiguousarray(blob.transpose(0, 3, 1, 2))  # NHWC -> NCHW
        try:
            return np.asarray(self._run.run(None, {self._input: blob})[0], np.float32)
        except Exception as error:
            reason = str(error).splitlines()[0][:120]
            raise UserError(f"{self.path} failed on a batch of {len(faces)} ({reason}).") from None

    @cached_property
    def takes_batches(self) -> bool:
        """Whether a batch gives what single faces give.

        Some files say N and answer wrongly, with no error, above 1: two faces are embedded singly and
        together to find out.
        """
        if self._fixed_batch is not None:
            return False
        noise = np.random.default_rng(0).integers(0, 256, (2, 14, 14, 3), np.uint8)
        two = noise.repeat(8, 1).repeat(8, 2)
        single = self._one_by_one(two)
        try:
            together = _unit(self._forward(two))
        except (UserError, ValueError):
            return False
        return together.shape == single.shape and bool((together * single).sum(1).min() > SAME_EMBEDDING)

    def embed(self, faces: Rgb) -> Floats:
        """N x 112 x 112 x 3 uint8 RGB -> N x D float32 of unit length (any N)."""
        if len(faces) == 0:
            return np.zeros((0, self.dimension), np.float32)
        try:
            return _unit(self._forward(faces)) if self.takes_batches else self._one_by_one(faces)
        except ValueError as error:
            raise UserError(f"{self.path} gives {error}: it is damaged or no ArcFace network.") from None

    def _one_by_one(self, faces: Rgb) -> Floats:
        return _unit(np.concatenate([self._forward(faces[i : i + 1]) for i in range(len(faces))]))


def _unit(vectors: Floats) -> Floats:
    """Rows scaled to unit length, in float64; ValueError where a row is zero or not a number."""
    wide = vectors.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    if not np.isfinite(length).all() or (length == 0).any():
        raise ValueError("a vector that is zero or not a number")
    return np.asarray(wide / length, np.float32)


def similarity_to(points: Floats, template: Floats) -> npt.NDArray[np.float64]:
    """The 2x3 matrix of the similarity that takes `points` (n x 2) to `template` in least squares.

    Umeyama 1991, equations 40 to 43, without reflection.
    """
    source, target = np.asarray(points, np.float64), np.asarray(template, np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    source, target = source - source_mean, target - target_mean
    u, spread, vt = np.linalg.svd(target.T @ source)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u * sign @ vt
    scale = (spread * sign).sum() / max((source**2).sum(), 1e-12)
    return np.column_stack([scale * rotation, target_mean - scale * rotation @ source_mean])


def align(image: Rgb, landmarks: Floats) -> Rgb:
    """The face as 112 x 112 px: five points moved onto ArcFace's template, bilinear, black outside."""
    matrix = similarity_to(landmarks, _floats(TEMPLATE))
    return np.asarray(cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.uint8)


def crop_middle(image: Rgb) -> Rgb:
    """The middle of an FFHQ-aligned picture as 112 x 112 px: the crop of the paper's identity metric."""
    height, width = image.shape[:2]
    top, bottom = (int(part * height) for part in MIDDLE)
    left, right = (int(part * width) for part in MIDDLE)
    middle = image[top:bottom, left:right]
    return np.asarray(cv2.resize(middle, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def five_of_68(points: Floats) -> Floats:
    """The eyes' middles, nose tip and mouth corners (5 x 2) of dlib's 68 points (68 x 2)."""
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


def ffhq_matrix(landmarks: Floats, size: int = 512) -> npt.NDArray[np.float64]:
    """The 2x3 matrix from a photograph to FFHQ's oriented square of `size` px, from five points.

    FFHQ's rule: the square's half side is the greater of 2.0 eye distances and 1.8 eye-to-mouth
    distances, its centre 0.1 eye-to-mouth below the eyes' middle, its axes those of eyes and mouth.
    """
    left_eye, right_eye, _, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    eye, mouth = (left_eye + right_eye) / 2, (left_mouth + right_mouth) / 2
    eye_to_eye, eye_to_mouth = right_eye - left_eye, mouth - eye
    x = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]])
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / max(np.hypot(*x), 1e-9)
    y = np.array([-x[1], x[0]])
    centre = eye + eye_to_mouth * 0.1
    corners = _floats([centre - x - y, centre + x - y, centre - x + y])
    return np.asarray(cv2.getAffineTransform(corners, _floats([[0, 0], [size, 0], [0, size]])), np.float64)


def ffhq_crop(image: Rgb, landmarks: Floats, size: int = 512) -> Rgb:
    """A face cut and turned as FFHQ frames it, `size` px square; what lies outside mirrors the picture."""
    matrix = ffhq_matrix(landmarks, size)
    shrink = 1 / max(np.hypot(*matrix[:, 0]), 1e-9)  # px of the photograph for one of the crop
    if shrink > 1.5:  # average first: bilinear sampling alone would alias
        small = (max(1, round(image.shape[1] / shrink)), max(1, round(image.shape[0] / shrink)))
        factors = np.array([small[0] / image.shape[1], small[1] / image.shape[0]])
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = ffhq_matrix(np.asarray(landmarks * factors, np.float32), size)
    return np.asarray(
        cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101),
        np.uint8,
    )
