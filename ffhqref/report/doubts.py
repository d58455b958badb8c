"""What deserves a look, the most useful first: a question about two sides, and what hangs on the answer.

A doubt has two sides, groups of photos of which the dataset says either that they are one person (an
identity, parted at its weakest link) or that they are two (identities with a pair below the distance). What
hangs on it is the number of references that are wrong, or missing, if the dataset is mistaken. The chance of
that is read off the mean similarity between the sides, which is what average linkage decides by:

    P(one person) = 1 / (1 + exp(-(mean - middle) / width)),   middle = linkage cut + least baseline

The order is by chance x references: the wrong references that one answer is expected to mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64
from ffhqref.identities.grouping import Edges, Vectors, components, linkage_cut, lowest_baseline
from ffhqref.report.facts import Facts

LARGEST = 3000  # photos of an identity that is parted by all its pairs


@dataclass(frozen=True)
class Doubt:
    """A question: are the photos `left_side` and `right_side` (indices of faces) one person?

    `left` and `right` are the pair to look at, `together` what the dataset says, `chance` (0..1) how likely
    it is wrong, `stake` the references (each way) that are wrong or missing if it is.
    """

    kinds: tuple[str, ...]
    together: bool
    identity: str
    other: str
    left: int
    right: int
    left_side: tuple[int, ...]
    right_side: tuple[int, ...]
    distance: float
    mean: float
    chance: float
    stake: int

    @property
    def gain(self) -> float:
        """Wrong or missing references that an answer is expected to mend."""
        return self.chance * self.stake

    @property
    def rank(self) -> float:
        """What the order goes by: a doubt on which no reference hangs still parts or joins people."""
        return self.chance * max(self.stake, 1)


def one_person(mean: float, distance: float) -> float:
    """How likely two groups of this mean similarity are one person, 0..1."""
    middle, width = linkage_cut(distance) + lowest_baseline(distance), (1 - distance) / 8
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, (mean - middle) / width))))


def find(facts: Facts) -> list[Doubt]:
    """Every doubt of a dataset, the greatest expected gain first."""
    index = facts.faces.index
    grouped: dict[tuple[str, str], list[tables.TableRow]] = {}
    for row in facts.suspects:
        if row[tables.LEFT] in index and row[tables.RIGHT] in index:
            grouped.setdefault((row[tables.IDENTITY], row[tables.OTHER]), []).append(row)
    return ordered(_doubt(facts, rows) for rows in grouped.values())


def ordered(doubts: Iterable[Doubt]) -> list[Doubt]:
    """The greatest expected gain first; of equals the less alike, then by photo."""
    return sorted(doubts, key=lambda d: (-d.rank, -d.chance, d.left, d.right))


def _doubt(facts: Facts, rows: Sequence[tables.TableRow]) -> Doubt:
    first = rows[0]
    left, right = (facts.faces.index[first[side]] for side in (tables.LEFT, tables.RIGHT))
    together = not first[tables.OTHER]
    if together:
        sides = parted(facts.faces.vectors, facts.people[first[tables.IDENTITY]], left, right)
    else:
        sides = tuple(facts.people[facts.identity[left]]), tuple(facts.people[facts.identity[right]])
    return make(facts, tuple(row[tables.KIND] for row in rows), together, left, right, sides)


def make(
    facts: Facts,
    kinds: tuple[str, ...],
    together: bool,
    left: int,
    right: int,
    sides: tuple[tuple[int, ...], tuple[int, ...]],
) -> Doubt:
    """The doubt about two sides, with its chance and its stake."""
    between = _between(facts.faces.vectors, *sides)
    mean = float(between.mean())
    same = one_person(mean, facts.distance)
    below = int((1 - between < facts.distance).sum())
    return Doubt(
        kinds=kinds,
        together=together,
        identity=facts.identity[left],
        other="" if together else facts.identity[right],
        left=left,
        right=right,
        left_side=sides[0],
        right_side=sides[1],
        distance=float(1 - (facts.faces.vectors[left].astype(np.float64) * facts.faces.vectors[right]).sum()),
        mean=mean,
        chance=1 - same if together else same,
        stake=2 * below,
    )


def parted(
    vectors: Vectors, members: Sequence[int], left: int, right: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """An identity in two: what hangs on `left` and what on `right` once links as weak as theirs are cut.

    The weakest link of a minimum spanning tree is the longest of its edges, so photos that still hang
    together by nearer pairs are on one side of it. Where equal links leave further pieces, each goes to the
    nearer side.
    """
    if len(members) > LARGEST:
        return (left,), (right,)
    rows = np.asarray(members)
    alike = vectors[rows].astype(np.float64) @ vectors[rows].astype(np.float64).T
    at_left, at_right = (int(np.flatnonzero(rows == one)[0]) for one in (left, right))
    near = np.argwhere(np.triu(alike > alike[at_left, at_right] + 1e-9, 1))
    edges: Edges = near.astype(np.int32)
    piece = components(len(rows), edges)
    if piece[at_left] == piece[at_right]:  # the pair given was not the weakest link
        return (left,), (right,)
    nearer = alike[:, piece == piece[at_left]].mean(axis=1) >= alike[:, piece == piece[at_right]].mean(axis=1)
    on_left = np.where(piece == piece[at_left], True, np.where(piece == piece[at_right], False, nearer))
    return tuple(rows[on_left].tolist()), tuple(rows[~on_left].tolist())


def _between(vectors: Vectors, left: Sequence[int], right: Sequence[int]) -> Float64:
    """Similarities of every photo of one side to every one of the other, float64."""
    rows, columns = (vectors[np.asarray(side)].astype(np.float64) for side in (left, right))
    return np.asarray(rows @ columns.T, np.float64)


def why(doubt: Doubt, distance: float) -> str:
    """The reason for a doubt, in a sentence."""
    if "contradiction" in doubt.kinds:
        return f"Verdicts on these contradict each other: take a third look (distance {doubt.distance:.3f})."
    pair = f"nearest pair {doubt.distance:.3f}, threshold {distance:g}"
    if not doubt.together:
        return f"Two people, yet two of their photos lie below the distance ({pair})."
    if "whole" in doubt.kinds:
        return f"A person of {len(doubt.left_side) + len(doubt.right_side)} photos, to be looked through."
    reasons = []
    if "weak_link" in doubt.kinds:
        reasons.append(f"held together by one weak link ({pair})")
    if "loose_identity" in doubt.kinds:
        reasons.append("its photos are on average no nearer than the distance")
    return f"One person, {' and '.join(reasons) or 'in doubt'}."
