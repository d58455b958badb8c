"""What groupings are made of: similarities of rows, connected components, cuts, and how two of them agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ffhqref.core.arrays import Float32, Float64, Int64

Vectors = Float32  # n x D, unit rows
Labels = Int64  # n, the lowest index of each group
Edges = npt.NDArray[np.int32]  # m x 2, left < right

STRANGERS = slice(10, 60)  # ranks of the other people that say how similar strangers are to a photo


def similarities(vectors: Vectors, left: npt.ArrayLike, right: npt.ArrayLike) -> Float64:
    """Cosine similarity of row pairs in float64: the same bits on every machine, however pairs are batched.

    A product of two float32 is exact in float64, and NumPy's pairwise summation along a row adds in an
    order that depends on D alone.
    """
    rows, columns = np.atleast_1d(left), np.atleast_1d(right)
    found = np.empty(len(rows))
    for at in range(0, len(rows), 1024):
        part = slice(at, at + 1024)
        product = vectors[rows[part]].astype(np.float64) * vectors[columns[part]]
        found[part] = product.sum(axis=1)
    return found


def distances_of(vectors: Vectors, left: npt.ArrayLike, right: npt.ArrayLike) -> Float64:
    """Distances (1 - similarity, 0 to 2) of row pairs; never below 0, where rounding puts equal rows."""
    return np.maximum(1 - similarities(vectors, left, right), 0.0)


def components(count: int, edges: Edges, start: Labels | None = None) -> Labels:
    """Connected components over `edges`, each labelled by its lowest index; `start` joins more."""
    joined = np.arange(count) if start is None else start
    rows = np.concatenate([np.arange(count), edges[:, 0]])
    columns = np.concatenate([joined, edges[:, 1]])
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(count, count))
    return lowest(connected_components(graph, directed=False)[1])


def lowest(labels: npt.NDArray[np.integer]) -> Labels:
    """Any labels as the lowest index of each group."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first[inverse.ravel()], np.int64)


def linkage_cut(distance: float) -> float:
    """How far above the strangers' baseline the mean similarity of two groups must lie to join them.

    A single pair needs similarity 1 - distance to be one person beyond doubt; strangers lie near 0 once
    their baseline is taken off. A mean over two groups is decided half-way between the two.
    """
    return (1 - distance) / 2


def lowest_baseline(distance: float) -> float:
    """The least baseline of strangers that is assumed, so that luck does not decide among few people."""
    return (1 - distance) / 4


@dataclass(frozen=True)
class Agreement:
    """How a grouping agrees with known people: pairwise and BCubed precision and recall, 0..1."""

    pair_precision: float
    pair_recall: float
    bcubed_precision: float
    bcubed_recall: float
    photos: int

    @property
    def pair_f(self) -> float:
        return _harmonic(self.pair_precision, self.pair_recall)

    @property
    def bcubed_f(self) -> float:
        return _harmonic(self.bcubed_precision, self.bcubed_recall)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def agreement(found: npt.ArrayLike, known: npt.ArrayLike) -> Agreement:
    """Compare two labellings of the same photos (any labels; Amigo et al. 2009 for BCubed)."""
    numbered = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (found, known))
    of_found, of_known = (numbers.ravel() for numbers in numbered)
    count = len(of_found)
    table = coo_array((np.ones(count), (of_found, of_known))).tocsr().tocoo()
    both, in_found, in_known = table.data, np.bincount(of_found), np.bincount(of_known)

    def pairs(sizes: Float64 | Int64) -> float:
        return float((sizes * (sizes - 1) / 2).sum())

    right, of_pairs, all_pairs = pairs(both), pairs(in_found), pairs(in_known)
    return Agreement(
        pair_precision=right / of_pairs if of_pairs else 1.0,
        pair_recall=right / all_pairs if all_pairs else 1.0,
        bcubed_precision=float((both * both / in_found[table.coords[0]]).sum() / count),
        bcubed_recall=float((both * both / in_known[table.coords[1]]).sum() / count),
        photos=count,
    )
