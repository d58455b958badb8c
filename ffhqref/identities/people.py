"""Embeddings, pairs and what is known -> who is one person."""

from __future__ import annotations

import numpy as np

from ffhqref.identities.grouping import (
    Edges,
    Labels,
    Vectors,
    linkage_cut,
    lowest_baseline,
    similarities,
)
from ffhqref.identities.linkage import Rules, average_linkage
from ffhqref.identities.links import NO_PAIRS, Links, settle
from ffhqref.identities.search import stranger_baselines

# The mean similarity between two groups, as a share of the mean inside the looser one, from which on they
# can be one person. Halves of one person's photos are about as similar to each other as they are inside (a
# share near 1); two people who look alike are tight groups at arm's length. Two thirds lies between. Where
# the mean itself is below the distance, nothing more is asked: a series of shots is tight whoever it shows.
CLOSENESS = 2 / 3


def reach(distance: float) -> float:
    """The distance up to which `group` must know the pairs: it looks past `distance`."""
    return max(distance, 1 - linkage_cut(distance) - lowest_baseline(distance))


def group(
    vectors: Vectors,
    distance: float,
    edges: Edges,
    *,
    must: Edges = NO_PAIRS,
    cannot: Edges = NO_PAIRS,
    frozen: Edges = NO_PAIRS,
) -> Labels:
    """People (n, each known by its lowest row) by average linkage over each photo's baseline of strangers.

    `edges` are all pairs within `reach`. A person begins with a pair strictly below `distance` and may grow
    beyond it; two groups of two or more must be CLOSENESS as similar as the looser one is in itself, or
    their mean below the distance.
    `must`, `cannot` and `frozen` are index pairs (k x 2) as `Links` has them; Conflict where they contradict.
    A first round without baselines gives provisional people; they say how similar strangers are.
    """
    settled = settle(len(vectors), Links(must, cannot, frozen))
    similarity = similarities(vectors, edges[:, 0], edges[:, 1])
    near = edges[1 - similarity < distance]
    rules = Rules(pair=distance, closeness=CLOSENESS, sure=1 - distance)
    people = average_linkage(vectors, np.zeros(len(vectors)), 1 - distance, near, rules, settled)
    baselines = stranger_baselines(vectors, people, distance)
    above = similarity - baselines[edges].mean(axis=1)
    passing = edges[above > linkage_cut(distance)]
    return average_linkage(vectors, baselines, linkage_cut(distance), passing, rules, settled)
