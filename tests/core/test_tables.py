"""Tables and lists: schemas checked, rows by name, names kept as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ffhqref.core import lists, tables
from ffhqref.core.store import UserError, write_receipt
from ffhqref.core.tables import EmbeddingRow
from ffhqref.dataset.embed import _table as table_of
from ffhqref.dataset.embed import wanted_receipt
from ffhqref.dataset.source import Source


def test_no_other_schema_is_written_or_read(tmp_path: Path) -> None:
    path, row = tmp_path / "pairs.parquet", [["a.png"], ["b.png"], [0.25]]
    tables.write_columns(path, tables.PAIRS, row)
    assert tables.read(path, tables.PAIRS).to_pylist() == [
        {"left": "a.png", "right": "b.png", "distance": 0.25}
    ]
    good = path.read_bytes()
    for table in (
        pa.table({"left": ["a.png"], "right": ["b.png"]}),
        pa.table({"left": ["a.png"], "right": ["b.png"], "distance": pa.array([0.25], pa.float32())}),
        pa.table({"right": ["b.png"], "left": ["a.png"], "distance": [0.25]}),
    ):
        with pytest.raises(ValueError, match=r"pairs\.parquet"):
            tables.write(path, tables.PAIRS, table)
    assert path.read_bytes() == good
    with pytest.raises(UserError, match="other columns"):
        tables.read(path, tables.SPLIT_TABLE)


def test_a_list_keeps_names_that_begin_with_a_space(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes(b" a.png\r\nb c.png  \n\n   \nd.png")
    assert lists.read_list(path) == [" a.png", "b c.png", "d.png"]
    lists.write_list(path, [" a.png", "é.png"])
    assert path.read_bytes() == " a.png\né.png\n".encode()


def write_shard(out: Path, number: int, rows: list[tuple[str, str, int, int]]) -> Path:
    """Photos of these names, statuses, widths and heights; the embedding tells the name's first letter."""
    path = tables.embeddings_folder(out) / f"shard-{number:05d}.parquet"
    filled = [
        EmbeddingRow(
            name, status, width=width, height=height, pixels=f"pixels of {name}",
            embedding=np.array([ord(name[0]), 1], np.float32) if status == "ok" else None,
        )
        for name, status, width, height in rows
    ]  # fmt: skip
    tables.write(path, tables.EMBEDDINGS, table_of(filled))
    return path


def test_embeddings_are_those_of_the_receipts_shards_that_are_ok_by_name(tmp_path: Path) -> None:
    shards = [
        write_shard(tmp_path, 0, [("d.png", "ok", 3, 5), ("b.png", "no_face", 9, 9)]),
        write_shard(tmp_path, 1, [("c.png", "ok", 70_000, 70_000), ("a.png", "ok", 2, 4)]),
    ]
    write_shard(tmp_path, 2, [("e.png", "ok", 1, 1)])  # of an earlier, larger run
    with pytest.raises(UserError, match="no finished embeddings"):
        tables.load_embeddings(tmp_path)
    write_receipt(tmp_path, wanted_receipt(Source([], frozenset(), []), {}), shards, {})
    found = tables.load_embeddings(tmp_path)
    assert found.names == ["a.png", "c.png", "d.png"]
    assert found.vectors.dtype == np.float32
    assert found.vectors.tolist() == [[97, 1], [99, 1], [100, 1]]
    assert found.area == [8, 4_900_000_000, 15]
    assert found.pixels == [f"pixels of {name}" for name in found.names]
    assert tables.count_statuses(shards) == {"no_face": 1, "ok": 3}


def test_a_target_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "test_references.csv"
    path.write_text("gt_image,ref_image\na.png,\"['b.png']\"\nc.png,[]\na.png,\"['c.png']\"\n")
    with pytest.raises(UserError, match=r"line 4: a\.png stands twice"):
        lists.read_references(path)


def test_pairs_of_photos_that_are_gone_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    tables.write_columns(path, tables.PAIRS, [["a.png", "a.png"], ["b.png", "c.png"], [0.1, 0.2]])
    ((left, right, distances),) = tables.iterate_pairs(path, ["a.png", "b.png", "c.png"])
    assert (left.tolist(), right.tolist(), distances.tolist()) == ([0, 0], [1, 2], [0.1, 0.2])
    with pytest.raises(UserError, match="not embedded"):
        list(tables.iterate_pairs(path, ["a.png", "b.png"]))
