"""Forests against SciPy, doubts against planted errors: two people in one, one in two, a wrong name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage

from ffhqref.identities.doubts import Doubt, Judge, find_doubts, spanning_forest
from ffhqref.identities.grouping import Edges, components, distances_of, lowest
from ffhqref.identities.sameness import Groups, groups_of, sameness
from tests.synthetic import people

DISTANCE = 0.6


def all_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(count, 1)


def judged(vectors: np.ndarray, labels: np.ndarray, listed: np.ndarray | None = None) -> list[Doubt]:
    left, right = all_pairs(len(vectors))
    distances = distances_of(vectors, left, right)
    same = (labels[left] == labels[right]) & (distances < DISTANCE)
    forest = spanning_forest(len(vectors), [(left[same], right[same], distances[same])])
    across: Edges = np.stack([left, right], 1)[(labels[left] != labels[right]) & (distances < 0.7)]
    judge = Judge(vectors, lowest(labels), np.full(len(vectors), 0.1), DISTANCE)
    return find_doubts(judge, forest, across.astype(np.int32), listed)


@pytest.mark.parametrize("blocks", [1, 7, 40])
def test_the_forest_is_single_linkages(blocks: int) -> None:
    """Its lengths are those at which single linkage joins, however the pairs are cut; equal photos too."""
    vectors, _ = people([9, 14, 1, 6], 4, spread=0.9)
    vectors = np.concatenate([vectors, vectors[:2]])
    left, right = all_pairs(len(vectors))
    distances = distances_of(vectors, left, right)
    tree = linkage(distances, "single")[:, 2]
    parts = zip(*(np.array_split(column, blocks) for column in (left, right, distances)), strict=True)
    edges, lengths = spanning_forest(len(vectors), parts)
    np.testing.assert_allclose(np.sort(lengths), np.sort(tree), atol=1e-12)
    np.testing.assert_allclose(distances_of(vectors, edges[:, 0], edges[:, 1]), lengths, atol=1e-12)
    below = distances < 0.5
    some, _ = spanning_forest(len(vectors), [(left[below], right[below], distances[below])])
    whole = components(len(vectors), np.stack([left[below], right[below]], 1).astype(np.int32))
    assert (components(len(vectors), some) == whole).all()


def test_sameness_is_what_it_says() -> None:
    """0.5 at the middle of each gap; the mean is that over all pairs; inside is over pairs, too."""
    vectors, person = people([5, 3, 1], 2, spread=0.7)
    wide = vectors.astype(np.float64)
    groups = groups_of(vectors, np.full(9, 0.1), person)
    similarity = wide @ wide.T
    inner = groups.at(np.arange(3)).inner()
    for k in (0, 1):
        own = similarity[np.ix_(person == k, person == k)]
        assert inner[k] == pytest.approx(own[np.triu_indices(len(own), 1)].mean(), abs=1e-5)
    assert inner[2] == np.inf
    sure, mean = sameness(groups.at(np.array([0])), groups.at(np.array([1])), 0.6)
    assert mean[0] == pytest.approx(similarity[np.ix_(person == 0, person == 1)].mean(), abs=1e-6)
    assert sure[0] < 0.01

    def single(row: list[float]) -> Groups:
        return Groups(np.array([row]), np.array([0.1]), np.ones(1))

    def at(value: float) -> float:
        pair = single([1.0, 0.0]), single([value, np.sqrt(1 - value**2)])
        return float(sameness(*pair, 0.6)[0][0])

    assert at(0.1 + 0.41 * 0.4) == pytest.approx(0.5)
    assert at(0.1 + 0.46 * 0.4) == pytest.approx(1 / (1 + np.exp(-5 / 3)))
    assert at(0.1) < 1e-5 and at(0.5) > 0.999


def test_two_people_in_one_are_the_first_doubt() -> None:
    vectors, person = people([5, 4, 6, 3, 4, 5], 3, spread=0.8)
    labels = np.where(person == 4, 1, person)
    first, *rest = judged(vectors, labels)
    assert (first.kind, first.members, first.other) == ("weak_link", 8, -1)
    assert {person[first.left], person[first.right]} == {1, 4}
    assert first.doubt > 0.9 and all(row.doubt < 0.5 for row in rest)
    left, right = np.flatnonzero(person == 1), np.flatnonzero(person == 4)
    across = distances_of(vectors, np.repeat(left, 4), np.tile(right, 4))
    assert first.distance == pytest.approx(across.min(), abs=1e-6)


def test_a_stranger_among_one_persons_photos_is_the_first_doubt() -> None:
    vectors, person = people([6, 1, 5], 0, spread=0.6)
    (first, *rest) = judged(vectors, np.where(person == 1, 0, person))
    assert first.kind == "weak_link" and 6 in (first.left, first.right) and first.doubt > 0.9
    assert not rest


def test_one_person_in_two_is_the_first_doubt() -> None:
    vectors, person = people([8, 4, 6, 3], 3, spread=0.7)
    labels = person.copy()
    labels[:4] = 9
    first, *rest = judged(vectors, labels)
    assert first.kind == "split" and first.members == 8 and first.doubt > 0.9
    assert {first.person, first.other} == {0, 4}
    assert all(row.doubt < 0.5 for row in rest)


def test_a_lone_link_between_two_tight_groups_is_a_doubt() -> None:
    """Within each side .65, across .3 but for one pair at .45, which is below the distance."""
    similarity = np.full((6, 6), 0.3)
    similarity[:3, :3] = similarity[3:, 3:] = 0.65
    similarity[2, 3] = similarity[3, 2] = 0.45
    np.fill_diagonal(similarity, 1)
    vectors = np.asarray(np.linalg.cholesky(similarity), np.float32)
    (doubt,) = judged(vectors, np.zeros(6, np.int64))
    assert doubt.kind == "weak_link" and (doubt.left, doubt.right) == (2, 3) and doubt.doubt > 0.8


def test_wrong_names_are_found_once() -> None:
    """Photo 0 bears another's name, photo 5 is of nobody: both are labels alone, in no other doubt."""
    vectors, person = people([5, 6, 4, 1], 0, spread=0.6)
    names = person.copy()
    names[0], names[15] = 1, 2
    rows = judged(vectors, names, listed=np.ones(16, bool))
    assert [row.kind for row in rows] == ["label", "label"]
    by_photo = {row.left: row for row in rows}
    assert by_photo[0].other == 1 and person[by_photo[0].right] == 0, "whom it is like"
    assert by_photo[15].other == -1 and names[by_photo[15].right] == 2, "the nearest of its name"
    assert min(row.doubt for row in rows) > 0.9
    unlisted = np.ones(16, bool)
    unlisted[[0, 15]] = False
    assert not {row.left for row in judged(vectors, names, unlisted) if row.kind == "label"}


def test_what_is_right_raises_no_doubt() -> None:
    vectors, person = people([5, 6, 4, 1, 1, 2], 0, spread=0.5)
    assert judged(vectors, person) == [] == judged(vectors, person, np.ones(19, bool))


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, person = people([5, 4, 6, 3, 4, 5], 3, spread=0.9)
    labels = np.where(person == 4, 1, person)
    whole = judged(vectors, labels, np.ones(len(labels), bool))
    monkeypatch.setattr("ffhqref.identities.doubts.BLOCK_ROWS", 2)
    parts = judged(vectors, labels, np.ones(len(labels), bool))
    assert [row[:1] + row[2:6] for row in whole] == [row[:1] + row[2:6] for row in parts]
