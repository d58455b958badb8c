"""`lmdb`, read back by the library as basicsr reads it: keys and meta_info.txt agree, the same bytes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ffhqref.core import images, lists
from ffhqref.export import records
from ffhqref.export.contents import flat
from tests.export.conftest import files_below
from tests.export.test_hub import same
from tests.export.test_stage import run

LINE = re.compile(r"([^.\s]+)\.png \((\d+),(\d+),(\d+)\) (\d)")  # key, shape (h,w,c), compression level


@pytest.fixture(autouse=True)
def lmdb() -> Any:
    return pytest.importorskip("lmdb", reason="lmdb (the extra `export`) is not installed")


def read(lmdb: Any, folder: Path) -> dict[str, bytes]:
    """Every picture by the key that meta_info.txt gives."""
    assert sorted(path.name for path in folder.iterdir()) == ["data.mdb", "meta_info.txt"]
    env = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)
    found = {}
    with env.begin() as transaction:
        for line in (folder / "meta_info.txt").read_text().splitlines():
            match = LINE.fullmatch(line)
            assert match
            found[match[1]] = bytes(transaction.get(match[1].encode("ascii")))
            assert images.decode(found[match[1]]).shape == tuple(map(int, match.group(2, 3, 4)))
    assert env.stat()["entries"] == len(found)
    env.close()
    return found


def test_lmdb_reads_the_same_bytes(handed: Path, tmp_path: Path, lmdb: Any) -> None:
    out = tmp_path / "out"
    run("lmdb", handed, out)
    for split in ("train", "val", "test"):
        mapping = lists.read_references(handed / "mine/reference_mapping" / f"{split}_references.csv")
        clean = read(lmdb, out / f"{split}_gt.lmdb")
        assert sorted(clean) == sorted(map(flat, mapping))
        assert all(same(clean[flat(name)], handed / "photos" / name) for name in mapping)
        keys = lists.read_references(out / "reference_mapping" / f"{split}_references.csv")
        assert keys == {f"{flat(t)}.png": [f"{flat(r)}.png" for r in refs] for t, refs in mapping.items()}
        if split != "train":
            low = read(lmdb, out / f"{split}_lq.lmdb")
            folder = handed / "mine" / f"{split}_images/severe_degrad"
            assert low == {flat(name): (folder / name).read_bytes() for name in mapping}
    assert not (out / "train_lq.lmdb").exists() and not list(out.glob(".*.making")) + list(
        out.glob(".*.copy")
    )


def test_a_database_goes_on_where_it_stopped(
    handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that were written are not read again, and the bytes are those of a run in one go."""
    monkeypatch.setattr(records, "BATCH", 2)
    run("lmdb", handed, tmp_path / "whole", "--split", "train")
    packed, calls = records.packed, []

    def stopping(*words: Any) -> bytes:
        calls.append(words)
        if len(calls) in (4, 7):
            raise KeyboardInterrupt
        return packed(*words)

    monkeypatch.setattr(records, "packed", stopping)
    for code in (130, 130, 0):
        run("lmdb", handed, tmp_path / "out", "--split", "train", "--workers", 1, code=code)
    assert len(calls) == 9  # 3 + stop, 2 + stop, the last 2: two batches were kept, half a batch lost twice
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_pictures_that_changed_begin_anew(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH", 1)
    packed = records.packed

    def stopping(picture: Any, size: int) -> bytes:
        if picture.name == "00002.png":
            raise KeyboardInterrupt
        return packed(picture, size)

    monkeypatch.setattr(records, "packed", stopping)
    run("lmdb", own, tmp_path / "out", "--split", "train", code=130)
    (own / "photos/00000.png").write_bytes((own / "photos/00001.png").read_bytes())
    monkeypatch.setattr(records, "packed", packed)
    run("lmdb", own, tmp_path / "out", "--split", "train")
    run("lmdb", own, tmp_path / "whole", "--split", "train")
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_keys() -> None:
    assert records.key_of("a b/c.d.png") == "a_b__c_d" and records.key_of("00001.png") == "00001"
