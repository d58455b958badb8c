"""People and the pairs near them -> what is doubtful, and how likely it is wrong.

A grouping is doubtful in three ways: one person may be two (`weak_link`), two may be one (`split`), and where
people are known beforehand a photo may bear the wrong name (`label`). All three ask the same question of two
groups of photos: do they show one person?
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import minimum_spanning_tree

from ffhqref.core.arrays import Float64, Int64
from ffhqref.identities.grouping import Edges, Labels, Vectors, components, distances_of
from ffhqref.identities.sameness import Groups, groups_of, sameness

LEAST = 0.05  # of a doubt that is worth a look
BLOCK_ROWS = 1024  # compared with all others at once

Kind = Literal["weak_link", "split", "label"]
Bools = npt.NDArray[np.bool_]


class Doubt(NamedTuple):
    """One thing to look at.

    `doubt` (0..1) is how likely it is wrong. `person` and `other` are labels of people (`other` -1 where
    there is none), `left` and `right` the photos to look at, nearest of the two groups that are compared;
    `similarity` is the mean between these groups, and `members` their photos together.
    """

    kind: Kind
    doubt: float
    person: int
    other: int
    left: int
    right: int
    distance: float
    similarity: float
    members: int


def spanning_forest(count: int, blocks: Iterable[tuple[Int64, Int64, Float64]]) -> tuple[Edges, Float64]:
    """The shortest edges (m x 2, and distances) that connect what the pairs connect, which come in blocks.

    The forest of a part, with the pairs that follow, has the forest of them all in it.
    """
    left = right = np.empty(0, np.int64)
    length = np.empty(0)
    for block in blocks:
        rows, columns, distances = (
            np.concatenate(parts) for parts in zip((left, right, length), block, strict=True)
        )
        # SciPy takes 0 for no edge; all lengths one longer give the same trees
        graph = coo_array((distances + 1, (rows, columns)), shape=(count, count)).tocsr()
        tree = minimum_spanning_tree(graph).tocoo()
        left, right = (axis.astype(np.int64) for axis in tree.coords)
        length = tree.data - 1
    return np.stack([left, right], axis=1).astype(np.int32), np.maximum(length, 0.0)


class Judge:
    """Asks of parts of people, and of pairs of people, whether they are one person."""

    def __init__(self, vectors: Vectors, people: Labels, baselines: Float64, distance: float):
        self.vectors, self.baselines, self.distance = vectors, baselines, distance
        self.labels, self.person = np.unique(people, return_inverse=True)
        self.groups = groups_of(vectors, baselines, self.person)
        order = np.argsort(self.person, kind="stable")
        self.photos = np.split(order, np.cumsum(self.groups.sizes.astype(np.int64))[:-1])

    def weak_links(self, forest: Edges, lengths: Float64) -> list[Doubt]:
        """People who may be two, each once: at the longest edge of their tree, or at one photo.

        `forest` connects each person's photos as far as stored pairs do; where it is in several trees,
        the person may fall apart between any of them and the rest.
        """
        found: dict[int, tuple[float, float, Int64]] = {}
        pieces = self._pieces(forest, lengths)
        first = np.unique(pieces, return_index=True)[1]
        sure, similarity = self._in_whole(groups_of(self.vectors, self.baselines, pieces), self.person[first])
        for piece in np.flatnonzero(1 - sure >= LEAST).tolist():
            photos = np.flatnonzero(pieces == piece)
            self._keep_worst(found, photos, float(sure[piece]), float(similarity[piece]))
        sure, similarity = self.photos_in_people()
        for photo in np.flatnonzero(1 - sure >= LEAST).tolist():
            self._keep_worst(found, np.array([photo]), float(sure[photo]), float(similarity[photo]))
        return [
            self._doubt("weak_link", sure, similarity, part, np.setdiff1d(self.photos[person], part))
            for person, (sure, similarity, part) in found.items()
        ]

    def _keep_worst(
        self, found: dict[int, tuple[float, float, Int64]], part: Int64, sure: float, similarity: float
    ) -> None:
        person = int(self.person[part[0]])
        if person not in found or sure < found[person][0]:
            found[person] = (sure, similarity, part)

    def _pieces(self, forest: Edges, lengths: Float64) -> Int64:
        """Photos numbered by what is left of their person's tree (or trees) without the longest edge."""
        trees = components(len(self.person), forest)
        whole = np.bincount(self.person[np.unique(trees)], minlength=len(self.photos)) == 1
        of = self.person[forest[:, 0]]
        order = np.lexsort((-lengths, of))
        longest = order[np.unique(of[order], return_index=True)[1]]
        keep = np.ones(len(forest), bool)
        keep[longest[whole[of[longest]]]] = False
        return np.unique(components(len(self.person), forest[keep]), return_inverse=True)[1]

    def _in_whole(self, parts: Groups, people: Int64) -> tuple[Float64, Float64]:
        """`sameness` of each part with the rest of the person that it is of; sure where there is no rest."""
        sure, similarity = np.ones(len(people)), np.ones(len(people))
        some = np.flatnonzero(parts.sizes < self.groups.sizes[people])
        for at in range(0, len(some), BLOCK_ROWS):
            index = some[at : at + BLOCK_ROWS]
            part = parts.at(index)
            rest = self.groups.at(people[index]).without(part)
            sure[index], similarity[index] = sameness(part, rest, self.distance)
        return sure, similarity

    def photos_in_people(self) -> tuple[Float64, Float64]:
        """`sameness` of each photo with the others of its person."""
        return self._in_whole(Groups(self.vectors, self.baselines, np.ones(len(self.person))), self.person)

    def splits(self, across: Edges) -> list[Doubt]:
        """Pairs of people, of those that a pair of photos in `across` connects, who may be one."""
        pairs = np.sort(self.person[across], axis=1)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        found = []
        for at in range(0, len(pairs), BLOCK_ROWS):
            part = pairs[at : at + BLOCK_ROWS]
            sure, similarity = sameness(self.groups.at(part[:, 0]), self.groups.at(part[:, 1]), self.distance)
            for row in np.flatnonzero(sure >= LEAST).tolist():
                one, other = (self.photos[person] for person in part[row])
                found.append(self._doubt("split", 1 - float(sure[row]), float(similarity[row]), one, other))
        return found

    def labels_of(self, listed: Bools, across: Edges) -> list[Doubt]:
        """Listed photos that are not like the others of their name, and whom they are like, if anyone."""
        sure, similarity = self.photos_in_people()
        both = np.concatenate([across, across[:, ::-1]])
        both = both[listed[both].all(axis=1) & (self.person[both[:, 0]] != self.person[both[:, 1]])]
        found = []
        for photo in np.flatnonzero(listed & (1 - sure >= LEAST)).tolist():
            alone = np.array([photo])
            others = np.unique(self.person[both[both[:, 0] == photo, 1]])
            near = Groups(self.vectors, self.baselines, np.ones(len(self.person))).at(
                np.repeat(alone, len(others))
            )
            like, to_other = sameness(near, self.groups.at(others), self.distance)
            best = int(np.argmax(like)) if len(others) else -1
            if best >= 0 and like[best] > max(0.5, sure[photo]):
                group, mean = self.photos[others[best]], float(to_other[best])
            else:
                group, mean = np.setdiff1d(self.photos[self.person[photo]], alone), float(similarity[photo])
            found.append(self._doubt("label", float(sure[photo]), mean, alone, group))
        return found

    def _doubt(self, kind: Kind, right: float, similarity: float, one: Int64, other: Int64) -> Doubt:
        """A row of what is right with probability `right`, with the nearest photos of both groups."""
        left, far = self._nearest(one, other)
        pair = sorted((left, far)) if kind != "label" else [left, far]
        people = [int(self.labels[self.person[photo]]) for photo in pair]
        return Doubt(
            kind, 1 - right, people[0], people[1] if people[1] != people[0] else -1, pair[0], pair[1],
            float(distances_of(self.vectors, left, far)[0]), similarity, len(one) + len(other),
        )  # fmt: skip

    def _nearest(self, one: Int64, other: Int64) -> tuple[int, int]:
        """The nearest two photos of two groups."""
        best, pair = -np.inf, (int(one[0]), int(other[0]))
        for at in range(0, len(one), BLOCK_ROWS):
            dots = self.vectors[one[at : at + BLOCK_ROWS]] @ self.vectors[other].T
            row, column = np.unravel_index(int(np.argmax(dots)), dots.shape)
            if dots[row, column] > best:
                best, pair = float(dots[row, column]), (int(one[at + row]), int(other[column]))
        return pair


def find_doubts(
    judge: Judge, forest: tuple[Edges, Float64], across: Edges, listed: Bools | None = None
) -> list[Doubt]:
    """All doubts, the likeliest wrong first, each thing once.

    `across` are pairs of photos of different people within reach. `listed` says which photos have a name
    from outside: of these, one with a doubtful name is judged as such alone, and left out of other doubts.
    """
    doubts: list[Doubt] = []
    rest = judge
    if listed is not None:
        doubts = judge.labels_of(listed, across)
        wrong = np.array([row.left for row in doubts], np.int64)
        people = judge.labels[judge.person].copy()
        people[wrong] = len(people) + np.arange(len(wrong))
        rest = Judge(judge.vectors, people, judge.baselines, judge.distance)
        across = across[~np.isin(across, wrong).any(axis=1)]
        here = people[forest[0][:, 0]] == people[forest[0][:, 1]]
        forest = forest[0][here], forest[1][here]
    doubts += [*rest.weak_links(*forest), *rest.splits(across)]
    return sorted(doubts, key=lambda row: (-row.doubt, row.kind, row.left, row.right))
