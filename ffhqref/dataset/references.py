"""Pairs and splits -> reference_mapping/{train,val,test}_references.csv, in the published form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffhqref.core import lists, tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.recipe import Recipe, Start
from ffhqref.core.store import Receipt, digest_given, fingerprint, finished, lock, write_receipt, write_text
from ffhqref.core.terminal import progress_bar
from ffhqref.dataset import crops, neighbours
from ffhqref.dataset.looks import Looks, keys
from ffhqref.dataset.looks import load as load_looks
from ffhqref.dataset.neighbours import Neighbours, least_distance
from ffhqref.identities.grouping import Vectors

REVISION = 1
ROWS_HELD = 1 << 26  # distances of one person's photos that are kept for the next target, 8 bytes each


def csv_path(out: Path, split: str) -> Path:
    """Where the mapping of a split lies."""
    return out / "reference_mapping" / f"{split}_references.csv"


def farthest_points(
    apart_from: Callable[[int], Float64],
    distances: Float64,
    start: Start = "nearest",
    most: int | None = None,
) -> Int64:
    """The first `most` of farthest-point sampling over n references, so that the first k vary most.

    `apart_from(i)` gives the distances (n) of the i-th reference to all, `distances` (n) are those to the
    target. The paper does not say where it starts: `nearest` begins with the reference nearest to the
    target, `farthest` with the farthest. Ties go to the lower index.
    """
    first = int(np.argmin(distances) if start == "nearest" else np.argmax(distances))
    order = [first]
    apart = apart_from(first).copy()
    while len(order) < min(len(distances), most or len(distances)):
        apart[order[-1]] = -np.inf  # stays below all others
        new = int(np.argmax(apart))
        order.append(new)
        np.minimum(apart, apart_from(new), out=apart)
    return np.asarray(order)


def _distances_within(vectors: Vectors) -> Callable[[int], Float64]:
    """Distances (n) of the i-th of n photos to all of them; what was asked for is kept for the next time.

    The targets of a person choose from the same photos, and those that lie far out again and again.
    """
    wide = vectors.astype(np.float64)

    @lru_cache(max(64, ROWS_HELD // len(wide)))
    def row(photo: int) -> Float64:
        dots = np.empty(len(wide))
        for at in range(0, len(wide), 256):  # few enough to stay in the cache; the same bits as all at once
            dots[at : at + 256] = (wide[at : at + 256] * wide[photo]).sum(axis=1)
        return 1 - dots

    return row


def rows_of(
    graph: Neighbours,
    vectors: Vectors,
    splits: Sequence[str],
    split: str,
    recipe: Recipe,
    looks: Looks | None = None,
) -> list[tuple[str, list[str]]]:
    """(target, references) of every target of a split that has references, ordered by target.

    References are the target's direct neighbours: own identity, own split, below the distance, and at
    or above the least one of the split. In test, targets outside `test_references` have no row. The
    orders `pose` and `quality` need `looks`.
    """
    chosen: dict[int, Int64] = {}
    people: dict[str, list[int]] = {}
    for photo, (identity, part) in enumerate(zip(graph.identity, splits, strict=True)):
        if part == split:
            people.setdefault(identity, []).append(photo)
    with progress_bar(split, "target", sum(map(len, people.values()))) as bar:
        for photos in people.values():
            chosen |= _of_person(graph, vectors, np.asarray(photos), split, recipe, looks)
            bar.update(len(photos))
    return [
        (graph.names[target], [graph.names[photo] for photo in chosen[target]]) for target in sorted(chosen)
    ]


def _of_person(
    graph: Neighbours, vectors: Vectors, photos: Int64, split: str, recipe: Recipe, looks: Looks | None
) -> dict[int, Int64]:
    """Target -> its references, of the photos (ordered) of one person in one split."""
    least = least_distance(recipe, split)
    low, high = recipe.test_references if split == "test" else (1, 0)
    chosen = {}
    within = _distances_within(vectors[photos])
    for target in photos[graph.may_be_target[photos]].tolist():
        found, distances = graph.of(target, least)
        places = np.searchsorted(photos, found)
        here = photos[np.minimum(places, len(photos) - 1)] == found
        places, distances = places[here], distances[here]
        if len(places) < low or (high and len(places) > high):
            continue
        if recipe.order in ("fps", "nearest"):
            order = _order(within, places, distances, recipe)
        else:
            order = np.lexsort((places, keys(recipe, graph.names, looks, target, photos[places])))
        chosen[target] = photos[places[order[: recipe.max_references]]]
    return chosen


def _order(
    within: Callable[[int], Float64], places: Int64, distances: Float64, recipe: Recipe
) -> npt.NDArray[np.intp] | Int64:
    """A target's references (places among the person's photos, and distances to the target), best first."""
    if recipe.order == "fps":
        return farthest_points(
            lambda at: within(int(places[at]))[places], distances, recipe.fps_start, recipe.max_references
        )
    return np.lexsort((places, distances))


def write_references(out: Path, recipe: Recipe) -> Receipt:
    """Write the three mappings of a dataset whose splits are drawn.

    The receipt's notes count targets and how many have 1, 2, ... 9 and more references.
    """
    names = ("min_distance", "max_references", "order", "fps_start", "dedupe")
    parameters = {name: getattr(recipe, name) for name in names}
    if recipe.order == "random":
        parameters["seed"] = recipe.seed
    parameters["test_references"] = list(recipe.test_references)
    inputs = {
        "split": fingerprint(out, "split"),
        "cluster": fingerprint(out, "cluster"),
        "barred": crops.digest(out),
    }
    inputs["targets"] = digest_given(recipe.targets)
    wanted = Receipt(stage="references", revision=REVISION, parameters=parameters, inputs=inputs)
    with lock(out, "references"):
        if done := finished(out, wanted):
            return done
        graph = neighbours.load(out, recipe)
        vectors = tables.load_embeddings(out).of(graph.names).vectors
        table = tables.read(tables.path_of(out, "splits"), tables.SPLIT_TABLE)
        splits = tables.texts(table, tables.SPLIT)
        looks = load_looks(out, graph.names) if recipe.order in ("pose", "quality") else None
        notes = {}
        for split in tables.SPLITS:
            rows = rows_of(graph, vectors, splits, split, recipe, looks)
            write_text(csv_path(out, split), lists.reference_csv(rows, with_lq=split != "train"))
            counts = np.bincount([min(len(row), 10) for _, row in rows], minlength=11)[1:]
            notes[split] = {"targets": len(rows), "references": sum(len(row) for _, row in rows)}
            notes[split]["histogram_1_to_10_and_more"] = counts.tolist()
        return write_receipt(out, wanted, [csv_path(out, split) for split in tables.SPLITS], notes)
