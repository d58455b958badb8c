"""Who is one person: connected components, and average linkage that does not chain. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Vectors = npt.NDArray[np.float32]  # n x D, unit rows
Labels = npt.NDArray[np.int64]  # n, the lowest index of each group
Edges = npt.NDArray[np.int32]  # m x 2, left < right

STRANGERS = slice(10, 60)  # ranks of the other people that say what a stranger looks like to a photo


def similarities(vectors: Vectors, left: npt.ArrayLike, right: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Cosine similarity of row pairs in float64, the same bits on every machine and in every order."""
    rows, columns = np.atleast_1d(left), np.atleast_1d(right)
    found = np.empty(len(rows))
    for at in range(0, len(rows), 1024):
        part = slice(at, at + 1024)
        product = vectors[rows[part]].astype(np.float64) * vectors[columns[part]]
        found[part] = product.sum(axis=1)  # pairwise summation along a row: its order depends on D alone
    return found


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
    """How far above its strangers' level a group's mean similarity must lie: half of the pair's.

    A single pair needs similarity 1 - distance to be one person beyond doubt; strangers lie near 0 once
    their level is taken off. Half-way between the two is where a mean over a group is decided.
    """
    return (1 - distance) / 2


def lowest_level(distance: float) -> float:
    """The least level of strangers that is assumed, so that a set of few people is not judged by luck."""
    return (1 - distance) / 4


def average_linkage(vectors: Vectors, levels: npt.NDArray[np.float64], cut: float, edges: Edges) -> Labels:
    """Groups joined while the mean of (similarity - both levels' mean) between two of them passes `cut`.

    `levels` (n) is what a stranger's similarity looks like to each photo; zeros give plain average
    linkage. `edges` must hold every pair that passes the cut by itself: a mean that passes needs at
    least one. The mean over two groups is the dot product of their sums, so no matrix is kept.
    """
    labels = np.arange(len(vectors))
    parts = components(len(vectors), edges)
    order = np.argsort(parts[edges[:, 0]], kind="stable")
    bounds = np.flatnonzero(np.diff(parts[edges[order, 0]], prepend=-1, append=-1))
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        inside = edges[order[begin:end]]
        members = np.unique(inside)
        local = np.searchsorted(members, inside).astype(np.int32)
        labels[members] = members[_link(vectors[members], levels[members], cut, local)]
    return lowest(labels)


def _link(vectors: Vectors, levels: npt.NDArray[np.float64], cut: float, edges: Edges) -> Labels:
    """Average linkage inside one connected part, by the nearest-neighbour chain (Benzecri 1982).

    Joining two groups never brings a third nearer to them than the nearer of both was, so two groups that
    are each other's nearest may be joined at once, and one without a neighbour past the cut is done.
    """
    groups = _Groups(vectors.astype(np.float64), levels, edges)
    for start in range(len(vectors)):
        chain = [start] if groups.parent[start] == start else []
        while chain:
            top = chain[-1]
            nearest, mean = groups.nearest(top, chain[-2:-1])
            if mean <= cut:  # only the first of a chain: the others have the one before
                break
            if nearest in chain:  # the one before; an earlier one only where rounding parts equal means
                joined = groups.join(chain[-2], top)
                chain = chain[:-2] or [joined]
            else:
                chain.append(nearest)
    return groups.labels()


class _Groups:
    """Sums over each group's photos (of vectors, of levels, of ones), and which other groups are near.

    A group is known by its lowest photo; `parent` leads from a photo to it.
    """

    def __init__(self, sums: npt.NDArray[np.float64], levels: npt.NDArray[np.float64], edges: Edges):
        count = len(sums)
        self.sums, self.levels = sums, levels.astype(np.float64)
        self.sizes, self.parent = np.ones(count), np.arange(count)
        both = np.concatenate([edges, edges[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        self.near = np.split(both[:, 1].astype(np.int64), np.searchsorted(both[:, 0], np.arange(1, count)))

    def nearest(self, group: int, preferred: list[int]) -> tuple[int, float]:
        """The near group of the greatest mean, and the mean; of equals a preferred one, then the lowest."""
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

    def _means(self, group: int, others: Labels) -> npt.NDArray[np.float64]:
        """Mean over all pairs between `group` and each other one of similarity less both levels' mean."""
        dots = np.empty(len(others))
        for at in range(0, len(others), 256):  # few enough to stay in the cache
            part = slice(at, at + 256)
            dots[part] = (self.sums[others[part]] * self.sums[group]).sum(axis=1)
        size = self.sizes[group]
        level = self.levels[others] / self.sizes[others] + self.levels[group] / size
        return np.asarray(dots / (self.sizes[others] * size) - level / 2, np.float64)

    def join(self, one: int, other: int) -> int:
        """Make two groups one; returns its number."""
        kept, gone = min(one, other), max(one, other)
        for sums in (self.sums, self.levels, self.sizes):
            sums[kept] += sums[gone]
        self.parent[gone] = kept
        self.near[kept] = np.concatenate([self.near[kept], self.near[gone]])
        self.near[gone] = self.near[gone][:0]
        return kept

    def labels(self) -> Labels:
        found = self.parent
        while (found != found[found]).any():
            found = found[found]
        return found


def weakest_link(vectors: Vectors) -> tuple[int, int, float]:
    """The longest edge (left, right, distance) of the minimum spanning tree: where a chain would part.

    Prim's algorithm, a row of similarities at a time, so that memory does not grow with the square.
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

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"pairwise precision {self.pair_precision:.4f}, recall {self.pair_recall:.4f}, "
            f"F {self.pair_f:.4f}; BCubed precision {self.bcubed_precision:.4f}, "
            f"recall {self.bcubed_recall:.4f}, F {self.bcubed_f:.4f} ({self.photos} photos)"
        )


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def agreement(found: npt.ArrayLike, known: npt.ArrayLike) -> Agreement:
    """Compare two labellings of the same photos (any labels; Amigo et al. 2009 for BCubed)."""
    _, of_found = np.unique(np.asarray(found), return_inverse=True)
    _, of_known = np.unique(np.asarray(known), return_inverse=True)
    count = len(of_found)
    table = coo_array((np.ones(count), (of_found.ravel(), of_known.ravel()))).tocsr().tocoo()
    both = table.data
    in_found, in_known = np.bincount(of_found.ravel()), np.bincount(of_known.ravel())

    def pairs(sizes: npt.NDArray[np.float64] | npt.NDArray[np.int64]) -> float:
        return float((sizes * (sizes - 1) / 2).sum())

    right, of_pairs, all_pairs = pairs(both), pairs(in_found), pairs(in_known)
    return Agreement(
        pair_precision=right / of_pairs if of_pairs else 1.0,
        pair_recall=right / all_pairs if all_pairs else 1.0,
        bcubed_precision=float((both * both / in_found[table.coords[0]]).sum() / count),
        bcubed_recall=float((both * both / in_known[table.coords[1]]).sum() / count),
        photos=count,
    )
