"""Similarity of restored people, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from ffhqref.core.images import resize
from ffhqref.demo import EMBEDDER
from ffhqref.demo.likeness import Mean, mean_over_people, target_similarities
from ffhqref.demo.portrait.people import Portrait
from ffhqref.faces.networks import Embedder


def test_people_count_alike_however_many_pictures_they_have() -> None:
    many = mean_over_people([1.0] * 9 + [0.0], ["a"] * 9 + ["b"])
    assert many.mean == pytest.approx(0.5)
    assert (many.low, many.high) == (0.0, 1.0)


def test_the_interval_is_that_of_a_mean_of_people() -> None:
    """Beside the normal approximation, which holds for many people."""
    values = np.random.default_rng(1).normal(0.4, 0.1, 400)
    found = mean_over_people(list(values), [str(i) for i in range(400)])
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose(
        (found.low, found.high), (values.mean() - half, values.mean() + half), atol=1e-3
    )
    assert str(Mean(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_a_person_is_like_themselves_and_unlike_others_at_any_size(
    portraits: dict[int, list[Portrait]],
) -> None:
    (mine, other) = (portraits[who][0] for who in (1, 2))
    made = {"small": [resize(mine.image, 96, 96)], "the same": [mine.image]}
    network = Embedder(EMBEDDER, "cpu")
    found = target_similarities(network, [mine.image], made, [mine.landmarks])
    assert found["the same"][0] == pytest.approx(1, abs=1e-5) and found["small"][0] > 0.9
    apart = target_similarities(network, [mine.image], {"other": [other.image]}, [mine.landmarks])
    assert apart["other"][0] < 0.6 < found["small"][0]
