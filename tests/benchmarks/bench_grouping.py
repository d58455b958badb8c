"""The grouping of people's own photographs beside plain linkages, and its cost at tens of thousands."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from ffhqref.core.recipe import load_recipe
from ffhqref.core.tables import load_embeddings
from ffhqref.dataset.cluster import group_by_average, reach
from ffhqref.dataset.embed import embed_photos
from ffhqref.identities.grouping import Agreement, Edges, Labels, Vectors, agreement
from ffhqref.identities.search import pairs_below
from tests.benchmarks.common import FACES, Peak, child, needed, row, seconds
from tests.benchmarks.synthetic import planted

DISTANCE = 0.6
PLAIN = ("single", "average", "complete")
CROWDS = (1000, 750, 500)  # photos of the largest planted people
PHOTOS = 20_000


def edges_of(vectors: Vectors, distance: float) -> Edges:
    """Every pair that the grouping must know."""
    pairs = [np.stack(block[:2], axis=1) for block in pairs_below(vectors, reach("average", distance))]
    return np.concatenate(pairs).astype(np.int32)


def plain(vectors: Vectors, method: str, distance: float) -> Labels:
    """SciPy's linkage over all cosine distances, cut at `distance`."""
    count = len(vectors)
    condensed = np.empty(count * (count - 1) // 2)
    at = 0
    for index in range(count - 1):
        condensed[at : at + count - 1 - index] = 1 - vectors[index + 1 :] @ vectors[index]
        at += count - 1 - index
    return np.asarray(fcluster(linkage(condensed, method), distance, "distance"), np.int64)


def real_photos() -> tuple[Vectors, list[str]]:
    """Embeddings of the shared photographs and their people."""
    photos, weights = needed(FACES / "photos"), needed(FACES / "weights")
    with (FACES / "photos.csv").open(newline="") as file:
        known = {photo["file"]: f"{photo['set']}/{photo['identity']}" for photo in csv.DictReader(file)}
    recipe = load_recipe(
        "photos",
        embedder=str(weights / "w600k_mbf_dequant_fp32.onnx"),
        detector=str(weights / "scrfd_2.5g_bnkps.onnx"),
        distance=DISTANCE,
    )
    with tempfile.TemporaryDirectory() as folder:
        embed_photos(photos, Path(folder), recipe, device="cpu")
        embeddings = load_embeddings(Path(folder))
    return embeddings.vectors, [known[name] for name in embeddings.names]


def compare_on_photos() -> list[dict[str, Any]]:
    vectors, people = real_photos()
    own = agreement(group_by_average(vectors, DISTANCE, edges_of(vectors, DISTANCE)), people)
    rows = []
    for method in PLAIN:
        other = agreement(plain(vectors, method, DISTANCE), people)
        scores = f"{_scores('ours', own)}; {_scores('plain', other)}"
        note = f"{len(people)} photos of {len(set(people))} people, distance {DISTANCE}; {scores}"
        ratio = own.bcubed_f / other.bcubed_f
        rows.append(
            row(f"people, plain {method} linkage", own.bcubed_f, other.bcubed_f, ratio, "BCubed F", note)
        )
    return rows


def _scores(whose: str, found: Agreement) -> str:
    return (
        f"{whose} pairwise precision {found.pair_precision:.4f}, recall {found.pair_recall:.4f}, "
        f"F {found.pair_f:.4f}"
    )


def crowded(photos: int) -> tuple[Vectors, Labels]:
    """Three crowds, people of 2 to 9 photos, and as many photos of people alone."""
    rng = np.random.default_rng(0)
    few = rng.integers(2, 10, (photos - sum(CROWDS)) // 11)
    return planted(photos, np.concatenate([CROWDS, few]), 1)


def measure(whose: str, photos: int) -> dict[str, float]:
    """Seconds, peak bytes and agreement with the planted people, of one of the two."""
    vectors, people = crowded(photos)
    found: dict[str, Labels] = {}

    def work() -> None:
        if whose == "ours":
            found["labels"] = group_by_average(vectors, DISTANCE, edges_of(vectors, DISTANCE))
        else:
            found["labels"] = plain(vectors, "average", DISTANCE)

    with Peak() as peak:
        time = seconds(work)
    scores = agreement(found["labels"], people)
    return {
        "seconds": time, "bytes": peak.bytes, "bcubed": scores.bcubed_f, "precision": scores.pair_precision,
        "recall": scores.pair_recall,
    }  # fmt: skip


def compare_at_size(photos: int) -> list[dict[str, Any]]:
    own, other = (
        child("tests.benchmarks.bench_grouping", whose, str(photos)) for whose in ("ours", "theirs")
    )
    note = (
        f"{photos} planted photos, the largest people of {', '.join(map(str, CROWDS))}; BCubed F "
        f"{own['bcubed']:.4f} beside {other['bcubed']:.4f} of SciPy's average linkage"
    )
    return [
        row("people, time", own["seconds"], other["seconds"], other["seconds"] / own["seconds"], "s", note),
        row(
            "people, memory", own["bytes"] / 1e9, other["bytes"] / 1e9, other["bytes"] / own["bytes"], "GB",
            "the same run, beyond the embeddings",
        ),
    ]  # fmt: skip


def run() -> list[dict[str, Any]]:
    return [*compare_on_photos(), *compare_at_size(PHOTOS)]


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
