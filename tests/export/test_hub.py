"""`hf`, read back by `datasets`: the same bytes, in order; row groups that the Hub's viewer bears."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ffhqref.core import images, lists
from ffhqref.export import hub
from ffhqref.export.options import ExportOptions
from ffhqref.export.stage import export_dataset
from tests.export.conftest import SIDE
from tests.export.test_stage import run


@pytest.fixture(scope="module")
def made(handed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "out"
    run("hf", handed, out)
    return out


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets", reason="datasets (the extra `dev`) is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_datasets_reads_the_same_bytes(made: Path, handed: Path, datasets: Any, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(made), cache_dir=str(tmp_path))
    assert sorted(loaded) == ["test", "train", "validation"]
    for split, name in hub.NAMES.items():
        mapping = lists.read_references(handed / "mine/reference_mapping" / f"{split}_references.csv")
        part = loaded[name]
        assert isinstance(part.features["gt_image"], datasets.Image)
        assert part["name"][:] == list(mapping) and part["references"][:] == list(mapping.values())
        assert part[0]["ref_image"][0].size == (64, 64)  # decoded by the library: pictures
        raw = part.cast_column("gt_image", datasets.Image(decode=False))
        raw = raw.cast_column("lq_image", datasets.Image(decode=False))
        raw = raw.cast_column("ref_image", datasets.List(datasets.Image(decode=False)))
        for row in raw:
            for file, photo in zip(
                (row["gt_image"], *row["ref_image"]), (row["name"], *row["references"]), strict=True
            ):
                assert same(file["bytes"], handed / "photos" / photo)
                assert file["path"] == images.png_name(photo)
            low = handed / "mine" / f"{split}_images/severe_degrad" / images.png_name(row["name"])
            assert (
                row["lq_image"] is None if split == "train" else row["lq_image"]["bytes"] == low.read_bytes()
            )
            assert row["identity"] in {"00000.png", "00010.png", "00020.png", "00030.png", "00040.png"}


def same(data: bytes, photo: Path) -> bool:
    """PNGs byte for byte; a JPEG's pixels in a PNG."""
    if photo.suffix == ".png":
        return data == photo.read_bytes()
    return bool((np.asarray(Image.open(io.BytesIO(data))) == images.read(photo)).all())


def test_metadata_and_card(made: Path) -> None:
    rows = [json.loads(line) for line in (made / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 13 and rows[-1]["references"] == ["00040.png"]
    assert "path: data/validation-*.parquet" in (made / "README.md").read_text()


def test_shards_are_even_and_row_groups_small(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "GROUP_BYTES", 40_000)
    monkeypatch.setattr(hub, "size_about", lambda samples, size: 1_000_000 * len(samples))
    options = ExportOptions(shard_mb=3, size=SIDE)
    export_dataset(handed / "mine", "hf", tmp_path / "out", photos=handed / "photos", options=options)
    rows = {}
    for path in (tmp_path / "out/data").iterdir():
        file = pq.ParquetFile(path)
        rows[path.name] = file.metadata.num_rows
        groups = [file.metadata.row_group(at) for at in range(file.num_row_groups)]
        assert all(group.num_rows == 1 or group.total_byte_size < 45_000 for group in groups)
    assert rows == {
        "train-00000-of-00002.parquet": 3,
        "train-00001-of-00002.parquet": 3,
        "validation-00000-of-00001.parquet": 2,
        "test-00000-of-00002.parquet": 2,
        "test-00001-of-00002.parquet": 3,
    }
