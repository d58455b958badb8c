"""A column of vectors in Parquet files -> one array, in little more memory than the array needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffhqref.core.arrays import Float32, Int64
from ffhqref.core.store import UserError

ROWS_READ = 4096  # embeddings that are taken from a shard at once


def read_vectors(shards: Sequence[Path], column: str, ok: npt.NDArray[np.bool_], place: Int64) -> Float32:
    """A column of lists of one length as n x D: the k-th row of the shards that is `ok` at `place[k]`.

    UserError where a shard cannot be read or its rows differ in length.
    """
    vectors: Float32 | None = None
    row = done = 0
    for path in shards:
        for batch in _batches(path, column):
            wanted = ok[row : row + len(batch)]
            lists = batch.filter(pa.array(wanted))
            flat = np.asarray(pc.list_flatten(lists), np.float32)
            count = len(lists)
            if vectors is None and count:
                vectors = np.empty((len(place), len(flat) // count), np.float32)
            if vectors is not None and len(flat) != count * vectors.shape[1]:
                raise UserError(f"{path} holds embeddings of different lengths: run `ffhqref embed` again.")
            if vectors is not None:
                vectors[place[done : done + count]] = flat.reshape(count, vectors.shape[1])
            row, done = row + len(batch), done + count
    assert vectors is not None  # one row at least is ok
    return vectors


def _batches(path: Path, column: str) -> Iterator[pa.Array[Any]]:
    """The column of embeddings of a shard, a piece at a time."""
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_READ, columns=[column]):
                yield batch.column(0)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"Cannot read the table {path} ({error}): run `ffhqref embed` again.") from None
