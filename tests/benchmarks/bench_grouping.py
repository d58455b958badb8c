"""The grouping of people's own photographs beside plain linkages, and its cost at tens of thousands."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from ffhqref.core.recipe import load_recipe
from ffhqref.core.tables import load_embeddings
from ffhqref.dataset.embed import embed_photos
from ffhqref.dataset.neighbours import Neighbours
from ffhqref.dataset.references import rows_of
from ffhqref.identities.calibrate import match_rates
from ffhqref.identities.doubts import spanning_forest
from ffhqref.identities.grouping import Agreement, Edges, Labels, Vectors, agreement, components
from ffhqref.identities.people import group, reach
from ffhqref.identities.search import pairs_below
from tests.benchmarks.common import FACES, PAIRS, Peak, Row, child, interleave, needed, score, seconds
from tests.benchmarks.synthetic import planted

DISTANCE = 0.6
PLAIN = ("single", "average", "complete")
CROWDS = (1000, 750, 500)  # photos of the largest planted people
PHOTOS = 20_000


def edges_of(vectors: Vectors, distance: float) -> Edges:
    """Every pair that the grouping must know."""
    pairs = [np.stack(block[:2], axis=1) for block in pairs_below(vectors, reach(distance))]
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


def embedded(photos: Path, known: dict[str, str]) -> tuple[Vectors, list[str]]:
    """Embeddings of the photographs below a folder, and their people by name."""
    weights = needed(FACES / "weights")
    recipe = load_recipe(
        "photos",
        embedder=str(weights / "w600k_mbf_dequant_fp32.onnx"),
        detector=str(weights / "scrfd_2.5g_bnkps.onnx"),
        distance=DISTANCE,
    )
    with tempfile.TemporaryDirectory() as folder:
        embed_photos(needed(photos), Path(folder), recipe, device="cpu")
        embeddings = load_embeddings(Path(folder))
    return embeddings.vectors, [known[name] for name in embeddings.names]


def real_photos() -> tuple[Vectors, list[str]]:
    """Embeddings of the shared photographs and their people."""
    with needed(FACES / "photos.csv").open(newline="") as file:
        known = {photo["file"]: f"{photo['set']}/{photo['identity']}" for photo in csv.DictReader(file)}
    return embedded(FACES / "photos", known)


def lfw() -> tuple[Vectors, list[str]]:
    """Embeddings of LFW's photographs of people with ten or more, and who LFW says they are."""
    with needed(FACES / "lfw158" / "people.csv").open(newline="") as file:
        known = {photo["image"]: photo["identity"] for photo in csv.DictReader(file)}
    return embedded(FACES / "lfw158" / "photos", known)


def compare_on_lfw() -> Row:
    """Beside connected components below the distance, which chain where photos are many."""
    vectors, people = lfw()
    edges = edges_of(vectors, DISTANCE)
    own = agreement(group(vectors, DISTANCE, edges), people)
    below = [np.stack(block[:2], axis=1).astype(np.int32) for block in pairs_below(vectors, DISTANCE)]
    other = agreement(components(len(vectors), np.concatenate(below)), people)
    note = (
        f"{len(people)} LFW photos of {len(set(people))} people, distance {DISTANCE}; "
        f"{_scores('ours', own)}; {_scores('components', other)}"
    )
    ratio = own.bcubed_f / other.bcubed_f
    return score("people of LFW, connected components", own.bcubed_f, other.bcubed_f, ratio, "BCubed F", note)


def compare_on_photos() -> Iterator[Row]:
    vectors, people = real_photos()
    own = agreement(group(vectors, DISTANCE, edges_of(vectors, DISTANCE)), people)
    for method in PLAIN:
        other = agreement(plain(vectors, method, DISTANCE), people)
        scores = f"{_scores('ours', own)}; {_scores('plain', other)}"
        note = f"{len(people)} photos of {len(set(people))} people, distance {DISTANCE}; {scores}"
        name, ratio = f"people, plain {method} linkage", own.bcubed_f / other.bcubed_f
        yield score(name, own.bcubed_f, other.bcubed_f, ratio, "BCubed F", note)


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
            found["labels"] = group(vectors, DISTANCE, edges_of(vectors, DISTANCE))
        elif whose == "rates":
            match_rates(vectors, people.astype(str).tolist())
        else:
            found["labels"] = plain(vectors, "average", DISTANCE)

    with Peak() as peak:
        time = seconds(work)
    if whose == "rates":
        return {"seconds": time, "bytes": peak.bytes}
    scores = agreement(found["labels"], people)
    return {
        "seconds": time, "bytes": peak.bytes, "bcubed": scores.bcubed_f, "precision": scores.pair_precision,
        "recall": scores.pair_recall,
    }  # fmt: skip


def compare_at_size(photos: int, pairs: int) -> Iterator[Row]:
    ways = {
        who: partial(child, "tests.benchmarks.bench_grouping", who, str(photos)) for who in ("ours", "theirs")
    }
    runs = interleave(pairs, **ways)
    own, other = (runs.made[who][0] for who in ways)
    note = (
        f"{photos} planted photos, the largest people of {', '.join(map(str, CROWDS))}; BCubed F "
        f"{own['bcubed']:.4f} beside {other['bcubed']:.4f} of SciPy's average linkage"
    )
    times = (runs.costs(who, lambda run: run["seconds"]) for who in ways)
    yield runs.row("people, time", *times, "s", note)
    memory = (runs.costs(who, lambda run: run["bytes"] / 1e9) for who in ways)
    yield runs.row("people, memory", *memory, "GB", "the same runs, beyond the embeddings")


CROWD = 3000  # photos of one person


def one_person(photos: int) -> Neighbours:
    """The graph of one person's photos, every pair below the distance."""
    left, right = np.nonzero(~np.eye(photos, dtype=bool))
    distances = np.random.default_rng(0).uniform(0.2, 0.5, len(left))
    names = [f"{index:05d}.png" for index in range(photos)]
    alone, all_of = ["a"] * photos, np.ones(photos, bool)
    return Neighbours(names, alone, alone, left, right, distances, all_of, False)


def bounded_references(photos: int, pairs: int) -> Row:
    """References of one person with many photos, beside those of half as many: the shipped bound holds."""
    recipe = replace(load_recipe("photos", distance=DISTANCE), test=0.0, val=0.0, dedupe="off")
    vectors, _ = planted(photos, np.array([photos]), 0)

    def each(graph: Neighbours) -> float:
        """Milliseconds a photo."""
        count = len(graph.names)
        work = partial(rows_of, graph, vectors[:count], ["train"] * count, "train", recipe)
        return seconds(work) / count * 1e3

    half, whole = one_person(photos // 2), one_person(photos)
    times = interleave(pairs, ours=lambda: each(whole), theirs=lambda: each(half))
    note = (
        f"one person of {photos} photos, {recipe.max_references} references each; beside {photos // 2} "
        "photos: 1 is linear"
    )
    return times.row("references of a crowd", times.made["ours"], times.made["theirs"], "ms/photo", note)


def prim(vectors: Vectors) -> float:
    """The longest edge of the minimum spanning tree over all pairs, one photo at a time."""
    wide = vectors.astype(np.float64)
    best = wide @ wide[0]
    inside = np.zeros(len(wide), bool)
    inside[0] = True
    longest = 1.0
    for _ in range(len(wide) - 1):
        new = int(np.argmax(np.where(inside, -np.inf, best)))
        longest = min(longest, float(best[new]))
        inside[new] = True
        best = np.maximum(best, wide @ wide[new])
    return 1 - longest


def weakest_links(photos: int, pairs: int) -> Row:
    """The longest edge of one person's tree: from the stored pairs, beside Prim's algorithm on the photos."""
    vectors, _ = planted(photos, np.array([photos]), 0)
    stored = list(pairs_below(vectors, DISTANCE))
    near = components(photos, np.concatenate([np.stack(block[:2], 1) for block in stored]).astype(np.int32))
    if (near != 0).any():
        raise RuntimeError("the planted person is not connected")
    found: dict[str, float] = {}
    times = interleave(
        pairs,
        ours=lambda: seconds(lambda: found.update(ours=float(spanning_forest(photos, stored)[1].max()))),
        theirs=lambda: seconds(lambda: found.update(theirs=prim(vectors))),
    )
    if abs(found["ours"] - found["theirs"]) > 1e-6:
        raise RuntimeError(f"the trees differ: {found}")
    count = sum(len(block[0]) for block in stored)
    note = f"one person of {photos} photos, {count} stored pairs; beside Prim's algorithm over the vectors"
    return times.row("weakest link of a person", times.made["ours"], times.made["theirs"], "s", note)


def calibrating(photos: int, pairs: int) -> Row:
    """Peak memory of the match rates of `photos`, beside the vectors themselves."""
    runs = interleave(pairs, ours=partial(child, "tests.benchmarks.bench_grouping", "rates", str(photos)))
    ours = runs.costs("ours", lambda run: run["bytes"] / 1e9)
    took = median(runs.costs("ours", lambda run: run["seconds"]))
    note = f"{photos} photos in {took:.0f} s; beside the embeddings' own"
    return runs.row("calibrate, memory", ours, [photos * 512 * 4 / 1e9] * pairs, "GB", note)


def run(pairs: int = PAIRS) -> Iterator[Row]:
    yield from compare_on_photos()
    yield compare_on_lfw()
    yield from compare_at_size(PHOTOS, pairs)
    yield bounded_references(CROWD, pairs)
    yield weakest_links(CROWD, pairs)
    yield calibrating(PHOTOS, pairs)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
