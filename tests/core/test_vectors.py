"""Embeddings are read in the order of names, into little more memory than they need."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ffhqref.core import tables, vectors
from ffhqref.core.store import UserError, write_receipt
from ffhqref.core.tables import EmbeddingRow
from ffhqref.dataset.embed import _table as table_of
from ffhqref.dataset.embed import wanted_receipt
from ffhqref.dataset.source import Source


def write_shards(out: Path, shards: list[list[tuple[str, str, object]]]) -> None:
    """Embedding shards of (name, status, vector)."""
    paths = []
    for number, rows in enumerate(shards):
        path = tables.embeddings_folder(out) / f"shard-{number:05d}.parquet"
        filled = [
            EmbeddingRow(
                name, status, width=2, height=3 + len(name), pixels=f"p{name}",
                embedding=None if vector is None else np.asarray(vector, np.float32),
            )
            for name, status, vector in rows
        ]  # fmt: skip
        tables.write(path, tables.EMBEDDINGS, table_of(filled))
        paths.append(path)
    write_receipt(out, wanted_receipt(Source([], frozenset(), []), {"test": 1}), paths, {})


@pytest.mark.parametrize("at_once", [1, 2, 4096])
def test_embeddings_are_ordered_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(vectors, "ROWS_READ", at_once)
    rows = {name: [float(number), 1.0] for number, name in enumerate(["d", "b", "é", "a", "人", "c", "Z"])}
    listed = [(name, "ok", vector) for name, vector in rows.items()]
    write_shards(
        tmp_path, [[("none", "no_face", None), *listed[:3]], [("x", "unreadable", None)], listed[3:]]
    )
    found = tables.load_embeddings(tmp_path)
    assert found.names == sorted(rows)
    assert found.vectors.dtype == np.float32
    assert found.vectors.tolist() == [rows[name] for name in sorted(rows)]
    assert found.pixels == [f"p{name}" for name in sorted(rows)]
    assert found.area == [2 * (3 + len(name)) for name in sorted(rows)]


def test_reading_embeddings_takes_little_more_than_they_need(tmp_path: Path) -> None:
    count, wide = 16_000, 512
    rows_of_all = np.random.default_rng(0).standard_normal((count, wide)).astype(np.float32)
    rows = [(f"{i:05d}", "ok", rows_of_all[i]) for i in range(count)]
    write_shards(tmp_path, [rows[at : at + 500] for at in range(0, count, 500)])
    del rows
    tables.load_embeddings(tmp_path)  # what is imported on first use is not the point
    before, counting = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    pa.set_memory_pool(counting)
    tracemalloc.start()
    try:
        found = tables.load_embeddings(tmp_path)
        peak = tracemalloc.get_traced_memory()[1] + counting.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert (found.vectors == rows_of_all).all()
    assert peak < 1.5 * rows_of_all.nbytes


def test_embeddings_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, [[("a", "ok", [1.0, 0.0])], [("b", "ok", [1.0])]])
    with pytest.raises(UserError, match="different lengths"):
        tables.load_embeddings(tmp_path)
