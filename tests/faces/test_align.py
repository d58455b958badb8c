"""Landmarks that are given: FFHQ's JSON of 68 points and a CSV of five, and files that are neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffhqref.core import images
from ffhqref.core.images import BadImage
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.core.tables import LANDMARK_COLUMNS
from ffhqref.faces import geometry, networks
from ffhqref.faces.align import by_crop, by_detector, by_landmarks, read_landmarks
from tests.photographs import Known

Array = np.ndarray[Any, Any]


def points_of_68(seed: int) -> Array:
    """68 points in a picture of 1024 px; 36 to 47 are the eyes, 30 the nose's tip, 48 and 54 the corners."""
    return np.random.default_rng(seed).uniform(200, 800, (68, 2)).round(2)


def ffhq_json(path: Path, entries: dict[str, Any]) -> Path:
    path.write_text(json.dumps(entries))
    return path


def entry(points: Any) -> dict[str, Any]:
    return {
        "category": "training", "metadata": {"author": "someone \u2603 {,}"},
        "image": {"file_path": "images1024x1024/00000/00000.png", "face_landmarks": points},
        "in_the_wild": {"face_landmarks": [[0, 0]] * 68},
    }  # fmt: skip


def test_ffhqs_68_points_become_five_and_are_scaled_to_the_picture(tmp_path: Path) -> None:
    path = ffhq_json(
        tmp_path / "ffhq-dataset-v2.json",
        {"0": entry(points_of_68(0).tolist()), "69999": entry(points_of_68(1).tolist())},
    )
    landmarks = read_landmarks(path)
    for name, seed in (("00000.png", 0), ("69999.png", 1), ("sub/00000.webp", 0)):
        p = points_of_68(seed)
        wanted = np.stack([p[36:42].mean(0), p[42:48].mean(0), p[30], p[48], p[54]])
        for width in (1024, 512, 256):
            found = landmarks.find(name, width)
            assert found is not None and np.abs(found - wanted * width / 1024).max() < 1e-3
    assert landmarks.find("00001.png", 1024) is None


def test_aligning_a_smaller_copy_gives_the_same_face(tmp_path: Path, known: list[Known]) -> None:
    """FFHQ's points are for 1024 px; mirrors of 512 px are common."""
    large, five = images.resize(images.read(known[0].path), 1024, 1024), known[0].landmarks * 2
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = five[0], five[1]
    points[[30, 48, 54]] = five[2:]
    aligner = by_landmarks(read_landmarks(ffhq_json(tmp_path / "a.json", {"7": entry(points.tolist())})))
    (one,), count = aligner(large, "00007.png")
    assert count == 1 and one.score == 1.0 and one.landmarks is not None
    assert np.abs(one.landmarks - five).max() < 1e-3
    assert np.abs(one.face.astype(int) - geometry.align(large, five)).mean() < 0.05
    (half,), _ = aligner(images.resize(large, 512, 512), "00007.png")
    assert half.landmarks is not None and np.abs(half.landmarks * 2 - five).max() < 1e-3
    assert np.abs(half.face.astype(int) - one.face).mean() < 6


def csv_text(names: list[str], values: Array, header: str = "") -> str:
    head = header or ",".join(["image", *LANDMARK_COLUMNS])
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    rows = [",".join([name, *map(str, row)]) for name, row in zip(quoted, values, strict=True)]
    return "\n".join([head, *rows]) + "\n"


def test_a_csv_of_five_points_is_in_px_of_the_picture(tmp_path: Path) -> None:
    names = ["a b.png", 'sub/é,"x".jpg', "00003.png"]
    values = np.random.default_rng(0).uniform(0, 900, (3, 10)).round(3)
    (tmp_path / "five.csv").write_text(csv_text(names, values), encoding="utf-8")
    landmarks = read_landmarks(tmp_path / "five.csv")
    for name, row in zip(names, values, strict=True):
        for width in (512, 1024):
            found = landmarks.find(name, width)
            assert found is not None and np.abs(found - row.reshape(5, 2)).max() < 1e-3
    assert landmarks.find("b.png", 512) is None


FIVE = np.array(geometry.TEMPLATE, np.float32).reshape(1, 10)
BAD_CSV = {
    "a column less": (csv_text(["a.png"], FIVE).replace("nose_x", "nase_x"), "no column nose_x"),
    "words": (csv_text(["a.png"], FIVE).replace("38.2946", "left"), "not a number"),
    "empty field": (csv_text(["a.png"], FIVE).replace("38.2946", ""), "not a number"),
    "nan": (csv_text(["a.png"], FIVE).replace("38.2946", "nan"), "not a finite number"),
    "inf": (csv_text(["a.png"], FIVE).replace("38.2946", "1e99"), "not a finite number"),
    "twice": (csv_text(["a.png", "a.png"], FIVE.repeat(2, 0)), "a.png stands twice"),
    "empty file": ("", "not a CSV"),
}


@pytest.mark.parametrize("fault", BAD_CSV)
def test_a_bad_csv_is_refused_with_its_name(tmp_path: Path, fault: str) -> None:
    text, words = BAD_CSV[fault]
    (tmp_path / "five.csv").write_text(text)
    with pytest.raises(UserError) as caught:
        read_landmarks(tmp_path / "five.csv")
    assert words in str(caught.value) and "five.csv" in str(caught.value)


GOOD_POINTS = points_of_68(0).tolist()
BAD_JSON: dict[str, str] = {
    "no object": "[1, 2]",
    "html": "<html>Quota exceeded</html>",
    "empty": "",
    "cut": json.dumps({"0": entry(GOOD_POINTS)})[:-40],
    "no image": json.dumps({"0": {"metadata": {}}}),
    "no points": json.dumps({"0": {"image": {}}}),
    "67 points": json.dumps({"0": entry(GOOD_POINTS[:67])}),
    "words": json.dumps({"0": entry([["a", "b"]] * 68)}),
    "a word as key": json.dumps({"first": entry(GOOD_POINTS)}),
    "an entry that is null": '{"0": null}',
    "not finite": json.dumps({"0": entry([[float("nan"), 1.0]] * 68)}),
    "deep": "[" * 100_000,
    "deep entry": '{"0":' + "[" * 100_000,
}


@pytest.mark.parametrize("fault", BAD_JSON)
def test_a_bad_json_is_refused_with_its_name(tmp_path: Path, fault: str) -> None:
    (tmp_path / "own.json").write_text(BAD_JSON[fault])
    with pytest.raises(UserError, match=r"own\.json is not FFHQ's metadata"):
        read_landmarks(tmp_path / "own.json")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in ("none.json", "none.csv"):
        with pytest.raises(UserError, match=name):
            read_landmarks(tmp_path / name)


@pytest.mark.parametrize("points", [np.full((1, 10), 60.0), np.full((1, 10), -9.5)])
def test_points_that_span_no_face_are_no_landmarks(tmp_path: Path, points: Array) -> None:
    (tmp_path / "five.csv").write_text(csv_text(["a.png"], points))
    aligner = by_landmarks(read_landmarks(tmp_path / "five.csv"))
    with pytest.raises(BadImage) as caught:
        aligner(np.zeros((200, 200, 3), np.uint8), "a.png")
    assert caught.value.status == "no_landmarks"


def test_points_outside_the_picture_are_no_landmarks(tmp_path: Path) -> None:
    (tmp_path / "five.csv").write_text(csv_text(["a.png"], FIVE + 5000))
    with pytest.raises(BadImage, match="outside"):
        by_landmarks(read_landmarks(tmp_path / "five.csv"))(np.zeros((200, 200, 3), np.uint8), "a.png")


def test_a_photo_without_a_row(tmp_path: Path) -> None:
    (tmp_path / "five.csv").write_text(csv_text(["a.png"], FIVE))
    with pytest.raises(BadImage) as caught:
        by_landmarks(read_landmarks(tmp_path / "five.csv"))(np.zeros((200, 200, 3), np.uint8), "b.png")
    assert caught.value.status == "no_landmarks"


def test_the_crop_takes_no_landmarks() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    (one,), count = by_crop(picture, "any")
    assert count == 1 and one.landmarks is None
    assert np.array_equal(one.face, geometry.crop_middle(picture))


class OneFace:
    """A detector that always finds two faces of given sides, px."""

    def __init__(self, *sides: float) -> None:
        self.faces = [
            networks.Face(np.array([i * 100, 0, i * 100 + side, side], np.float32), 0.7, FIVE.reshape(5, 2))
            for i, side in enumerate(sides)
        ]

    def find(self, image: Array) -> list[networks.Face]:
        return self.faces

    find_all = find


def test_small_faces_are_filtered_and_the_reason_says_so() -> None:
    picture = np.zeros((200, 200, 3), np.uint8)
    recipe = Recipe(name="x", min_face=40)
    found, count = by_detector(OneFace(39.0, 41.0), recipe)(picture, "a")  # type: ignore[arg-type]
    assert (len(found), count) == (1, 2)
    with pytest.raises(BadImage) as caught:
        by_detector(OneFace(12.0, 39.0), recipe)(picture, "a")  # type: ignore[arg-type]
    assert caught.value.status == "too_small" and "39 px" in str(caught.value)
    with pytest.raises(BadImage) as caught:
        by_detector(OneFace(), recipe)(picture, "a")  # type: ignore[arg-type]
    assert caught.value.status == "no_face"
    every = Recipe(name="x", faces="all", min_face=0)
    assert len(by_detector(OneFace(12.0, 39.0, 90.0), every)(picture, "a")[0]) == 3  # type: ignore[arg-type]
