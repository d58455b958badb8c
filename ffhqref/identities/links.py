"""What is known beforehand, as index pairs: photos of one person, of two, and finished people."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ffhqref.identities.grouping import Edges, Labels, components

Kind = Literal["must", "cannot", "frozen"]
Bools = npt.NDArray[np.bool_]
NO_PAIRS: Edges = np.empty((0, 2), np.int32)


class Link(NamedTuple):
    """One pair of photos and what is said of it."""

    kind: Kind
    left: int
    right: int


class Conflict(ValueError):
    """`link` cannot hold beside `others`: the pairs that say the opposite, in a row from left to right."""

    def __init__(self, link: Link, others: Sequence[Link]):
        self.link, self.others = link, tuple(others)
        pairs = ", ".join(f"{one.kind} {one.left}-{one.right}" for one in others)
        super().__init__(f"{link.kind} {link.left}-{link.right} contradicts {pairs or 'itself'}")


@dataclass(frozen=True)
class Links:
    """Index pairs (k x 2, any order) that a grouping must obey.

    `must`: of one person. `cannot`: of two. `frozen`: of one person, who gains and loses no photo; a
    photo with itself is a person of one.
    """

    must: Edges = field(default_factory=lambda: NO_PAIRS)
    cannot: Edges = field(default_factory=lambda: NO_PAIRS)
    frozen: Edges = field(default_factory=lambda: NO_PAIRS)


@dataclass(frozen=True)
class Settled:
    """Links that agree: the groups to start from (n), which photos are of finished ones (n), and `cannot`."""

    start: Labels
    closed: Bools
    cannot: Edges


def settle(count: int, links: Links) -> Settled:
    """Check links over `count` photos: Conflict where two contradict, ValueError for a wrong index."""
    for pairs in (links.must, links.cannot, links.frozen):
        if len(pairs) and not (0 <= pairs.min() and pairs.max() < count):
            raise ValueError(f"a link names a photo outside 0..{count - 1}")
    finished = components(count, links.frozen)
    closed = np.zeros(count, bool)
    closed[links.frozen.ravel()] = True
    for left, right in links.must[finished[links.must[:, 0]] != finished[links.must[:, 1]]].tolist():
        for photo in (left, right):
            if closed[photo]:
                inside = links.frozen[(links.frozen == photo).any(axis=1)][0].tolist()
                raise Conflict(Link("must", left, right), [Link("frozen", *inside)])
    start = components(count, np.concatenate([links.must, links.frozen]))
    for left, right in links.cannot[start[links.cannot[:, 0]] == start[links.cannot[:, 1]]].tolist():
        raise Conflict(Link("cannot", left, right), _path(links, left, right))
    return Settled(start, closed, links.cannot)


def _path(links: Links, left: int, right: int) -> list[Link]:
    """The fewest links that join two photos."""
    near: dict[int, list[Link]] = {}
    kinds: tuple[tuple[Kind, Edges], ...] = (("must", links.must), ("frozen", links.frozen))
    for kind, pairs in kinds:
        for a, b in pairs.tolist():
            near.setdefault(a, []).append(Link(kind, a, b))
            near.setdefault(b, []).append(Link(kind, b, a))
    came_by: dict[int, Link] = {}
    todo = deque([left])
    while todo and right not in came_by:
        for link in near.get(todo.popleft(), []):
            if link.right not in came_by and link.right != left:
                came_by[link.right] = link
                todo.append(link.right)
    path: list[Link] = []
    while right != left and right in came_by:
        path.insert(0, came_by[right])
        right = came_by[right].left
    return path
