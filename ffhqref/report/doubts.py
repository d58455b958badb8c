"""What deserves a look, the most useful first: a question about two sides, and what hangs on the answer.

A doubt has two sides, groups of photos of which the dataset says either that they are one person (an
identity, parted at its weakest link; a photo with a given name, and the others of that name) or that they are
two. What hangs on it is the number of references that are wrong, or missing, if the dataset is mistaken. How
likely that is says the table of suspects; of people whom it does not ask about, but who are alike, it is read
off the mean similarity between them:

    P(one person) = 1 / (1 + exp(-(mean - middle) / width)),   middle = linkage cut + least baseline

The order is by chance x references: the wrong references that one answer is expected to mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.identities.grouping import Edges, Vectors, components, linkage_cut, lowest_baseline
from ffhqref.report.facts import Facts

LARGEST = 3000  # photos of an identity that is parted by all its pairs
MOST_PEOPLE, BLOCK = 20_000, 1024  # people compared with each other; rows at a time
LEAST_CHANCE, MOST_ALIKE = 0.05, 1000  # of being one, from which two people are asked about; pairs of people


@dataclass(frozen=True)
class Doubt:
    """A question: are the photos `left_side` and `right_side` (indices of faces) one person?

    `left` and `right` are the pair to look at, `together` what the dataset says, `chance` (0..1) how likely
    it is wrong, `stake` the references (each way) that are wrong or missing if it is. `like` is the person
    whom a photo with a doubtful name looks like, if any.
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
    like: str = ""

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
    middle, width = _curve(distance)
    return 1 / (1 + math.exp(-max(-50.0, min(50.0, (mean - middle) / width))))


def _curve(distance: float) -> tuple[float, float]:
    """Middle and width of `one_person`."""
    return linkage_cut(distance) + lowest_baseline(distance), (1 - distance) / 8


def find(facts: Facts) -> list[Doubt]:
    """Every doubt of a dataset, the greatest expected gain first."""
    index = facts.faces.index
    rows = [row for row in facts.suspects if row[tables.LEFT] in index and row[tables.RIGHT] in index]
    found = [_doubt(facts, row) for row in rows]
    asked = {frozenset((d.identity, d.other)) for d in found if not d.together}
    return ordered([*found, *_alike(facts, asked)])


def _alike(facts: Facts, asked: set[frozenset[str]]) -> Iterator[Doubt]:
    """Two people without a pair below the distance who may yet be one: by the mean over all their pairs.

    The mean similarity of two groups is the product of their mean vectors. Of very many people only the
    largest are compared, those with several photos before those of one.
    """
    people = sorted(facts.people, key=lambda name: (-len(facts.people[name]), name))[:MOST_PEOPLE]
    vectors = facts.faces.vectors
    means = np.stack([vectors[facts.people[name]].mean(axis=0) for name in people])
    middle, width = _curve(facts.distance)
    for row, column in _likest(means, middle - width * math.log(1 / LEAST_CHANCE - 1)).tolist():
        one, other = people[row], people[column]
        if frozenset((one, other)) not in asked:
            sides = tuple(facts.people[one]), tuple(facts.people[other])
            between = _between(vectors, *sides)
            left, right = np.unravel_index(int(between.argmax()), between.shape)
            yield make(facts, ("alike",), False, sides[0][left], sides[1][right], sides)


def _likest(means: Vectors, least: float) -> Int64:
    """Pairs of rows (m x 2) with a product above `least`: at most MOST_ALIKE, the greatest first."""
    pairs, products = [np.empty((0, 2), np.int64)], [np.empty(0, np.float32)]
    for begin in range(0, len(means), BLOCK):
        likeness = np.triu(means[begin : begin + BLOCK] @ means[begin:].T, 1)
        found = np.argwhere(likeness > least)
        products.append(likeness[tuple(found.T)])
        pairs.append(found + begin)
    order = np.argsort(-np.concatenate(products), kind="stable")
    return np.asarray(np.concatenate(pairs)[order[:MOST_ALIKE]], np.int64)


def ordered(doubts: Iterable[Doubt]) -> list[Doubt]:
    """The greatest expected gain first; of equals the less alike, then by photo."""
    return sorted(doubts, key=lambda d: (-d.rank, -d.chance, d.left, d.right))


def _doubt(facts: Facts, row: tables.TableRow) -> Doubt:
    """A row of the suspects as a question."""
    kind, chance = str(row[tables.KIND]), float(row[tables.DOUBT])
    left, right = (facts.faces.index[row[side]] for side in (tables.LEFT, tables.RIGHT))
    own, other = facts.people[facts.identity[left]], facts.people[facts.identity[right]]
    if kind == "label" and len(own) > 1:
        rest = tuple(at for at in own if at != left)
        nearest = rest[int(_between(facts.faces.vectors, (left,), rest)[0].argmax())]
        doubt = make(facts, (kind,), True, left, nearest, ((left,), rest), chance)
        return replace(doubt, like=str(row[tables.OTHER]))
    together = own is other
    sides = parted(facts.faces.vectors, own, left, right) if together else (tuple(own), tuple(other))
    return make(facts, (kind,), together, left, right, sides, chance)


def make(
    facts: Facts,
    kinds: tuple[str, ...],
    together: bool,
    left: int,
    right: int,
    sides: tuple[tuple[int, ...], tuple[int, ...]],
    chance: float | None = None,
) -> Doubt:
    """The doubt about two sides; its chance, where it is not given, by their mean similarity."""
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
        chance=chance if chance is not None else 1 - same if together else same,
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
    if "alike" in doubt.kinds:
        return f"Two people who are much alike ({pair}; mean similarity {doubt.mean:.2f})."
    if "whole" in doubt.kinds:
        return f"A person of {len(doubt.left_side) + len(doubt.right_side)} photos, to be looked through."
    wrong = f"{pair}; wrong with a chance of {doubt.chance:.0%}"
    if "label" in doubt.kinds:
        like = f", and like those of {doubt.like}" if doubt.like else ""
        return f"The first photo is unlike the others of its given name{like} ({wrong})."
    if doubt.together:
        return f"One person, who may be two: held together by a weak link ({wrong})."
    return f"Two people, who may be one ({wrong})."
