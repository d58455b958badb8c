"""Pairs and splits -> reference_mapping/{train,val,test}_references.csv, in the published form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.recipe import Recipe, Start
from ffhqref.core.store import Receipt, digest_given, fingerprint, finished, lock, write_receipt, write_text
from ffhqref.core.terminal import progress
from ffhqref.dataset import crops, neighbours
from ffhqref.dataset.neighbours import Neighbours, least_distance
from ffhqref.identities.grouping import Vectors

REVISION = 1


def csv_path(out: Path, split: str) -> Path:
    """Where the mapping of a split lies."""
    return out / "reference_mapping" / f"{split}_references.csv"


def farthest_points(vectors: Vectors, distances: Float64, start: Start = "nearest") -> Int64:
    """The order of farthest-point sampling over references (n x D unit rows), so that the first k vary most.

    `distances` (n) are those to the target. The paper does not say where it starts: `nearest` begins
    with the reference nearest to the target, `farthest` with the farthest. Ties go to the lower index.
    """
    wide = vectors.astype(np.float64)
    first = int(np.argmin(distances) if start == "nearest" else np.argmax(distances))
    order = [first]
    apart = 1 - (wide * wide[first]).sum(axis=1)
    while len(order) < len(wide):
        apart[order] = -np.inf
        new = int(np.argmax(apart))
        order.append(new)
        apart = np.minimum(apart, 1 - (wide * wide[new]).sum(axis=1))
    return np.asarray(order)


def rows_of(
    graph: Neighbours, vectors: Vectors, splits: Sequence[str], split: str, recipe: Recipe
) -> list[tuple[str, list[str]]]:
    """(target, references) of every target of a split that has references, ordered by target.

    References are the target's direct neighbours: own identity, own split, below the distance, and at
    or above the least one of the split. In test, targets outside `test_references` have no row.
    """
    least = least_distance(recipe, split)
    low, high = recipe.test_references if split == "test" else (1, 0)
    rows = []
    targets = [at for at, name in enumerate(splits) if name == split and graph.may_be_target[at]]
    for target in progress(targets, split, "target"):
        found, distances = graph.of(target, least)
        inside = np.array([splits[photo] == split for photo in found], bool)
        found, distances = found[inside], distances[inside]
        if len(found) < low or (high and len(found) > high):
            continue
        if recipe.order == "fps":
            order = farthest_points(vectors[found], distances, recipe.fps_start)
        elif recipe.order == "nearest":
            order = np.lexsort((found, distances))
        else:
            order = np.arange(len(found))  # neighbours are ordered by name
        chosen = found[order[: recipe.max_references]]
        rows.append((graph.names[target], [graph.names[photo] for photo in chosen]))
    return rows


def write_references(out: Path, recipe: Recipe) -> Receipt:
    """Write the three mappings of a dataset whose splits are drawn.

    The receipt's notes count targets and how many have 1, 2, ... 9 and more references.
    """
    names = ("min_distance", "max_references", "order", "fps_start", "dedupe")
    parameters = {name: getattr(recipe, name) for name in names}
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
        vectors = tables.load_embeddings(out).vectors
        table = tables.read(tables.path_of(out, "splits"), tables.SPLIT_TABLE)
        splits = tables.texts(table, tables.SPLIT)
        notes = {}
        for split in tables.SPLITS:
            rows = rows_of(graph, vectors, splits, split, recipe)
            write_text(csv_path(out, split), tables.reference_csv(rows, with_lq=split != "train"))
            counts = np.bincount([min(len(row), 10) for _, row in rows], minlength=11)[1:]
            notes[split] = {"targets": len(rows), "references": sum(len(row) for _, row in rows)}
            notes[split]["histogram_1_to_10_and_more"] = counts.tolist()
        return write_receipt(out, wanted, [csv_path(out, split) for split in tables.SPLITS], notes)
