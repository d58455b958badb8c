"""Faces in photographs that are not aligned: find, frame as FFHQ does, and paste back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Rgb
from ffhqref.faces.geometry import ffhq_crop, ffhq_matrix
from ffhqref.faces.networks import Detector

FEATHER = 0.06  # of the square's side: how far the edge of a pasted face fades out

Paste = Callable[[Rgb], Rgb]


class FaceAligner:
    """Cuts the best placed face of a photograph as FFHQ frames it."""

    def __init__(self, detector: Path) -> None:
        self.detector = Detector(detector, "cpu")
        self.digest = self.detector.digest

    def crop(self, photo: Rgb, size: tuple[int, int]) -> tuple[Rgb, Paste]:
        """The face at `size` (square), and what pastes a restored one back into the photograph.

        BadImage where no face is found.
        """
        faces = self.detector.find(photo)
        if not faces:
            raise BadImage("no_face", "shows no face that the detector finds")
        landmarks = faces[0].landmarks
        return ffhq_crop(photo, landmarks, size[0]), lambda face: paste(photo, face, landmarks)


def paste(photo: Rgb, face: Rgb, landmarks: Float32) -> Rgb:
    """The photograph with `face` (as `ffhq_crop` frames it) in its place, faded out at the edge."""
    side = face.shape[0]
    back = cv2.invertAffineTransform(ffhq_matrix(landmarks, side))
    height, width = photo.shape[:2]
    edge = max(1, round(FEATHER * side))
    mask = np.zeros((side, side), np.float32)
    mask[edge:-edge, edge:-edge] = 1
    mask = np.asarray(cv2.blur(mask, (2 * edge - 1, 2 * edge - 1)), np.float32)
    shrink = float(np.hypot(*back[:, 0]))  # px of the photograph for one of the face
    if shrink < 1:  # average first where the face gets smaller
        face = np.asarray(cv2.GaussianBlur(face, (0, 0), 0.4 / shrink), np.uint8) if shrink < 0.7 else face
    moved = cv2.warpAffine(face, back, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    weight = cv2.warpAffine(mask, back, (width, height), flags=cv2.INTER_LINEAR)[:, :, None]
    blended = photo + weight * (moved.astype(np.float32) - photo)
    return np.asarray(np.clip(np.rint(blended), 0, 255), np.uint8)
