"""A face cut out of a photograph as FFHQ frames it (Karras et al. 2019, appendix A), and how good the cut is.

Points are in px where a pixel's middle is a whole number, as detectors give them; corners of a square of n px
lie at 0 and n, half a pixel beside the middles of its outer pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import Rgb, resize
from ffhqref.faces.geometry import ffhq_matrix
from ffhqref.faces.networks import Detector

LARGEST_GRID = 4096  # px, side of the finest grid that is sampled, as in FFHQ
# Parts of the square's side: room beside it, least padding, blur of the padding
BORDER, PAD, SIGMA = 0.1, 0.3, 0.02
VIEWS = (154, 179, 197)  # px of the frame in which points are found again
# How much higher and larger the frame of SCRFD's points is than FFHQ's, as parts of its side: medians over
# aligned photographs that are not FFHQ's own (CelebRef-HQ's and others), so that FFHQ's can be the test
HIGHER, LARGER = 0.0093, 0.0229
BLUR_SIDE = 256  # px of the crop whose middle is looked at for blur
NOSE = 0.62  # how far the nose tip stands before the face, in eye distances; fits FFHQ's published yaws


@dataclass(frozen=True)
class Crop:
    """A face in FFHQ's frame, and what is known of its quality."""

    picture: Rgb  # square
    landmarks: Float32  # 5 x 2 px in the crop
    eyes: float  # px between the eyes in the photograph
    padding: float  # which part of the crop lies outside the photograph, 0..1
    blur: float  # variance of the Laplacian of the face's middle: the smaller, the more blurred


def cut(image: Rgb, landmarks: Float32, size: int) -> Crop:
    """The face as `size` px square, from the photograph's own pixels, which are resampled once.

    A grid as fine as the photograph is sampled (Lanczos) and reduced (Lanczos). What lies outside mirrors
    the photograph, more and more blurred towards the median colour.
    """
    outwards = _inverse(ffhq_matrix(landmarks, size))  # corner px of the crop -> px of the photograph
    far = _padding(outwards, size, image)
    margin = math.ceil(3 * SIGMA * size) if far is not None else 0  # what the blur reaches
    picture = _sample(image, outwards, size, margin)
    places = _places(outwards, size, margin)
    if far is not None:
        picture = _soften(picture, places, image, far, SIGMA * size)
    inner = slice(margin, margin + size)
    picture = np.ascontiguousarray(picture[inner, inner])
    outside = _beyond(places[inner, inner], image).max(axis=2) > 0.5
    return Crop(picture, in_crop(landmarks, size), eye_distance(landmarks), float(outside.mean()),
                sharpness(picture))  # fmt: skip


def frame_side(landmarks: Float32) -> float:
    """Side of FFHQ's square around a face, px of the photograph."""
    return float(1 / max(np.hypot(*ffhq_matrix(landmarks, 1)[:, 0]), 1e-9))


def in_crop(landmarks: Float32, size: int) -> Float32:
    """Where five points of the photograph lie in the crop."""
    matrix = ffhq_matrix(landmarks, size)
    return np.asarray(landmarks @ matrix[:, :2].T + matrix[:, 2] - 0.5, np.float32)


def _inverse(matrix: Float64) -> Float64:
    return np.asarray(cv2.invertAffineTransform(matrix), np.float64)


def _sample(image: Rgb, outwards: Float64, size: int, margin: int) -> Rgb:
    """The square and `margin` px around it, px of the crop; the photograph is mirrored at its edges."""
    wide = size + 2 * margin
    finer = min(max(1, math.ceil(np.hypot(*outwards[:, 0]))), max(1, LARGEST_GRID // size))
    start = 0.5 / finer - margin  # where the middle of the grid's first sample lies in the crop
    step = np.array([[1 / finer, 0, start], [0, 1 / finer, start], [0, 0, 1]])
    grid = cv2.warpAffine(
        image, outwards @ step, (wide * finer, wide * finer),
        flags=cv2.INTER_LANCZOS4 | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    if finer == 1:
        return np.asarray(grid, np.uint8)
    return np.asarray(Image.fromarray(grid).resize((wide, wide), Image.Resampling.LANCZOS), np.uint8)


def _places(outwards: Float64, size: int, margin: int) -> Float32:
    """Where each pixel of the square with its margin lies in the photograph: height x width x (x, y) px."""
    middles = np.arange(-margin, size + margin) + 0.5
    x, y = np.meshgrid(middles, middles)
    points = np.stack([x, y, np.ones_like(x)], axis=2)
    return np.asarray(points @ outwards.T, np.float32)


def _beyond(places: Float32, image: Rgb) -> Float32:
    """How far places lie beyond the left, top, right and bottom edge, px; negative inside."""
    height, width = image.shape[:2]
    last = np.array([width - 1, height - 1], np.float32)
    return np.concatenate([-places, places - last], axis=2)


def _padding(outwards: Float64, size: int, image: Rgb) -> Float64 | None:
    """Over how many px left, top, right and bottom the padding fades; None where none is needed.

    FFHQ's rule: the square and a tenth of its side around it must lie in the picture, but for 4 px.
    """
    corners = np.array([[0, 0, 1], [size, 0, 1], [0, size, 1], [size, size, 1]]) @ outwards.T
    side = float(np.hypot(*outwards[:, 0])) * size
    border = max(round(side * BORDER), 3)
    height, width = image.shape[:2]
    lacking = np.concatenate([-np.floor(corners.min(0)), np.ceil(corners.max(0)) - [width, height]])
    needed = np.maximum(lacking + border, 0)
    if needed.max() <= border - 4:
        return None
    return np.asarray(np.maximum(needed, round(side * PAD)), np.float64)


def _soften(picture: Rgb, places: Float32, image: Rgb, far: Float64, sigma: float) -> Rgb:
    """Blur what is mirrored, from a third of the padding inside the edge on, and fade it to the median."""
    mask = (_beyond(places, image) / np.asarray(far, np.float32)).max(axis=2)[..., None]
    soft = picture.astype(np.float32)
    blurred = cv2.GaussianBlur(soft, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    soft += (blurred - soft) * np.clip(3 * mask + 1, 0, 1)
    soft += (np.median(soft, axis=(0, 1)) - soft) * np.clip(mask, 0, 1)
    return np.asarray(np.clip(np.rint(soft), 0, 255), np.uint8)


def refine(detector: Detector, image: Rgb, landmarks: Float32) -> Float32:
    """The five points found again in the roughly framed face, as FFHQ's own frame would have them.

    Found in `VIEWS` sizes and mirrored, and averaged: so turned faces stand upright, and what differs by
    size or side cancels. `HIGHER` and `LARGER` then take away what SCRFD's points and FFHQ's 68 differ in.
    The points stay as they are where nothing is found, or another face.
    """
    rough = in_frame(landmarks, landmarks)
    found = []
    for side in VIEWS:
        square = _sample(image, _inverse(ffhq_matrix(landmarks, side)), side, 0)
        straight = _nearest(detector, square, rough)
        mirrored = _nearest(detector, square[:, ::-1], _mirrored(rough))
        if straight is None or mirrored is None:
            return landmarks
        found += [straight, _mirrored(mirrored)]
    points = 0.5 + (np.mean(found, axis=0) - 0.5 + [0, HIGHER]) * (1 - LARGER)
    outwards = _inverse(ffhq_matrix(landmarks, 1))
    return np.asarray(points @ outwards[:, :2].T + outwards[:, 2], np.float32)


def in_frame(points: Float32, landmarks: Float32) -> Float64:
    """Points of the photograph in FFHQ's frame of a face, whose corners are 0, 0 and 1, 1."""
    matrix = ffhq_matrix(landmarks, 1)
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float64)


def _nearest(detector: Detector, square: Rgb, rough: Float64) -> Float64 | None:
    """The points of the face there, in its frame; None where all are half an eye distance off or more."""
    faces = detector.find_close(np.ascontiguousarray(square))
    points = [np.asarray(face.landmarks, np.float64) / len(square) for face in faces]
    offs = [float(np.hypot(*(one - rough).T).mean()) for one in points]
    if not points or min(offs) > np.hypot(*(rough[1] - rough[0])) / 2:
        return None
    return points[int(np.argmin(offs))]


def _mirrored(points: Float64) -> Float64:
    """Five points in the frame as its mirror image has them: left and right change names."""
    return np.column_stack([1 - points[:, 0], points[:, 1]])[[1, 0, 2, 4, 3]]


def eye_distance(landmarks: Float32) -> float:
    """px between both eyes."""
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


def yaw(landmarks: Float32) -> float:
    """How far the head is turned, degrees, positive to the picture's right.

    From how far the nose tip lies beside the middle of eyes and mouth, along the eyes' line:
    n = NOSE tan(yaw) in eye distances. On FFHQ's photographs within 3 degrees of poses published for
    them, up to 26 degrees.
    """
    left_eye, right_eye, nose, left_mouth, right_mouth = np.asarray(landmarks, np.float64)
    across = right_eye - left_eye
    middle = (left_eye + right_eye + left_mouth + right_mouth) / 4
    beside = float((nose - middle) @ across / max(float(across @ across), 1e-9))
    return math.degrees(math.atan(beside / NOSE))


def sharpness(picture: Rgb) -> float:
    """Variance of the Laplacian of the middle half of a crop, at `BLUR_SIDE` px and in grey."""
    quarter = BLUR_SIDE // 4
    middle = slice(quarter, BLUR_SIDE - quarter)
    grey = cv2.cvtColor(resize(picture, BLUR_SIDE, BLUR_SIDE)[middle, middle], cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def frame_error(landmarks: Float32, width: int, height: int) -> float:
    """How far a picture's own corners lie from FFHQ's frame around its face, mean, as a part of its side."""
    outwards = _inverse(ffhq_matrix(landmarks, 1))
    unit = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], np.float64)
    off = unit @ outwards.T - unit[:, :2] * [width, height]
    return float(np.hypot(*off.T).mean() / max(width, height))
