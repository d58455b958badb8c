"""Pairs and components of 70,000 x 512 beside scikit-learn's DBSCAN."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ffhqref.identities.grouping import Labels, Vectors, components
from ffhqref.identities.search import pairs_below
from tests.benchmarks.common import PAIRS, Peak, Row, child, interleave, seconds
from tests.benchmarks.synthetic import ffhq_like

PHOTOS = 70_000
DISTANCE = 0.4  # the paper's
MOST_BYTES = 1.5e9


def ours(vectors: Vectors) -> tuple[Labels, int]:
    """Components, and how many pairs there are."""
    joined, count = np.arange(len(vectors)), 0
    for left, right, _ in pairs_below(vectors, DISTANCE):
        joined = components(len(vectors), np.stack([left, right], axis=1).astype(np.int32), joined)
        count += len(left)
    return joined, count


def theirs(vectors: Vectors) -> Labels:
    """DBSCAN of which every point is a core point: its clusters are the connected components."""
    from sklearn.cluster import DBSCAN

    search = DBSCAN(eps=DISTANCE, metric="cosine", algorithm="brute", n_jobs=2, min_samples=1)
    return np.asarray(search.fit_predict(vectors), np.int64)


def same_grouping(a: Labels, b: Labels) -> bool:
    """Whether two labellings part the photos alike, whatever the labels."""
    both = np.unique(np.stack([a, b]), axis=1).shape[1]
    return bool(both == len(np.unique(a)) == len(np.unique(b)))


def run(photos: int = PHOTOS, pairs: int = PAIRS) -> Iterator[Row]:
    vectors, _ = ffhq_like(photos)
    found: dict[str, Any] = {}
    times = interleave(
        pairs,
        ours=lambda: seconds(lambda: found.update(ours=ours(vectors))),
        theirs=lambda: seconds(lambda: found.update(theirs=theirs(vectors))),
    )
    labels, count = found["ours"]
    if not same_grouping(labels, found["theirs"]):
        raise AssertionError("the components differ from DBSCAN's")
    people = np.bincount(np.unique(labels, return_inverse=True)[1])
    note = (
        f"{photos} x 512, distance {DISTANCE}: {count} pairs, {int((people > 1).sum())} components of 2 or "
        f"more, identical; beside DBSCAN(cosine, brute, n_jobs=2)"
    )
    yield times.row("pairs and components", times.made["ours"], times.made["theirs"], "s", note)
    memory = interleave(pairs, ours=lambda: child("tests.benchmarks.bench_cluster", str(photos)))
    usual = memory.costs("ours", lambda run: run["bytes"])
    dense = memory.costs("ours", lambda run: run["dense_bytes"])
    if max(*usual, *dense) > MOST_BYTES:
        raise AssertionError(f"more than {MOST_BYTES / 1e9} GB beyond the embeddings: {memory.made}")
    note = (
        f"peak beyond the embeddings, below {MOST_BYTES / 1e9}; {max(dense) / 1e9:.2f} on a crowd "
        f"of {memory.made['ours'][0]['pairs']} pairs"
    )
    yield memory.row("memory of the search", [one / 1e9 for one in usual], None, "GB", note)


def measure_memory(photos: int) -> dict[str, float]:
    """Peak bytes beyond the embeddings, with few pairs and with one crowd of which every pair is kept."""
    ours(ffhq_like(3000)[0])  # what the libraries themselves take
    vectors, _ = ffhq_like(photos)
    with Peak() as usual:
        ours(vectors)
    crowd = np.tile(vectors[:1], (photos // 14, 1))  # all one: 12 million pairs at 70,000
    with Peak() as dense:
        pairs = ours(crowd)[1]
    return {"bytes": usual.bytes, "dense_bytes": dense.bytes, "pairs": pairs}


if __name__ == "__main__":
    print(json.dumps(measure_memory(int(sys.argv[1]))))
