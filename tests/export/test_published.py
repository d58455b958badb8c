"""`refldm`, read as the published loader reads it: CSV with list literals, PNGs of one size, LQ by name."""

from __future__ import annotations

import ast
import csv
from pathlib import Path

from ffhqref.core import images
from tests.export.conftest import SIDE, photos_of
from tests.export.test_stage import run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_name_is_a_png_that_is_there(handed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("refldm", handed, out)
    for split, columns in (("train", 2), ("val", 3), ("test", 3)):
        mapping = rows(out / "reference_mapping" / f"{split}_references.csv")
        assert mapping and all(len(row) == columns for row in mapping)
        for row in mapping:
            references = ast.literal_eval(row["ref_image"])
            assert references and isinstance(references, list)
            for name in (row["gt_image"], *references):
                assert images.read(out / "images512x512" / name).shape == (SIDE, SIDE, 3)
            if split != "train":
                assert row["lq_image"] == row["gt_image"]
                assert (out / f"{split}_images" / "severe_degrad" / row["lq_image"]).is_file()
        listed = (out / "id_based_ffhq_split" / f"{split}_image.txt").read_text().split("\n")[:-1]
        assert listed == sorted(images.png_name(name) for name in photos_of(split))
        assert all((out / "images512x512" / name).is_file() for name in listed)  # `alone.png`, too
    assert (out / "images512x512/00000.png").read_bytes() == (handed / "photos/00000.png").read_bytes()


def test_the_order_of_references_is_kept_and_pictures_get_the_size(own: Path, tmp_path: Path) -> None:
    path = own / "mine/reference_mapping/test_references.csv"
    path.write_text("gt_image,lq_image,ref_image\n00030.png,odd/low.webp,\"['00032.png', '00031.png']\"\n")
    low = own / "mine/test_images/severe_degrad"
    (low / "odd").mkdir()
    (low / "00031.png").rename(low / "odd/low.png")
    out = tmp_path / "out"
    run("refldm", own, out, "--size", 32, "--split", "test")
    [row] = rows(out / "reference_mapping/test_references.csv")
    assert row == {
        "gt_image": "00030.png",
        "lq_image": "00030.png",
        "ref_image": "['00032.png', '00031.png']",
    }
    made = images.read(out / "test_images/severe_degrad/00030.png")
    assert made.shape == (32, 32, 3)
    assert (made == images.read(_as_published(low / "odd/low.png", tmp_path))).all()
    assert not (out / "reference_mapping/train_references.csv").exists()


def _as_published(path: Path, place: Path) -> Path:
    """Pillow's bicubic filter, as the published loader resizes."""
    from PIL import Image

    Image.open(path).resize((32, 32), Image.Resampling.BICUBIC).save(place / "small.png")
    return place / "small.png"


def test_every_level_goes_along(own: Path, tmp_path: Path) -> None:
    (own / "mine/test_images/severe_degrad").rename(own / "mine/test_images/mild_degrad")
    run("refldm", own, tmp_path / "out")
    assert len(list((tmp_path / "out/test_images/mild_degrad").iterdir())) == 5
    assert len(list((tmp_path / "out/val_images/severe_degrad").iterdir())) == 2
