"""A grouping, or known people -> suspects: what a person should look through, the likeliest wrong first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.recipe import Recipe
from ffhqref.identities.doubts import Judge, find_doubts, spanning_forest
from ffhqref.identities.grouping import Edges, Labels, lowest_baseline
from ffhqref.identities.search import stranger_baselines


class Suspect(NamedTuple):
    """A row of `tables.SUSPECTS`."""

    kind: str
    doubt: float
    identity: str
    other: str
    left: str
    right: str
    distance: float
    cohesion: float
    members: int


def find_suspects(
    path: Path,
    embeddings: tables.Embeddings,
    people: Labels,
    identity: Sequence[str],
    edges: Edges,
    recipe: Recipe,
    known: Mapping[str, str] | None,
) -> list[Suspect]:
    """What a person should look through, the likeliest wrong first (see `identities.doubts`).

    `path` holds the pairs below the distance, `edges` those beyond it that the grouping knows.
    """
    names, vectors = embeddings.names, embeddings.vectors
    distance = recipe.needed_distance()
    crossing = [edges[people[edges[:, 0]] != people[edges[:, 1]]]]

    def inside() -> Iterator[tuple[Int64, Int64, Float64]]:
        for left, right, distances in tables.iterate_pairs(path, names):
            same = people[left] == people[right]
            crossing.append(np.stack([left[~same], right[~same]], axis=1).astype(np.int32))
            yield left[same], right[same], distances[same]

    forest = spanning_forest(len(names), inside())
    if recipe.grouping == "average":
        baselines = stranger_baselines(vectors, people, distance)
    else:  # which looks at no strangers
        baselines = np.full(len(names), lowest_baseline(distance))
    listed = np.array([bool(known.get(name)) for name in names]) if known is not None else None
    judge = Judge(vectors, people, baselines, distance)
    across = np.unique(np.concatenate(crossing), axis=0)
    return [
        Suspect(
            row.kind, row.doubt, identity[row.person], identity[row.other] if row.other >= 0 else "",
            names[row.left], names[row.right], row.distance, row.similarity, row.members,
        )
        for row in find_doubts(judge, forest, across, listed)
    ]  # fmt: skip
