"""Average linkage by rules, over the pairs that can matter: people that do not chain."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ffhqref.core.arrays import Float64, Int64
from ffhqref.identities.grouping import Edges, Labels, Vectors, components, lowest
from ffhqref.identities.links import Settled

# Average linkage joins, again and again, the two groups with the greatest mean similarity over all pairs
# between them, until no mean passes the cut. Three facts make that cheap and keep it exact.
#
# 1. No matrix is kept. With S the sum of a group's unit vectors, B that of its photos' baselines and n its
#    size, the mean over all pairs (i in A, j in B) of  similarity(i, j) - (baseline_i + baseline_j) / 2  is
#        S_A . S_B / (n_A n_B) - (B_A / n_A + B_B / n_B) / 2,
#    and joining two groups adds their sums. The mean inside a group is (S . S - n) / (n (n - 1)).
# 2. A mean that passes the cut needs a pair that does: only groups that such an edge connects are compared.
# 3. The mean of two groups stays what it is until one of them is joined. So a new group is compared once
#    with those that are there, and keeps its candidates in order; a pair belongs to the younger of the two.
#    A heap holds the best candidate of each group; one that is gone by then gives way to the next.
#
# Rules may forbid a pair now and allow it later (a single joins a group more easily than a single), so the
# short cut of plain average linkage, to join any two that are each other's nearest, would not be exact here.


@dataclass(frozen=True)
class Rules:
    """Which groups may be joined although their mean passes the cut.

    `pair`: two photos alone begin a person only strictly below this distance. `closeness`: two groups of
    two or more are one person only if the mean similarity between them is at least this share of the mean
    inside the looser one (relative closeness; Karypis, Han and Kumar 1999, "Chameleon"), or at least `sure`:
    of near-copies a group is as tight as one likes, which says nothing about how much its person varies.
    """

    pair: float = np.inf
    closeness: float = -np.inf
    sure: float = np.inf


NO_RULES = Rules()


def average_linkage(
    vectors: Vectors,
    baselines: Float64,
    cut: float,
    edges: Edges,
    rules: Rules = NO_RULES,
    settled: Settled | None = None,
) -> Labels:
    """Groups joined while the mean of (similarity - both baselines' mean) between two of them passes `cut`.

    `baselines` (n) is how similar strangers are to each photo; zeros give plain average linkage. `edges`
    must hold every pair that passes the cut by itself. `settled` says what is known beforehand.
    """
    known = settled or Settled(np.arange(len(vectors)), np.zeros(len(vectors), bool), edges[:0])
    edges = edges[~known.closed[edges].any(axis=1)]
    labels = known.start.copy()
    parts = components(len(vectors), edges, known.start)
    order = np.argsort(parts, kind="stable")
    apart = _by_part(known.cannot, parts)
    for part, inside in _by_part(edges, parts).items():
        begin, end = np.searchsorted(parts[order], [part, part + 1])
        members = order[begin:end]
        groups = _Groups(vectors[members], baselines[members], cut, rules)
        forbidden = np.searchsorted(members, apart.get(part, edges[:0]))
        groups.begin(np.searchsorted(members, inside), lowest(known.start[members]), forbidden)
        labels[members] = members[groups.join_all()]
    return lowest(labels)


def single_linkage(edges: Edges, distances: Float64, settled: Settled) -> Labels:
    """Connected components over `edges`, but for what is known beforehand: nearest pairs join first.

    Without `cannot` pairs and finished people these are the components themselves.
    """
    count = len(settled.start)
    usable = ~settled.closed[edges].any(axis=1)
    edges, distances = edges[usable], distances[usable]
    labels = components(count, edges, settled.start)
    split = settled.cannot[labels[settled.cannot[:, 0]] == labels[settled.cannot[:, 1]]]
    torn = np.isin(labels, labels[split[:, 0]])
    labels[torn] = settled.start[torn]
    members: dict[int, list[int]] = {}
    for photo in np.flatnonzero(torn).tolist():
        members.setdefault(int(labels[photo]), []).append(photo)
    apart: dict[int, set[int]] = {}
    for left, right in split.tolist():
        apart.setdefault(left, set()).add(right)
        apart.setdefault(right, set()).add(left)
    inside = torn[edges[:, 0]]
    order = np.lexsort((edges[inside, 1], edges[inside, 0], distances[inside]))
    for left, right in edges[inside][order].tolist():
        one, other = int(labels[left]), int(labels[right])
        if one == other or any(
            labels[far] == other for photo in members[one] for far in apart.get(photo, ())
        ):
            continue
        moved = members.pop(max(one, other))
        labels[moved] = min(one, other)
        members[min(one, other)] += moved
    return lowest(labels)


def _by_part(pairs: Edges, parts: Labels) -> dict[int, Edges]:
    """Part -> the pairs inside it; pairs of two parts are in none."""
    pairs = pairs[parts[pairs[:, 0]] == parts[pairs[:, 1]]]
    pairs = pairs[np.argsort(parts[pairs[:, 0]], kind="stable")]
    labels, begins = np.unique(parts[pairs[:, 0]], return_index=True)
    return dict(zip(labels.tolist(), np.split(pairs, begins[1:]), strict=False))


class _Groups:
    """Sums over each group's photos (of vectors, of baselines, of ones), and which other groups are near.

    A group is known by its lowest photo; `parent` leads from a photo to it, and `born` says which of two
    groups is the younger.
    """

    def __init__(self, vectors: Vectors, baselines: Float64, cut: float, rules: Rules):
        count = len(vectors)
        self.cut, self.rules = cut, rules
        self.sums, self.baselines = vectors.astype(np.float64), baselines.astype(np.float64)
        self.sizes, self.inner = np.ones(count), np.full(count, np.inf)  # inner: mean similarity inside
        self.parent, self.born, self.births = np.arange(count), np.arange(count), count
        self.near: list[Int64] = []
        self.apart: dict[int, set[int]] = {}
        self.candidates: dict[int, tuple[Float64, Int64]] = {}  # means and older groups, best last
        self.heap: list[
            tuple[float, int, int, int, int]
        ] = []  # minus mean, lower, higher, younger, its birth

    def begin(self, edges: Int64, start: Labels, cannot: Int64) -> None:
        """Say what is near and what is apart, join what is known to be one, compare all."""
        both = np.concatenate([edges, edges[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        self.near = np.split(both[:, 1], np.searchsorted(both[:, 0], np.arange(1, len(self.parent))))
        for left, right in cannot.tolist():
            self.apart.setdefault(left, set()).add(right)
            self.apart.setdefault(right, set()).add(left)
        first = start == np.arange(len(start))
        for photo in np.flatnonzero(~first).tolist():
            self._unite(int(start[photo]), photo)
        for group in np.flatnonzero(first).tolist():
            self._compare(group)

    def join_all(self) -> Labels:
        """Join the best pair until none is left; the group of each photo."""
        while self.heap:
            _, low, high, younger, birth = heapq.heappop(self.heap)
            if self.parent[younger] != younger or self.born[younger] != birth:
                continue
            if self._is_there(low + high - younger, birth):
                self._unite(low, high)
                self._compare(low)
            else:
                self._push_best(younger)
        while (self.parent != self.parent[self.parent]).any():
            self.parent = self.parent[self.parent]
        return self.parent

    def _is_there(self, group: int, birth: int) -> bool:
        """Whether a group is what it was when a younger one, born at `birth`, was compared with it."""
        return bool(self.parent[group] == group and self.born[group] < birth)

    def _push_best(self, group: int) -> None:
        """Bring the best candidate of a group that is still there to the heap."""
        means, others = self.candidates[group]
        birth, last = int(self.born[group]), len(others)
        while last and not self._is_there(int(others[last - 1]), birth):
            last -= 1
        self.candidates[group] = means[:last], others[:last]
        if last:
            other = int(others[last - 1])
            pair = (min(group, other), max(group, other))
            heapq.heappush(self.heap, (-float(means[last - 1]), *pair, group, birth))

    def _compare(self, group: int) -> None:
        """Find a group's candidates among those older than it."""
        others = self._roots(self.near[group])
        others = self.near[group] = others[others != group]
        others = others[self.born[others] < self.born[group]]
        if forbidden := self.apart.get(group):
            others = others[~np.isin(others, list(forbidden))]
        similarity = self._similarities(group, others)
        baselines = self.baselines[others] / self.sizes[others] + self.baselines[group] / self.sizes[group]
        means = similarity - baselines / 2
        good = (means > self.cut) & self._allowed(group, others, similarity)
        means, others = means[good], others[good]
        order = np.lexsort((-np.maximum(others, group), -np.minimum(others, group), means))
        self.candidates[group] = means[order], others[order]
        self._push_best(group)

    def _allowed(self, group: int, others: Int64, similarity: Float64) -> npt.NDArray[np.bool_]:
        """Which groups the rules let `group` be joined with, given the mean similarities between them."""
        if self.sizes[group] == 1:
            return (self.sizes[others] > 1) | (1 - similarity < self.rules.pair)
        wanted = self.rules.closeness * np.minimum(self.inner[others], self.inner[group])
        close = similarity >= np.minimum(wanted, self.rules.sure)
        return np.asarray((self.sizes[others] == 1) | close, bool)

    def _roots(self, photos: Int64) -> Int64:
        """The groups of photos, each once, in order."""
        roots = self.parent[photos]
        while not np.array_equal(higher := self.parent[roots], roots):
            roots = higher
        self.parent[photos] = roots
        return np.unique(roots)

    def _similarities(self, group: int, others: Int64) -> Float64:
        """The mean similarity between `group` and each other one (the first part of equation 1 above)."""
        dots = np.empty(len(others))
        for at in range(0, len(others), 256):  # few enough to stay in the cache
            part = slice(at, at + 256)
            dots[part] = (self.sums[others[part]] * self.sums[group]).sum(axis=1)
        return np.asarray(dots / (self.sizes[others] * self.sizes[group]), np.float64)

    def _unite(self, kept: int, gone: int) -> None:
        """Make two groups the youngest one, known by the first."""
        for sums in (self.sums, self.baselines, self.sizes):
            sums[kept] += sums[gone]
        size = self.sizes[kept]
        self.inner[kept] = ((self.sums[kept] ** 2).sum() - size) / (size * (size - 1))
        self.parent[gone] = kept
        self.born[kept] = self.births
        self.births += 1
        self.near[kept] = np.concatenate([self.near[kept], self.near[gone]])
        self.near[gone] = self.near[gone][:0]
        self.candidates.pop(gone, None)
        for other in self.apart.pop(gone, set()):
            self.apart[other].discard(gone)
            self.apart[other].add(kept)
            self.apart.setdefault(kept, set()).add(other)
