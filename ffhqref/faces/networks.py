"""The two networks: a photograph -> its faces, aligned faces -> unit embeddings; run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from ffhqref.core.arrays import Float32
from ffhqref.core.images import Rgb, resize
from ffhqref.core.store import UserError, digest_file, need_memory
from ffhqref.faces.geometry import ALIGNED_SIDE

Device = Literal["auto", "cpu", "cuda"]
RUNTIME = f"onnxruntime {onnxruntime.__version__}"  # what embeddings are computed by

DIMENSIONS = (128, 256, 512, 1024)  # that an embedding may have
CLOSE = 256  # px of the square in which a face that fills a picture is found
SAME_EMBEDDING = 0.9999  # cosine between a face embedded alone and beside another


@dataclass(frozen=True)
class Face:
    """A face found in a photograph; px in the decoded picture."""

    box: Float32  # left, top, right, bottom
    score: float  # 0..1
    landmarks: Float32  # 5 x 2: eyes, nose, mouth corners; the picture's left one first

    @property
    def side(self) -> float:
        """The box's shorter side, px."""
        left, top, right, bottom = map(float, self.box)
        return min(right - left, bottom - top)


def provider_for(device: Device) -> str:
    """The ONNX Runtime provider for a device; UserError where CUDA is asked for and unavailable."""
    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cpu" or (device == "auto" and not cuda):
        return "CPUExecutionProvider"
    if cuda:
        return "CUDAExecutionProvider"
    raise UserError(
        "--device cuda: this ONNX Runtime has no CUDA provider; install onnxruntime-gpu as the README's "
        "section on GPUs says, or give --device cpu."
    )


def open_session(path: Path, provider: str) -> onnxruntime.InferenceSession:
    """A session whose calls run in the calling thread, so that threads share it and results never vary."""
    onnxruntime.disable_telemetry_events()  # where it was imported before this package could switch it off
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not path.is_file():
        raise UserError(f"There is no network file {path}: give the path of an ONNX file.")
    _check_network(path)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own exceptions have no common base
        reason = _first_line(error)
        raise UserError(f"{path} is not a network that ONNX Runtime can load ({reason}).") from None
    if session.get_providers()[0] != provider:  # it falls back to the CPU with no more than a log line
        raise UserError(f"{path}: {provider} did not start; see `ffhqref doctor`, or give --device cpu.")
    return session


EXTERNAL = b"\n\x08location\x12"  # the key of a tensor's external data, as protobuf writes it
ROOM = 600 << 20  # bytes of address space that ONNX Runtime takes beside the network; with less it aborts


def _check_network(path: Path) -> None:
    """UserError where a network's weights lie in a second file, or where memory is limited too closely.

    A network is known by the digest of its one file: what lies in another could change unseen.
    """
    if path.stat().st_size == 0:
        return  # nothing to map; ONNX Runtime says that it is no network
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data.find(EXTERNAL) >= 0:
            raise UserError(
                f"{path} keeps weights in another file: save it as one (onnx.save without external data)."
            )
        need_memory(3 * len(data) + ROOM, f"Loading {path}")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:120]


class Detector:
    """SCRFD with five landmarks, from an ONNX file of InsightFace's model zoo.

    The network searches a square of `size` px. A face that fills the picture is missed there unless the
    picture is padded, a small face in a large photograph unless the square is larger: these are tried in
    turn until a face is found.
    """

    def __init__(self, path: Path, device: Device = "auto", *, size: int = 320, min_score: float = 0.5):
        session = open_session(path, provider_for(device))
        if len(session.get_outputs()) not in (9, 15):
            raise UserError(f"{path} is not an SCRFD detector with landmarks: it must have 9 or 15 outputs.")
        from insightface.model_zoo.scrfd import SCRFD  # a second to import: only where it is used

        self._network = SCRFD(model_file=str(path), session=session)
        self._network.prepare(0, det_thresh=min_score)
        self.size = size
        self.digest = digest_file(path)
        self._probe(path, session)

    def _probe(self, path: Path, session: onnxruntime.InferenceSession) -> None:
        """UserError unless a black picture gives scores, boxes and five landmarks at each stride."""
        blob = np.zeros((1, 3, self.size, self.size), np.float32)
        try:
            outputs = session.run(None, {session.get_inputs()[0].name: blob})
            widths = [output.shape[-1] for output in outputs]
            strides = len(widths) // 3
            good = widths == [1] * strides + [4] * strides + [10] * strides
            self._detect(np.zeros((self.size, self.size, 3), np.uint8), 0.0, self.size)
        except Exception:  # those of ONNX Runtime and insightface have no common base
            good = False
        if not good:
            raise UserError(f"{path} is not an SCRFD detector with landmarks: its outputs differ.")

    def find(self, image: Rgb) -> list[Face]:
        """The faces of the first try that finds any, best placed first (see `best_placed`)."""
        for padding, size in [*self._scales(image), (1.5, self.size)]:
            if faces := self._detect(image, padding, size):
                return faces
        return []

    def find_all(self, image: Rgb) -> list[Face]:
        """Every face at all scales tried by `find`, overlapping ones joined, from left to right."""
        found = [face for scale in self._scales(image) for face in self._detect(image, *scale)]
        return sorted(_without_overlaps(found), key=lambda face: tuple(face.box.tolist()))

    def find_close(self, square: Rgb) -> list[Face]:
        """The faces of a square picture below `CLOSE` px that one of them fills, as FFHQ's do."""
        corner = (CLOSE - len(square)) // 2
        canvas = np.zeros((CLOSE, CLOSE, 3), np.uint8)
        canvas[corner : corner + len(square), corner : corner + len(square)] = square
        faces = self._detect(canvas, 0.0, CLOSE)
        return [Face(face.box - corner, face.score, face.landmarks - corner) for face in faces]

    def _scales(self, image: Rgb) -> list[tuple[float, int]]:
        """Padding, as a part of the longer side, and side of the square; none for a mere strip."""
        longest = max(image.shape[:2])
        if longest > 16 * min(image.shape[:2]):
            return []
        scales = [(0.0, self.size), (0.5, self.size), (0.0, 2 * self.size)]
        return scales + ([(0.0, 4 * self.size)] if longest > 4 * self.size else [])

    def _detect(self, image: Rgb, padding: float, size: int) -> list[Face]:
        """The faces found in the picture so padded, in a square of `size` px; px of the picture itself."""
        square, scale, corner = _padded(image, padding, size) if padding else (image, 1.0, 0)
        bgr = cv2.cvtColor(square, cv2.COLOR_RGB2BGR)
        boxes, landmarks = self._network.detect(bgr, input_size=(size, size))
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


def _floats(values: npt.ArrayLike) -> Float32:
    return np.asarray(values, np.float32)


def best_placed(faces: Sequence[Face], width: int, height: int) -> list[Face]:
    """Faces ordered by area less twice the squared distance from the picture's middle, greatest first."""

    def worth(face: Face) -> float:
        left, top, right, bottom = map(float, face.box)
        off = ((left + right) / 2 - width / 2) ** 2 + ((top + bottom) / 2 - height / 2) ** 2
        return (right - left) * (bottom - top) - 2 * off

    return sorted(faces, key=worth, reverse=True)


def _without_overlaps(faces: Sequence[Face]) -> list[Face]:
    """Non-maximum suppression: of boxes whose intersection over union exceeds 0.4 the best score stays."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if all(_overlap(face.box, other.box) <= 0.4 for other in kept):
            kept.append(face)
    return kept


def _overlap(a: Float32, b: Float32) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = float(np.prod(np.maximum(sides, 0)))
    both = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - common
    return common / both if both > 0 else 0.0


class Embedder:
    """ArcFace: aligned faces -> unit embeddings, from an ONNX file as InsightFace's model zoo has them.

    Pixels go in as RGB, (x - 127.5) / 127.5, or as insightface reads it from the network's first nodes.
    """

    def __init__(self, path: Path, device: Device = "auto"):
        self.provider = provider_for(device)
        self._run = open_session(path, self.provider)
        inputs, outputs = self._run.get_inputs(), self._run.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(outputs) != 1 or list(shape[1:]) != [3, ALIGNED_SIDE, ALIGNED_SIDE]:
            raise UserError(
                f"{path} is not an ArcFace network: it must take N x 3 x {ALIGNED_SIDE} x {ALIGNED_SIDE}."
            )
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

        with contextlib.redirect_stdout(io.StringIO()):
            head = ArcFaceONNX(model_file=str(path), session=self._run)
        self._mean, self._scale = float(head.input_mean), float(head.input_std)
        self._input, self._fixed_batch = inputs[0].name, shape[0] if isinstance(shape[0], int) else None
        self.path, self.digest = path, digest_file(path)
        self.dimension = self._probe_dimension()

    def _probe_dimension(self) -> int:
        found = self._forward(np.zeros((1, ALIGNED_SIDE, ALIGNED_SIDE, 3), np.uint8))
        if found.ndim != 2 or found.shape[0] != 1 or found.shape[1] not in DIMENSIONS:
            raise UserError(
                f"{self.path} is not an ArcFace network: it gives {list(found.shape)}, "
                f"not 1 x one of {', '.join(map(str, DIMENSIONS))}."
            )
        return int(found.shape[1])

    def _forward(self, faces: Rgb | Float32) -> Float32:
        """N x 112 x 112 x 3 RGB, 0 to 255 -> N x D as the network gives it."""
        blob = (faces.astype(np.float32) - self._mean) / self._scale
        blob = np.ascontiguousarray(blob.transpose(0, 3, 1, 2))  # NHWC -> NCHW
        try:
            return np.asarray(self._run.run(None, {self._input: blob})[0], np.float32)
        except Exception as error:  # see _session
            raise UserError(
                f"{self.path} failed on a batch of {len(faces)} ({_first_line(error)})."
            ) from None

    @cached_property
    def takes_batches(self) -> bool:
        """Whether a batch gives what single faces give.

        Some files declare a batch of N and answer wrongly above 1, with no error: two faces are embedded
        one by one and together to find out.
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

    def embed(self, faces: Rgb | Float32) -> Float32:
        """N x 112 x 112 x 3 RGB, 0 to 255 -> N x D float32 of unit length (any N)."""
        if len(faces) == 0:
            return np.zeros((0, self.dimension), np.float32)
        try:
            return _unit(self._forward(faces)) if self.takes_batches else self._one_by_one(faces)
        except ValueError as error:
            raise UserError(f"{self.path} gives {error}: it is damaged or no ArcFace network.") from None

    def _one_by_one(self, faces: Rgb | Float32) -> Float32:
        return _unit(np.concatenate([self._forward(faces[i : i + 1]) for i in range(len(faces))]))


def _unit(vectors: Float32) -> Float32:
    """Rows scaled to unit length, in float64; ValueError where a row is zero or not a number."""
    wide = vectors.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    if not np.isfinite(length).all() or (length == 0).any():
        raise ValueError("a vector that is zero or not a number")
    return np.asarray(wide / length, np.float32)
