"""Means over pictures with 95 % intervals over people. Arrays in, numbers out.

A mean is that of the pictures, as published. Its interval is the percentile bootstrap that draws *people*
with all their pictures (pictures of one person are no independent draws): sums and counts of each person are
taken once, and the mean of a draw is the sum over its people divided by the count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffhqref.core.arrays import Float64

RESAMPLES = 10_000
SEED = 0
BLOCK = 4_000_000  # people drawn at once: bounds the memory


@dataclass(frozen=True)
class Mean:
    """A mean over pictures and its 95 % bootstrap interval over people (NaN where there is one person)."""

    mean: float
    low: float
    high: float
    count: int
    people: int

    def text(self, digits: int = 3) -> str:
        """`0.123 [0.101, 0.145]`, or the mean alone where there is no interval."""
        if not np.isfinite(self.low):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_over_people(values: Mapping[str, float], person: Mapping[str, str]) -> Mean:
    """The mean of pictures' values (by image) and its interval over `person` (by image).

    The order of the mappings changes no digit: sums are taken in the order of the names.
    """
    names = sorted(values)
    if not names:
        return Mean(float("nan"), float("nan"), float("nan"), 0, 0)
    people = sorted({person[name] for name in names})
    place = {who: at for at, who in enumerate(people)}
    index = np.array([place[person[name]] for name in names])
    numbers = np.array([values[name] for name in names], np.float64)
    sums = np.bincount(index, numbers, len(people)).astype(np.float64)
    counts = np.bincount(index, minlength=len(people)).astype(np.float64)
    low, high = _interval(sums, counts)
    return Mean(float(numbers.mean()), low, high, len(names), len(people))


def _interval(sums: Float64, counts: Float64) -> tuple[float, float]:
    if len(sums) < 2:
        return float("nan"), float("nan")
    drawn = np.empty(RESAMPLES)
    random = np.random.Generator(np.random.PCG64(SEED))
    step = max(1, BLOCK // len(sums))
    for begin in range(0, RESAMPLES, step):
        chosen = random.integers(len(sums), size=(min(step, RESAMPLES - begin), len(sums)))
        drawn[begin : begin + step] = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def paired(one: Mapping[str, float], other: Mapping[str, float], person: Mapping[str, str]) -> Mean:
    """The mean of `one` less `other` over the pictures that both have, with its interval over people."""
    return mean_over_people({name: one[name] - other[name] for name in one if name in other}, person)


def with_failures(
    values: Mapping[str, float],
    fallback: Mapping[str, float],
    wanted: Sequence[str],
    worse: Callable[[float, float], float] = min,
) -> dict[str, float]:
    """The values of all `wanted` pictures: one that failed has the low-quality picture's.

    It has the mean of the rest where that is `worse`: no method may gain by failing, not even one that makes
    pictures worse than they were. Empty where a failed picture has no fallback: it would be no mean of all.
    """
    if not values or any(name not in values and name not in fallback for name in wanted):
        return {}
    rest = float(np.mean([values[name] for name in sorted(values)]))
    return {name: values[name] if name in values else worse(fallback[name], rest) for name in wanted}
