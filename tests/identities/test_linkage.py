"""Average linkage by rules and links against the plainest agglomeration, which compares all at each step."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ffhqref.identities import people as grouped
from ffhqref.identities.grouping import (
    Edges,
    Labels,
    components,
    linkage_cut,
    lowest,
    lowest_baseline,
    similarities,
)
from ffhqref.identities.linkage import NO_RULES, Rules, average_linkage, single_linkage
from ffhqref.identities.links import Conflict, Link, Links, settle
from tests.synthetic import people, unit


def all_edges(count: int) -> Edges:
    return np.stack(np.triu_indices(count, 1), axis=1).astype(np.int32)


def pairs(*rows: tuple[int, int]) -> Edges:
    return np.array(rows, np.int32).reshape(-1, 2)


def plain(vectors: np.ndarray, baselines: np.ndarray, cut: float, rules: Rules, links: Links) -> Labels:
    """Join the best of all allowed pairs of groups until none passes the cut, from the definition."""
    wide = vectors.astype(np.float64)
    similarity = wide @ wide.T
    settled = settle(len(wide), links)
    groups = [np.flatnonzero(settled.start == label) for label in np.unique(settled.start)]
    apart = {frozenset(pair) for pair in links.cannot.tolist()}

    def inner(group: np.ndarray) -> float:
        return float(np.mean([similarity[i, j] for i, j in combinations(group, 2)]))

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        """Above the baselines; minus infinity where they may not be joined."""
        between = float(similarity[np.ix_(a, b)].mean())
        forbidden = (
            any(frozenset((i, j)) in apart for i in a for j in b)
            or settled.closed[[*a, *b]].any()
            or (len(a) == len(b) == 1 and not 1 - between < rules.pair)
            or (
                min(len(a), len(b)) > 1
                and between < rules.sure
                and between < rules.closeness * min(inner(a), inner(b))
            )
        )
        return -np.inf if forbidden else between - (baselines[a].mean() + baselines[b].mean()) / 2

    while len(groups) > 1:
        means = {(a, b): mean(groups[a], groups[b]) for a, b in combinations(range(len(groups)), 2)}
        a, b = max(means, key=lambda pair: means[pair])
        if means[a, b] <= cut:
            break
        groups[a] = np.concatenate([groups[a], groups[b]])
        del groups[b]
    labels = np.empty(len(wide), np.int64)
    for number, group in enumerate(groups):
        labels[group] = number
    return lowest(labels)


RULES = [
    NO_RULES,
    Rules(pair=0.5),
    Rules(closeness=0.8),
    Rules(pair=0.6, closeness=2 / 3),
    Rules(closeness=0.9, sure=0.5),
]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("rules", RULES)
def test_linkage_by_rules_is_the_plain_one(seed: int, rules: Rules) -> None:
    """Loose people, so that rules forbid what means would join: in most cases the answers differ by them."""
    rng = np.random.default_rng(seed)
    vectors, _ = people([7, 1, 4, 6, 2, 3, 1], seed, spread=1.0, dimension=10)
    levels = rng.uniform(0, 0.2, len(vectors))
    edges = all_edges(len(vectors))
    found = average_linkage(vectors, levels, 0.3, edges, rules)
    assert (found == plain(vectors, levels, 0.3, rules, Links())).all()
    passing = edges[similarities(vectors, edges[:, 0], edges[:, 1]) - levels[edges].mean(axis=1) > 0.3]
    assert len(passing) < len(edges)
    assert (found == average_linkage(vectors, levels, 0.3, passing, rules)).all()


def test_rules_decide() -> None:
    """The cases above are such that each rule changes some of them."""
    differ = {rules: 0 for rules in RULES[1:]}
    for seed in range(12):
        vectors, _ = people([7, 1, 4, 6, 2, 3, 1], seed, spread=1.0, dimension=10)
        levels = np.random.default_rng(seed).uniform(0, 0.2, len(vectors))
        free = average_linkage(vectors, levels, 0.3, all_edges(len(vectors)))
        for rules in differ:
            bound = average_linkage(vectors, levels, 0.3, all_edges(len(vectors)), rules)
            differ[rules] += bool((bound != free).any())
    assert min(differ.values()) >= 3


@pytest.mark.parametrize("seed", range(12))
def test_linkage_with_links_is_the_plain_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, person = people([6, 5, 4, 3, 2, 1, 1], seed, spread=0.9, dimension=12)
    count, rules = len(vectors), Rules(pair=0.6, closeness=2 / 3)
    finished = np.flatnonzero(person == 3)
    must = rng.integers(0, count, (3, 2)).astype(np.int32)
    must = must[~np.isin(must, finished).any(axis=1)]
    cannot = rng.integers(0, count, (12, 2)).astype(np.int32)
    joined = components(count, must)
    cannot = cannot[joined[cannot[:, 0]] != joined[cannot[:, 1]]]
    cannot = cannot[~np.isin(cannot, finished).all(axis=1)]
    links = Links(must, cannot, pairs((finished[0], finished[1]), (finished[1], finished[2])))
    levels = rng.uniform(0, 0.2, count)
    settled = settle(count, links)
    found = average_linkage(vectors, levels, 0.2, all_edges(count), rules, settled)
    assert (found == plain(vectors, levels, 0.2, rules, links)).all()
    assert (found[must[:, 0]] == found[must[:, 1]]).all()
    assert (found[cannot[:, 0]] != found[cannot[:, 1]]).all()
    assert (np.flatnonzero(found == found[finished[0]]) == finished).all()


def gram(similarity: list[list[float]]) -> np.ndarray:
    """Unit vectors with exactly these similarities."""
    return np.asarray(np.linalg.cholesky(np.array(similarity)), np.float32)


@pytest.mark.parametrize(
    ("inside", "across", "joined"),
    [
        (0.62, 0.38, False),  # below two thirds of what is inside
        (0.55, 0.38, True),
        (0.95, 0.45, True),  # two series of shots: the mean is below the distance
        (0.95, 0.38, False),
    ],
)
def test_two_tight_groups_at_arms_length_are_two_people(inside: float, across: float, joined: bool) -> None:
    """Across the mean passes the cut; whether it is near what is inside decides. Distance 0.6: cut 0.3."""
    vectors = gram([[1, inside, across, across], [inside, 1, across, across],
                    [across, across, 1, inside], [across, across, inside, 1]])  # fmt: skip
    found = grouped.group(vectors, 0.6, all_edges(4))
    assert (found[0] == found[2]) == joined and found[0] == found[1] and found[2] == found[3]


def test_a_person_begins_with_a_pair_below_the_distance() -> None:
    """Three singles, all above the cut and none below the distance, stay alone; a pair takes a third one."""
    apart = gram([[1, 0.38, 0.38], [0.38, 1, 0.38], [0.38, 0.38, 1]])
    assert linkage_cut(0.6) + lowest_baseline(0.6) < 0.38
    assert list(grouped.group(apart, 0.6, all_edges(3))) == [0, 1, 2]
    near = gram([[1, 0.45, 0.38], [0.45, 1, 0.38], [0.38, 0.38, 1]])
    assert list(grouped.group(near, 0.6, all_edges(3))) == [0, 0, 0]


def test_links_are_arguments_of_the_grouping() -> None:
    vectors, person = people([4, 4, 3], 1, spread=0.4)
    edges = all_edges(11)
    assert (grouped.group(vectors, 0.6, edges) == lowest(person)).all()
    found = grouped.group(vectors, 0.6, edges, must=pairs((0, 4)), cannot=pairs((1, 2)), frozen=pairs((8, 9)))
    assert found[0] == found[4] and found[1] != found[2]
    assert found[8] == found[9] != found[10]


@pytest.mark.parametrize(
    ("links", "link", "others"),
    [
        (
            Links(must=pairs((0, 1), (1, 2), (5, 6)), cannot=pairs((2, 0))),
            Link("cannot", 2, 0),
            [Link("must", 2, 1), Link("must", 1, 0)],
        ),
        (Links(frozen=pairs((3, 4)), cannot=pairs((3, 4))), Link("cannot", 3, 4), [Link("frozen", 3, 4)]),
        (Links(frozen=pairs((3, 4)), must=pairs((4, 5))), Link("must", 4, 5), [Link("frozen", 3, 4)]),
        (
            Links(frozen=pairs((3, 3), (5, 5)), must=pairs((5, 3))),
            Link("must", 5, 3),
            [Link("frozen", 5, 5)],
        ),
        (Links(cannot=pairs((1, 1))), Link("cannot", 1, 1), []),
    ],
)
def test_a_conflict_names_both(links: Links, link: Link, others: list[Link]) -> None:
    with pytest.raises(Conflict) as found:
        settle(8, links)
    assert found.value.link == link and list(found.value.others) == others
    assert f"{link.kind} {link.left}-{link.right}" in str(found.value)
    assert all(f"{one.left}-{one.right}" in str(found.value) for one in others)


def test_links_must_name_photos() -> None:
    with pytest.raises(ValueError, match="outside 0..3"):
        settle(4, Links(must=pairs((0, 4))))


@pytest.mark.parametrize("seed", range(6))
def test_single_linkage_joins_the_nearest_first(seed: int) -> None:
    """From the definition: each pair in order joins two groups unless a link keeps them apart."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((30, 6)))
    edges = all_edges(30)
    distances = 1 - similarities(vectors, edges[:, 0], edges[:, 1])
    below = distances < 0.4
    edges, distances = edges[below], distances[below]
    cannot = rng.integers(0, 30, (10, 2)).astype(np.int32)
    cannot = cannot[cannot[:, 0] != cannot[:, 1]]
    labels = np.arange(30)
    for at in np.argsort(distances, kind="stable"):
        one, other = labels[edges[at]]
        pair = {one, other}
        if not any({labels[i], labels[j]} == pair for i, j in cannot) and one != other:
            labels[labels == max(pair)] = min(pair)
    found = single_linkage(edges, distances, settle(30, Links(cannot=cannot)))
    assert (found == lowest(labels)).all()
    assert (found[cannot[:, 0]] != found[cannot[:, 1]]).all()
    free = single_linkage(edges, distances, settle(30, Links()))
    assert (free == components(30, edges)).all() and (free != found).any()
