"""Who is one person: connected components, and average linkage that does not chain. Arrays in, arrays out."""

from __future__ import annotations

import heapq
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
    for at in range(0, len(rows), 4096):
        part = slice(at, at + 4096)
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
    """Average linkage inside one connected part; ties go to the groups with the lowest indices."""
    groups = _Groups(vectors.astype(np.float64), levels)
    neighbours: list[set[int]] = [set() for _ in vectors]
    for left, right in edges.tolist():
        neighbours[left].add(right)
        neighbours[right].add(left)
    heap: list[tuple[float, int, int, int, int]] = []

    alive, changed = [True] * len(vectors), [0] * len(vectors)  # a group's changes make old entries stale

    def push(group: int, others: list[int]) -> None:
        for other, mean in zip(others, groups.means(group, others), strict=True):
            if mean > cut:
                a, b = min(group, other), max(group, other)
                heapq.heappush(heap, (-mean, a, b, changed[a], changed[b]))

    for group in range(len(vectors)):
        push(group, sorted(other for other in neighbours[group] if other > group))
    while heap:
        _, a, b, *stamps = heapq.heappop(heap)
        if not (alive[a] and alive[b]) or stamps != [changed[a], changed[b]]:
            continue
        groups.join(a, b)
        alive[b] = False
        changed[a] += 1
        neighbours[a] = {other for other in neighbours[a] | neighbours[b] if alive[other]} - {a}
        for other in neighbours[a]:
            neighbours[other].add(a)
        push(a, sorted(neighbours[a]))
    return groups.labels()


@dataclass
class _Groups:
    """Sums over each group's photos: of vectors, of levels, of ones."""

    sums: npt.NDArray[np.float64]
    levels: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        self.levels = self.levels.astype(np.float64).copy()
        self.sizes = np.ones(len(self.sums))
        self.parent = np.arange(len(self.sums))

    def means(self, group: int, others: list[int]) -> list[float]:
        """Mean over all pairs between `group` and each other one of similarity less both levels' mean."""
        dots = (self.sums[others] * self.sums[group]).sum(axis=1)
        size = self.sizes[group]
        level = self.levels[others] / self.sizes[others] + self.levels[group] / size
        means: list[float] = (dots / (self.sizes[others] * size) - level / 2).tolist()
        return means

    def join(self, a: int, b: int) -> None:
        self.sums[a] += self.sums[b]
        self.levels[a] += self.levels[b]
        self.sizes[a] += self.sizes[b]
        self.parent[b] = a

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
