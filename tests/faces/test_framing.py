"""FFHQ's frame: its own photographs, the padding of its script, pixels where they belong, quality."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ffhqref.core import images
from ffhqref.faces import framing
from ffhqref.faces.geometry import ffhq_matrix
from ffhqref.faces.networks import Detector, Face
from tests.photographs import Known

Array = np.ndarray[Any, Any]
ON_UNIT = np.array([[0.375, 0.4775], [0.625, 0.4775], [0.5, 0.6], [0.42, 0.7025], [0.58, 0.7025]])


def face(left: float, top: float, side: float, degrees: float = 0.0) -> Array:
    """Five points whose frame has this corner and side, turned about the corner."""
    turn = math.radians(degrees)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return (ON_UNIT * side @ rotation.T + [left, top]).astype(np.float32)


def corners(points: Array) -> Array:
    return np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ framing._inverse(ffhq_matrix(points, 1)).T


def test_the_points_of_this_file_have_the_frame_that_is_asked_for() -> None:
    assert np.allclose(corners(face(30, 50, 200))[[0, 3]], [[30, 50], [230, 250]], atol=0.5)


@pytest.mark.parametrize(("side", "degrees"), [(100, 0), (100, 25), (1300, 0), (1300, 25)])
def test_every_pixel_is_where_the_frame_has_it(side: int, degrees: float) -> None:
    """A picture whose colours are places: enlarged and shrunk, straight and turned."""
    length = 3 * side
    ramp = np.arange(length) * (255 / length)
    picture = np.stack([*np.meshgrid(ramp, ramp), np.zeros((length, length))], axis=2)
    points = face(side, side * 0.9, side, degrees)
    crop = framing.cut(np.rint(picture).astype(np.uint8), points, 512)
    middles = (np.arange(512) + 0.5) / 512
    u = np.stack([*np.meshgrid(middles, middles), np.ones((512, 512))], axis=2)
    places = u @ framing._inverse(ffhq_matrix(points, 1)).T
    assert np.abs(crop.picture[..., :2] - places * (255 / length)).max() < 1.2
    assert crop.padding == 0 and crop.eyes == pytest.approx(side / 4, rel=0.01)
    assert np.abs(crop.landmarks + 0.5 - ON_UNIT * 512).max() < 1


def test_fine_patterns_do_not_alias() -> None:
    board = np.indices((3000, 3000)).sum(0) % 2 * 255
    crop = framing.cut(np.repeat(board[..., None], 3, 2).astype(np.uint8), face(700, 600, 1600, 12), 512)
    assert abs(crop.picture.mean() - 127.5) < 2 and crop.picture.std() < 2


def padded_as_described(image: Array, left: int, top: int, side: int) -> Array:
    """Karras et al. 2019, appendix A, at the photograph's own size and with an upright square."""
    height, width = image.shape[:2]
    border = max(round(side * 0.1), 3)
    pad = [max(-left, 0), max(-top, 0), max(left + side - width, 0), max(top + side - height, 0)]
    box = [max(left - border, 0), max(top - border, 0)]
    box += [min(left + side + border, width), min(top + side + border, height)]
    need = [-left + border, -top + border, left + side - width + border, top + side - height + border]
    assert max(pad) > 0
    amounts = [max(amount, 0, round(side * 0.3)) for amount in need]
    img = np.asarray(image[box[1] : box[3], box[0] : box[2]], np.float32)
    img = np.pad(img, ((amounts[1], amounts[3]), (amounts[0], amounts[2]), (0, 0)), "reflect")
    h, w = img.shape[:2]
    y, x, _ = np.ogrid[:h, :w, :1]
    mask = np.maximum(
        1 - np.minimum(x / amounts[0], (w - 1 - x) / amounts[2]),
        1 - np.minimum(y / amounts[1], (h - 1 - y) / amounts[3]),
    )
    img += (gaussian_filter(img, [side * 0.02] * 2 + [0]) - img) * np.clip(mask * 3 + 1, 0, 1)
    img += (np.median(img, axis=(0, 1)) - img) * np.clip(mask, 0, 1)
    at = [left - box[0] + amounts[0], top - box[1] + amounts[1]]
    return img[at[1] : at[1] + side, at[0] : at[0] + side]


@pytest.mark.parametrize(("left", "top"), [(-60, 40), (150, 190), (-40, -70), (130, -20)])
def test_padding_is_what_the_script_makes(left: int, top: int) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (30, 30, 3), np.uint8)
    image = cv2.resize(noise, (360, 360), interpolation=cv2.INTER_CUBIC)
    crop = framing.cut(image, face(left - 0.5, top - 0.5, 256), 256)  # corners lie beside pixels' middles
    wanted = padded_as_described(image, left, top, 256)
    off = np.abs(crop.picture - wanted)
    assert off.mean() < 4 and np.percentile(off, 99) < 24, "its median is taken of more of the picture"
    inside = (256 - max(-left, 0, left - 104)) * (256 - max(-top, 0, top - 104)) / 256**2
    assert crop.padding == pytest.approx(1 - inside, abs=0.01)


def test_what_lies_well_inside_is_not_blurred() -> None:
    image = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)
    crop = framing.cut(image, face(71.5, 71.5, 256), 256)
    assert np.abs(crop.picture.astype(int) - image[72:328, 72:328]).mean() < 3


@pytest.mark.parametrize("degrees", [-35, -10, 0, 20, 40])
def test_yaw_of_a_turned_head(degrees: float) -> None:
    """Eyes and mouth in a plane, the nose tip .62 eye distances before it; the head turned about y."""
    solid = np.array([[-50, 0, 0], [50, 0, 0], [0, 45, 62], [-35, 95, 0], [35, 95, 0]], float)
    turn = math.radians(degrees)
    x = solid[:, 0] * math.cos(turn) + solid[:, 2] * math.sin(turn)
    assert framing.yaw(np.stack([x, solid[:, 1]], 1).astype(np.float32)) == pytest.approx(degrees, abs=0.5)


def test_a_blurred_face_is_told(known: list[Known]) -> None:
    picture = images.read(known[0].path)
    values = [framing.sharpness(cv2.GaussianBlur(picture, (0, 0), s)) for s in (0.1, 1.5, 4)]
    assert values[0] > 2 * values[1] > 4 * values[2]


class Finds(Detector):
    """Finds faces whose points lie off by so many parts of the picture."""

    def __init__(self, *offs: tuple[float, float]) -> None:
        self.offs = offs

    def find_close(self, square: Array) -> list[Face]:
        """What is seen is the same in the mirror: so an offset to one side cancels."""
        found = [(ON_UNIT + off) * len(square) for off in self.offs]
        return [Face(np.zeros(4, np.float32), 0.9, points.astype(np.float32)) for points in found]


def test_points_are_found_again_and_averaged_with_the_mirror_image() -> None:
    image, points = np.zeros((400, 400, 3), np.uint8), face(60, 70, 200, 10)
    found = framing.refine(Finds((0.02, 0.01), (0.5, 0.0)), image, points)
    moved = framing.in_frame(found, points) - 0.5
    wanted = (ON_UNIT + [0, 0.01] - 0.5 + [0, framing.HIGHER]) * (1 - framing.LARGER)
    assert np.abs(moved - wanted).max() < 0.003


@pytest.mark.parametrize("offs", [(), ((0.3, 0.0),)])
def test_points_stay_where_no_face_or_another_one_is_found(offs: tuple[tuple[float, float], ...]) -> None:
    points = face(60, 70, 200)
    assert framing.refine(Finds(*offs), np.zeros((400, 400, 3), np.uint8), points) is points


def test_the_frame_of_ffhqs_own_photographs(photographs: list[Known], real_detector: Path) -> None:
    """They are cut as FFHQ cut them, so their own corners are the answer: median below 8 px of 512."""
    detector = Detector(real_detector, "cpu")
    first, again = [], []
    for photo in photographs:
        if photo.set == "ffhq_singles":
            picture = images.read(photo.path)
            rough = detector.find(picture)[0].landmarks
            for found, points in ((first, rough), (again, framing.refine(detector, picture, rough))):
                found.append(512 * framing.frame_error(points, *picture.shape[1::-1]))
    print(f"corners off, px of 512, median: {np.median(first):.1f} found once, {np.median(again):.1f} again")
    assert len(again) == 11 and np.median(again) < 8
