"""Average linkage against SciPy's, components against brute force, agreement against its definition."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from ffhqref.identities import grouping
from ffhqref.identities.linkage import average_linkage
from ffhqref.identities.people import group, reach
from ffhqref.identities.search import pairs_below, stranger_baselines
from tests.synthetic import people, unit


def all_edges(count: int) -> grouping.Edges:
    return np.stack(np.triu_indices(count, 1), axis=1).astype(np.int32)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("cut", [0.2, 0.4, 0.6])
def test_average_linkage_is_scipys(seed: int, cut: float) -> None:
    vectors, _ = people([5, 1, 3, 8, 2, 2], seed, spread=0.9, dimension=16)
    levels = np.random.default_rng(seed).uniform(0, 0.2, len(vectors))
    wide = vectors.astype(np.float64)
    adjusted = wide @ wide.T - (levels[:, None] + levels) / 2
    distance = 1 - (adjusted + adjusted.T) / 2
    np.fill_diagonal(distance, 0)
    shifted = squareform(distance + 1 - np.eye(len(wide)), checks=False)  # SciPy wants none below zero
    wanted = fcluster(linkage(shifted, "average"), 1 - cut + 1, "distance")
    found = average_linkage(vectors, levels, cut, all_edges(len(vectors)))
    assert same_partition(found, wanted)


def test_average_linkage_needs_only_the_edges_that_pass_the_cut() -> None:
    vectors, _ = people([4, 9, 2, 6, 1, 1], 3, spread=0.8, dimension=16)
    levels = np.full(len(vectors), 0.05)
    edges = all_edges(len(vectors))
    passing = edges[grouping.similarities(vectors, edges[:, 0], edges[:, 1]) - 0.05 > 0.3]
    assert 0 < len(passing) < len(edges)
    whole = average_linkage(vectors, levels, 0.3, edges)
    assert same_partition(whole, average_linkage(vectors, levels, 0.3, passing))


def test_a_mean_at_the_cut_itself_joins_nothing() -> None:
    """As everywhere: strictly. The similarity of these rows is 0.5 to the last bit."""
    vectors = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]], np.float32)
    for cut, found in ((0.5, [0, 1]), (0.499, [0, 0])):
        assert average_linkage(vectors, np.zeros(2), cut, all_edges(2)).tolist() == found


def test_average_linkage_does_not_chain_where_components_do() -> None:
    """Two people joined by one unlucky photo between them."""
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((2, 64)))
    noise = unit(rng.standard_normal((21, 64)))
    vectors = unit(np.concatenate([a + 0.4 * noise[:10], b + 0.4 * noise[10:20], [0.8 * a + 0.8 * b]]))
    distance = 0.5
    blocks = [np.stack([left, right], 1) for left, right, _ in pairs_below(vectors, reach(distance))]
    edges = np.concatenate(blocks).astype(np.int32)
    near = edges[1 - grouping.similarities(vectors, edges[:, 0], edges[:, 1]) < distance]
    assert len(set(grouping.components(21, near))) == 1
    found = group(vectors, distance, edges)
    assert found[0] != found[10]
    assert len(set(found[:10])) == len(set(found[10:20])) == 1


def test_a_person_of_many_photos_is_not_parted_by_their_own_baseline() -> None:
    """The baseline of strangers counts every other person once: 300 photos of one are no crowd."""
    vectors, person = people([300] + [1] * 200 + [3] * 30, 1, spread=0.75, dimension=256)
    edges = np.concatenate(
        [np.stack([left, right], 1) for left, right, _ in pairs_below(vectors, reach(0.6))]
    ).astype(np.int32)
    score = grouping.agreement(group(vectors, 0.6, edges), person)
    assert score.pair_precision == 1.0
    assert score.pair_recall > 0.99


def test_baselines_have_a_floor_where_there_are_few_people() -> None:
    vectors, person = people([4, 4, 4], 2)
    assert (stranger_baselines(vectors, person, 0.6) == grouping.lowest_baseline(0.6)).all()


@pytest.mark.parametrize("others", [9, 10, 11])
def test_baselines_need_more_people_than_are_left_out(others: int) -> None:
    """The ten nearest others may be the same person; only from the eleventh on are they strangers."""
    vectors = np.asarray(np.full((others + 1, others + 1), 0.5) + 0.5 * np.eye(others + 1))
    vectors = np.asarray(np.linalg.cholesky(vectors), np.float32)  # each at similarity 0.5 to each
    wanted = 0.5 if others == 11 else grouping.lowest_baseline(0.6)
    found = stranger_baselines(vectors, np.arange(others + 1), 0.6)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("sizes", [[2] * 40, [1] * 200, [300] + [2] * 90, [1] * 14])
def test_baselines_are_the_mean_over_the_ranks_of_other_people(sizes: list[int]) -> None:
    vectors, person = people(sizes, 5, spread=0.5)
    wide = vectors.astype(np.float64)
    wanted = []
    for row, own in zip(wide, person, strict=True):
        similarity = wide @ row
        best = sorted((similarity[person == other].max() for other in set(person) - {own}), reverse=True)
        wanted.append(max(np.mean(best[10:60]), grouping.lowest_baseline(0.6)))
    np.testing.assert_allclose(stranger_baselines(vectors, person, 0.6), wanted, atol=1e-9)


def test_components_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 200, (150, 2)).astype(np.int32)
    labels = np.arange(200)
    for _ in range(200):  # spread the lowest label until nothing changes
        before = labels.copy()
        for left, right in edges:
            labels[[left, right]] = min(labels[left], labels[right])
        if (before == labels).all():
            break
    whole = grouping.components(200, edges)
    assert (whole == labels).all()
    part = grouping.components(200, edges[:70])
    assert (grouping.components(200, edges[70:], part) == labels).all()


def test_agreement_by_its_definition() -> None:
    found = ["a", "a", "a", "b", "b", "c"]
    known = [1, 1, 2, 2, 2, 3]
    score = grouping.agreement(found, known)
    assert (score.pair_precision, score.pair_recall) == (2 / 4, 2 / 4)
    # BCubed: the mean over photos of the share of its group that is its person
    assert score.bcubed_precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1 + 1) / 6)
    assert score.bcubed_recall == pytest.approx((1 + 1 + 1 / 3 + 2 / 3 + 2 / 3 + 1) / 6)
    assert score.pair_f == 0.5


def test_agreement_where_nothing_is_paired() -> None:
    score = grouping.agreement([0, 1, 2], ["x", "y", "z"])
    assert (score.pair_precision, score.pair_recall, score.bcubed_f) == (1.0, 1.0, 1.0)


def test_similarities_do_not_depend_on_how_they_are_cut() -> None:
    vectors, _ = people([30] * 10, 0)
    edges = all_edges(len(vectors))
    whole = grouping.similarities(vectors, edges[:, 0], edges[:, 1])
    for at in (0, 4095, 4096, 40_000):
        assert grouping.similarities(vectors, edges[at, 0], edges[at, 1])[0] == whole[at]
