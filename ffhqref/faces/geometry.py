"""Five points of a face -> where it lies: aligned for the embedder, or in FFHQ's frame. No network."""

from __future__ import annotations

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb

ALIGNED_SIDE = 112  # px, side of an aligned face
TEMPLATE = (  # px of both eyes, nose and mouth corners in ArcFace's 112 x 112 face (Deng et al. 2019)
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
)  # fmt: skip
METRIC_CROP = (0.0625, 0.9375)  # of height and width: the crop of the paper's identity metric


def similarity_to(points: Float32, template: Float32) -> Float64:
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


def align(image: Rgb, landmarks: Float32) -> Rgb:
    """The face as 112 x 112 px: five points moved onto ArcFace's template, bilinear, black outside."""
    matrix = similarity_to(landmarks, np.asarray(TEMPLATE, np.float32))
    face = cv2.warpAffine(image, matrix, (ALIGNED_SIDE, ALIGNED_SIDE), flags=cv2.INTER_LINEAR)
    return np.asarray(face, np.uint8)


def crop_middle(image: Rgb) -> Rgb:
    """The middle of an FFHQ-aligned picture as 112 x 112 px: the crop of the paper's identity metric."""
    size = (ALIGNED_SIDE, ALIGNED_SIDE)
    return np.asarray(cv2.resize(_middle(image), size, interpolation=cv2.INTER_AREA), np.uint8)


def published_crop(image: Rgb) -> Float32:
    """`crop_middle` without rounding, as the paper's metric has it: 112 x 112 x 3, 0 to 255."""
    middle, size = _middle(image).astype(np.float32), (ALIGNED_SIDE, ALIGNED_SIDE)
    return np.asarray(cv2.resize(middle, size, interpolation=cv2.INTER_AREA), np.float32)


def _middle(image: Rgb) -> Rgb:
    height, width = image.shape[:2]
    top, bottom = (int(part * height) for part in METRIC_CROP)
    left, right = (int(part * width) for part in METRIC_CROP)
    return image[top:bottom, left:right]


def five_of_68(points: Float32) -> Float32:
    """The eyes' middles, nose tip and mouth corners (5 x 2) of dlib's 68 points (68 x 2)."""
    eyes = [points[36:42].mean(0), points[42:48].mean(0)]
    return np.stack([*eyes, points[30], points[48], points[54]]).astype(np.float32)


def ffhq_matrix(landmarks: Float32, size: int = 512) -> Float64:
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
    corners = np.asarray([centre - x - y, centre + x - y, centre - x + y], np.float32)
    square = np.asarray([[0, 0], [size, 0], [0, size]], np.float32)
    return np.asarray(cv2.getAffineTransform(corners, square), np.float64)


def ffhq_crop(image: Rgb, landmarks: Float32, size: int = 512) -> Rgb:
    """A face cut and turned as FFHQ frames it, `size` px square; what lies outside mirrors the picture."""
    matrix = ffhq_matrix(landmarks, size)
    shrink = 1 / max(np.hypot(*matrix[:, 0]), 1e-9)  # px of the photograph for one of the crop
    if shrink > 1.5:  # average first: bilinear sampling alone would alias
        small = (max(1, round(image.shape[1] / shrink)), max(1, round(image.shape[0] / shrink)))
        factors = np.array([small[0] / image.shape[1], small[1] / image.shape[0]])
        image = np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = ffhq_matrix(np.asarray(landmarks * factors, np.float32), size)
    border = cv2.BORDER_REFLECT_101
    face = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(face, np.uint8)
