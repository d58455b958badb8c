"""Means and intervals: worked by hand, against brute force, and in another order."""

from __future__ import annotations

import numpy as np
import pytest

from ffhqref.evaluate import statistics
from ffhqref.evaluate.statistics import mean_over_people, paired, with_failures

PERSON = {"a1": "a", "a2": "a", "b1": "b", "c1": "c"}


def test_the_mean_is_that_of_pictures_and_the_interval_that_of_people() -> None:
    values = {"a1": 0.0, "a2": 0.0, "b1": 1.0, "c1": 1.0}
    found = mean_over_people(values, PERSON)
    assert (found.mean, found.count, found.people) == (0.5, 4, 3)
    assert (found.low, found.high) == (0.0, 1.0)  # 1 draw in 27 is a, a, a: above 2.5 %


def test_the_interval_is_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """People with all their pictures, drawn one by one: a person of many pictures weighs more."""
    monkeypatch.setattr(statistics, "RESAMPLES", 300)
    pictures = {"a": [0.0, 0.1, 0.2, 0.3, 0.4], "b": [1.0], "c": [2.0, 4.0], "d": [3.0]}
    values = {f"{who}{n}": value for who, found in pictures.items() for n, value in enumerate(found)}
    random = np.random.Generator(np.random.PCG64(0))
    drawn = [
        np.mean([v for at in random.integers(4, size=4) for v in pictures["abcd"[at]]]) for _ in range(300)
    ]
    found = mean_over_people(values, {name: name[0] for name in values})
    assert [found.low, found.high] == pytest.approx(np.percentile(drawn, (2.5, 97.5)).tolist())


def test_equal_pictures_have_no_width_and_one_person_has_no_interval() -> None:
    assert mean_over_people(dict.fromkeys(PERSON, 0.25), PERSON).text() == "0.250 [0.250, 0.250]"
    alone = mean_over_people({"a1": 1.0, "a2": 3.0}, PERSON)
    assert alone.mean == 2.0 and np.isnan(alone.low) and alone.text(1) == "2.0"
    assert mean_over_people({}, PERSON).count == 0


def test_the_interval_covers_what_it_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 experiments with 40 people the 95 % interval holds the true mean in most."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1000)
    rng, held = np.random.default_rng(1), 0
    for _ in range(200):
        centres = rng.normal(0, 1, 40)
        values = {f"{who}-{n}": centres[who] + rng.normal(0, 0.3) for who in range(40) for n in range(3)}
        found = mean_over_people(values, {name: name.split("-")[0] for name in values})
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 200 <= 0.99


@pytest.mark.parametrize("block", [1, 7, 10**9])
def test_order_and_blocks_change_no_digit(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    values = {f"{n:03d}": float(v) for n, v in enumerate(rng.normal(size=60))}
    person = {name: str(int(name) // 4) for name in values}
    whole = mean_over_people(values, person)
    monkeypatch.setattr(statistics, "BLOCK", block)
    order = rng.permutation(sorted(values))
    assert mean_over_people({name: values[name] for name in order}, person) == whole


def test_paired_differences_use_what_both_have() -> None:
    one, other = {"a1": 3.0, "a2": 2.0, "c1": 9.0}, {"a1": 1.0, "a2": 1.0, "b1": 5.0}
    found = paired(one, other, PERSON)
    assert (found.mean, found.count, found.people) == (1.5, 2, 1)


def test_a_failure_counts_as_the_low_quality_picture() -> None:
    lq = {"a1": 0.1, "a2": 0.2, "b1": 0.3}
    assert with_failures({"a1": 0.9, "a2": 0.8}, lq, ["a1", "a2", "b1"]) == {"a1": 0.9, "a2": 0.8, "b1": 0.3}
    assert with_failures({"a1": 0.9}, {"a1": 0.1}, ["a1", "b1"]) == {}
    assert with_failures({"a1": 0.1}, lq, ["a1", "b1"]) == {"a1": 0.1, "b1": 0.1}  # no gain by failing
    assert with_failures({"a1": 0.5}, lq, ["a1", "b1"], max) == {"a1": 0.5, "b1": 0.5}
