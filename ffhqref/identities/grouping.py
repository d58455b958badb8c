"""Who is one person: connected components, and average linkage, which does not chain."""

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


# Average linkage joins, again and again, the two groups with the greatest mean similarity over all pairs
# between them, until no mean passes the cut. Two facts make that cheap and keep it exact.
#
# 1. No matrix is kept. With S the sum of a group's unit vectors, B that of its photos' baselines and n its
#    size, the mean over all pairs (i in A, j in B) of  similarity(i, j) - (baseline_i + baseline_j) / 2  is
#        S_A . S_B / (n_A n_B) - (B_A / n_A + B_B / n_B) / 2,
#    and joining two groups adds their sums. A mean that passes the cut needs a pair that does, so only groups
#    that such an edge connects are ever compared.
# 2. There is no search over all pairs of groups. From any group, go to its nearest, to the nearest of that
#    one, and so on until two are each other's nearest; join them, and go on from the one before. The mean of
#    a union to a third group is a weighted mean of its parts' means, so it never exceeds the greater of them
#    (the linkage is "reducible"). Hence joining others never separates two that are each other's nearest;
#    the greedy algorithm joins them too, sooner or later, and the groups are the same. This is the
#    nearest-neighbour chain of Benzécri 1982 and Juan 1982; Müllner 2011 (arXiv 1109.2378) has the proofs.


def average_linkage(vectors: Vectors, baselines: Float64, cut: float, edges: Edges) -> Labels:
    """Groups joined while the mean of (similarity - both baselines' mean) between two of them passes `cut`.

    `baselines` (n) is how similar strangers are to each photo; zeros give plain average linkage. `edges`
    must hold every pair that passes the cut by itself.
    """
    labels = np.arange(len(vectors))
    parts = components(len(vectors), edges)
    order = np.argsort(parts[edges[:, 0]], kind="stable")
    bounds = np.flatnonzero(np.diff(parts[edges[order, 0]], prepend=-1, append=-1))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        inside = edges[order[begin:end]]
        members = np.unique(inside)
        local = np.searchsorted(members, inside).astype(np.int32)
        labels[members] = members[_link(vectors[members], baselines[members], cut, local)]
    return lowest(labels)


def _link(vectors: Vectors, baselines: Float64, cut: float, edges: Edges) -> Labels:
    """Average linkage inside one connected part, by the nearest-neighbour chain."""
    groups = _Groups(vectors.astype(np.float64), baselines, edges)
    for start in range(len(vectors)):
        chain = [start] if groups.parent[start] == start else []
        while chain:
            top = chain[-1]
            nearest, mean = groups.nearest(top, chain[-2:-1])
            if mean <= cut:  # this group is done; only the first of a chain, as the others passed the cut
                break
            if nearest in chain:  # the one before; an earlier one only where rounding splits equal means
                joined = groups.join(chain[-2], top)
                chain = chain[:-2] or [joined]
            else:
                chain.append(nearest)
    return groups.labels()


class _Groups:
    """Sums over each group's photos (of vectors, of baselines, of ones), and which other groups are near.

    A group is known by its lowest photo; `parent` leads from a photo to it.
    """

    def __init__(self, sums: Float64, baselines: Float64, edges: Edges):
        count = len(sums)
        self.sums, self.baselines = sums, baselines.astype(np.float64)
        self.sizes, self.parent = np.ones(count), np.arange(count)
        both = np.concatenate([edges, edges[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        self.near = np.split(both[:, 1].astype(np.int64), np.searchsorted(both[:, 0], np.arange(1, count)))

    def nearest(self, group: int, preferred: list[int]) -> tuple[int, float]:
        """The near group with the greatest mean, and the mean; of equals a preferred one, then the lowest."""
        others = self._roots(self.near[group])
        others = self.near[group] = others[others != group]
        if len(others) == 0:
            return group, -np.inf
        means = self._means(group, others)
        best = float(means.max())
        equal = others[means == best]
        return next((int(one) for one in preferred if one in equal), int(equal[0])), best

    def _roots(self, photos: Labels) -> Labels:
        """The groups of photos, each once, in order."""
        roots = self.parent[photos]
        while not np.array_equal(higher := self.parent[roots], roots):
            roots = higher
        self.parent[photos] = roots
        return np.unique(roots)

    def _means(self, group: int, others: Labels) -> Float64:
        """The mean between `group` and each other one, as equation 1 above has it."""
        dots = np.empty(len(others))
        for at in range(0, len(others), 256):  # few enough to stay in the cache
            part = slice(at, at + 256)
            dots[part] = (self.sums[others[part]] * self.sums[group]).sum(axis=1)
        size = self.sizes[group]
        baseline = self.baselines[others] / self.sizes[others] + self.baselines[group] / size
        return np.asarray(dots / (self.sizes[others] * size) - baseline / 2, np.float64)

    def join(self, one: int, other: int) -> int:
        """Join two groups; the number of the one that they become."""
        kept, gone = min(one, other), max(one, other)
        for sums in (self.sums, self.baselines, self.sizes):
            sums[kept] += sums[gone]
        self.parent[gone] = kept
        self.near[kept] = np.concatenate([self.near[kept], self.near[gone]])
        self.near[gone] = self.near[gone][:0]
        return kept

    def labels(self) -> Labels:
        """The group of each photo."""
        found = self.parent
        while (found != found[found]).any():
            found = found[found]
        return found


def weakest_link(vectors: Vectors) -> tuple[int, int, float]:
    """The longest edge (left, right, distance) of the minimum spanning tree: where a chain would break.

    Prim's algorithm, one row of similarities at a time, so that memory does not grow with the square of n.
    """
    wide = vectors.astype(np.float64)
    best, link = wide @ wide[0], np.zeros(len(wide), np.int64)
    inside = np.zeros(len(wide), bool)
    inside[0] = True
    edges = []
    for _ in range(len(wide) - 1):
        new = int(np.argmax(np.where(inside, -np.inf, best)))
        edges.append(sorted((int(link[new]), new)))
        inside[new] = True
        closer = wide @ wide[new]
        link = np.where(closer > best, new, link)
        best = np.maximum(best, closer)
    left, right = np.asarray(edges).T
    exact = similarities(vectors, left, right)
    at = int(np.argmin(exact))
    return int(left[at]), int(right[at]), float(1 - exact[at])


def cohesion(vectors: Vectors) -> float:
    """Mean similarity over the pairs of an identity's photos."""
    total = vectors.astype(np.float64).sum(axis=0)
    count = len(vectors)
    return float(((total**2).sum() - count) / (count * (count - 1)))


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
