"""`webdataset`, read back by the library: every sample once, the same bytes, in the seed's order."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ffhqref.core import lists
from ffhqref.export.options import ExportOptions
from ffhqref.export.shards import shares
from ffhqref.export.stage import export_dataset
from tests.export.conftest import SIDE
from tests.export.test_hub import same
from tests.export.test_stage import run


@pytest.fixture
def webdataset() -> Any:
    return pytest.importorskip("webdataset", reason="webdataset (the extra `dev`) is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
def test_webdataset_reads_the_same_bytes(handed: Path, tmp_path: Path, webdataset: Any) -> None:
    out = tmp_path / "out"
    run("webdataset", handed, out)
    for split in ("train", "val", "test"):
        mapping = lists.read_references(handed / "mine/reference_mapping" / f"{split}_references.csv")
        samples = list(webdataset.WebDataset(str(out / f"{split}-000000.tar"), shardshuffle=False))
        assert [sample["__key__"] for sample in samples] == [f"{at:09d}" for at in range(len(mapping))]
        about = [json.loads(sample["json"]) for sample in samples]
        assert {row["name"]: row["references"] for row in about} == mapping
        for sample, row in zip(samples, about, strict=True):
            assert row["split"] == split and row["identity"]
            assert same(sample["gt.png"], handed / "photos" / row["name"])
            for at, name in enumerate(row["references"]):
                assert same(sample[f"ref{at}.png"], handed / "photos" / name)
            low = handed / "mine" / f"{split}_images/severe_degrad" / row["name"]
            assert sample["lq.png"] == low.read_bytes() if split != "train" else "lq.png" not in sample


def order(out: Path) -> list[str]:
    with tarfile.open(out / "train-000000.tar") as tar:
        members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {
            (0, 0, 0, "", "", 0o644)
        }
        texts = [tar.extractfile(m) for m in members if m.name.endswith("json")]
        return [json.loads(text.read())["name"] for text in texts if text]


def test_the_order_is_the_seed_s_alone(handed: Path, tmp_path: Path) -> None:
    for place, seed in (("a", 0), ("b", 1)):
        run("webdataset", handed, tmp_path / place, "--seed", seed, "--split", "train")
    a, b = order(tmp_path / "a"), order(tmp_path / "b")
    assert sorted(a) == sorted(b) and a != b and a != sorted(a)


def test_shares_are_even() -> None:
    items: Any = list(range(1003))
    for total, megabytes, count in ((0, 1, 1), (10_000_000, 1, 10), (10_000_001, 1, 11), (10**12, 1, 1003)):
        parts = shares(items, total, megabytes)
        assert [item for part in parts for item in part] == items and len(parts) == count
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_several_shards_go_on_counting(handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ffhqref.export.shards.size_about", lambda samples, size: 1_000_000 * len(samples))
    options = ExportOptions(shard_mb=2, size=SIDE)
    export_dataset(handed / "mine", "webdataset", tmp_path / "out", photos=handed / "photos", options=options)
    tars = sorted((tmp_path / "out").glob("train-*.tar"))
    assert [path.name for path in tars] == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    keys = []
    for path in tars:
        with tarfile.open(path) as tar:
            keys += [name.split(".")[0] for name in tar.getnames() if name.endswith("json")]
    assert keys == [f"{at:09d}" for at in range(6)]
