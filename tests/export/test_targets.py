"""`instantrestore`, `dmdnet`, `asffnet`: a folder a target, and landmarks where they are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core.store import UserError
from ffhqref.export.landmarks import read_68
from tests.export.conftest import SIDE, files_below
from tests.export.test_stage import refused, run


def test_instantrestore(handed: Path, metadata: Path, tmp_path: Path) -> None:
    """Two or more crops in training; three or more PNGs below each person's folder; points by stem."""
    out = tmp_path / "out"
    said = run("instantrestore", handed, out, "--landmarks", metadata)
    assert "1 train photos have no new_landmarks" in said and "people of fewer than 3 photos" in said
    assert [path.name for path in (out / "train").iterdir()] == ["00000"]
    for split in ("train", "val", "test"):
        assert all(len(list(person.rglob("*.png"))) >= 3 for person in (out / split).iterdir())
    crops = sorted((out / "train/00000/cropped_images").iterdir())
    assert len(crops) == 4
    for crop in crops[:3]:
        points = np.load(out / "train/00000/new_landmarks" / f"{crop.stem}.npy")
        given = json.loads(metadata.read_text())[str(int(crop.stem))]["image"]["face_landmarks"]
        assert points.dtype == np.float32 and points.shape == (68, 2)
        assert np.allclose(points, np.array(given) * SIDE / 1024, atol=1e-4)
    one = out / "test" / "00031"
    assert (one / "gt.png").read_bytes() == (handed / "photos/00031.png").read_bytes()
    low = handed / "mine/test_images/severe_degrad/00031.png"
    assert (one / "degraded.png").read_bytes() == low.read_bytes()
    assert sorted(path.name for path in (one / "conditioning").iterdir()) == ["00030.png", "00032.png"]


def test_instantrestore_without_landmarks_or_low_quality(own: Path, tmp_path: Path) -> None:
    (own / "mine/val_images/severe_degrad").rename(own / "mine/val_images/mild_degrad")
    said = run("instantrestore", own, tmp_path / "out")
    assert said.count("have no new_landmarks: 68 points are known of FFHQ's own images alone") == 1
    assert (
        "val has no severe low-quality images (`ffhqref degrade" in said and "--split val` makes them" in said
    )
    assert not list((tmp_path / "out").rglob("new_landmarks")) and not (tmp_path / "out" / "val").exists()
    run("instantrestore", own, tmp_path / "mild", "--level", "mild", "--split", "val")
    assert (tmp_path / "mild/val/00020/degraded.png").is_file()


@pytest.mark.parametrize("reader", ["dmdnet", "asffnet"])
def test_lists_with_tabs(reader: str, handed: Path, metadata: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = run(reader, handed, out, "--landmarks", metadata)
    assert "train has no severe low-quality images." in said and "left out" not in said
    known = json.loads(metadata.read_text())
    targets = {}
    for split in ("val", "test"):
        for line in (out / split / "list.tsv").read_text().splitlines():
            lq, pictures, points = line.split("\t")
            assert (out / split / lq).is_file()
            names = sorted(path.name for path in (out / split / pictures).iterdir())
            files = sorted((out / split / points).iterdir())
            assert [path.name for path in files] == [f"{name}.txt" for name in names] != []
            for file in files:
                read = np.array(
                    [[float(x) for x in line.split(" ")] for line in file.read_text().splitlines()]
                )
                given = np.array(known[str(int(file.name[:5]))]["image"]["face_landmarks"])
                assert read.shape == (68, 2) and np.allclose(read, given * SIDE / 1024, atol=1e-3)
            targets[Path(lq).stem] = names
    assert targets["00031"] == ["00030.png"]  # 00032 has no points
    assert Path(lq).stem not in targets[Path(lq).stem] and len(targets) == 7


def test_without_landmarks_they_are_refused_in_a_sentence(handed: Path, tmp_path: Path) -> None:
    said = refused("dmdnet", handed, tmp_path / "out")
    assert "Nothing would be in the export" in said and "--landmarks ffhq-dataset-v2.json" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text", ["[]", '{"1": {}}', '{"30": {"image": {"face_landmarks": [[1, 2]]}}}', "\x00"]
)
def test_a_file_that_is_not_ffhq_s(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="is not FFHQ's metadata"):
        read_68(tmp_path / "a.json", ["00001.png", "00030.png"])
    with pytest.raises(UserError, match="Cannot read"):
        read_68(tmp_path / "gone.json", [])


def test_points_follow_the_size(handed: Path, metadata: Path, tmp_path: Path) -> None:
    for size, place in ((0, "own"), (128, "large")):
        run("dmdnet", handed, tmp_path / place, "--landmarks", metadata, "--size", size, "--split", "val")
    file = "val/RefsLandmark/00020/00021.png.txt"
    small, large = (np.loadtxt(tmp_path / place / file) for place in ("own", "large"))
    assert np.allclose(small * 128 / SIDE, large, atol=2e-3)
    assert "val/gt/00020.png" in files_below(tmp_path / "own")
