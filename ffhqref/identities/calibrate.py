"""Embeddings and known people -> how often a distance is right, and one to use.

`match_rates` and `plot_rates` are arrays in, arrays out; `calibrate_distance`, last, reads and writes files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.images import Rgb, write
from ffhqref.core.store import UserError, fingerprint, lock
from ffhqref.identities.grouping import Vectors

STEPS = 2000  # distances from 0 to 2 at which both rates are known
TILE = (256, 4096)  # rows and columns compared at once
REPLICATES = 200  # of the bootstrap
PLOT_WIDTH, PLOT_HEIGHT = 960, 540  # px
X0, X1, Y0, Y1 = 90, 930, 60, 470  # px, the axes' left, right, top and bottom
AXIS_INK, GRID_INK, SAME_INK = (40, 40, 40), (225, 225, 225), (30, 110, 200)
DIFFERENT_INK, SUGGESTED_INK = (210, 80, 30), (20, 140, 70)


@dataclass(frozen=True)
class Interval:
    """A rate, its 95 % interval over people, and how many pairs it rests on: those below the distance."""

    rate: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Rates:
    """True and false match rates at each distance: of pairs of one person, of two people, strictly below.

    `same` and `different` are the numbers of pairs. Rates are 0..1, rising with the distance. The others are
    the ends of 95 % intervals from a bootstrap over people.
    """

    distances: Float64
    true_match: Float64
    false_match: Float64
    same: int
    different: int
    true_range: tuple[Float64, Float64]
    false_range: tuple[Float64, Float64]

    def suggested(self, false_match_rate: float) -> float:
        """The greatest distance whose false match rate is at most the given one.

        Where every pair of one person is found sooner, the least distance that finds them all.
        """
        good = np.flatnonzero(self.false_match <= false_match_rate)
        full = np.flatnonzero(self.true_match >= 1.0)
        at = min(int(good[-1]), int(full[0]) if len(full) else STEPS)
        return float(self.distances[at])

    def equal_error(self) -> tuple[float, float]:
        """The equal error rate and its distance: misses are as frequent there as false matches."""
        at = int(np.argmin(np.abs(1 - self.true_match - self.false_match)))
        return float((1 - self.true_match[at] + self.false_match[at]) / 2), float(self.distances[at])

    def at(self, distance: float) -> tuple[float, float]:
        """(true, false) match rate at a distance."""
        index = self._index(distance)
        return float(self.true_match[index]), float(self.false_match[index])

    def intervals(self, distance: float) -> tuple[Interval, Interval]:
        """The true and the false match rate at a distance, with what is known of their errors.

        No false match among n pairs does not mean a rate of 0: the upper end is 3 / n then.
        """
        index = self._index(distance)
        found = []
        for rates, (low, high), pairs in (
            (self.true_match, self.true_range, self.same),
            (self.false_match, self.false_range, self.different),
        ):
            count = round(float(rates[index]) * pairs)
            top = float(high[index]) if count else min(3 / pairs, 1.0)
            found.append(Interval(float(rates[index]), float(low[index]), top, count))
        return found[0], found[1]

    def _index(self, distance: float) -> int:
        return int(np.clip(np.searchsorted(self.distances, distance + 1e-9) - 1, 0, STEPS))


def match_rates(vectors: Vectors, people: Sequence[str]) -> Rates:
    """Rates over all pairs of n labelled photos (n x D unit rows), a tile at a time.

    The bootstrap draws people with replacement, person p w_p times. A pair of two people counts
    w_p + w_q - 1 times, the first-order part of w_p w_q: the product itself would count the chance that
    lies in a single pair three times over where pairs are rare, this counts it twice.
    """
    _, person = np.unique(np.asarray(people, object), return_inverse=True)
    count = int(person.max()) + 1
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), REPLICATES)
    totals = np.zeros((2, STEPS + 1))  # of two people, of one; each pair from both of its ends
    drawn = np.zeros((2, REPLICATES, STEPS + 1))
    for begin in range(0, len(person), TILE[0]):
        rows = person[begin : begin + TILE[0]]
        counted = _cells(vectors, person, begin)
        totals += counted.sum(axis=1)
        drawn += draws[:, rows].astype(np.float64) @ counted
    pairs = totals.sum(axis=1) / 2
    if not pairs[1]:
        raise UserError("The labels hold no two photographs of one person: a distance cannot be judged.")
    if not pairs[0]:
        raise UserError("The labels hold one person only: a distance cannot be judged.")
    different, same_rates = totals.cumsum(axis=1) / totals.sum(axis=1, keepdims=True)
    drawn[0] -= totals[0] / 2  # each end gave w_p or w_q of a pair that is to count w_p + w_q - 1 times
    ranges = [_range(one.cumsum(axis=1)) for one in drawn]
    return Rates(
        np.linspace(0, 2, STEPS + 1), same_rates, different, round(pairs[1]), round(pairs[0]),
        ranges[1], ranges[0],
    )  # fmt: skip


def _cells(vectors: Vectors, person: Int64, begin: int) -> Float64:
    """From each of a stripe of rows the pairs of two people and of one, by distance: 2 x rows x STEPS + 1."""
    rows = vectors[begin : begin + TILE[0]].astype(np.float64)
    counts = np.zeros((2, len(rows), STEPS + 1))
    offset = np.arange(len(rows))[:, None] * (STEPS + 1)
    for start in range(0, len(vectors), TILE[1]):
        columns = slice(start, start + TILE[1])
        distance = 1 - rows @ vectors[columns].astype(np.float64).T
        # a pair counts from the first distance that it lies strictly below
        cell = np.clip(np.floor(distance * STEPS / 2).astype(np.int64) + 1, 0, STEPS) + offset
        same = person[begin : begin + TILE[0], None] == person[None, columns]
        other = np.arange(begin, begin + len(rows))[:, None] != np.arange(start, start + len(same[0]))
        for kind in (0, 1):
            found = cell[other & (same == bool(kind))]
            counts[kind] += np.bincount(found, minlength=counts[kind].size).reshape(counts[kind].shape)
    return counts


def _range(drawn: Float64) -> tuple[Float64, Float64]:
    """The middle 95 % of rates over the replicates, from their counts up to each distance."""
    whole = drawn[:, -1:]
    rates = np.clip(np.divide(drawn, whole, out=np.zeros_like(drawn), where=whole > 0), 0, 1)
    low, high = np.percentile(rates[whole[:, 0] > 0], [2.5, 97.5], axis=0)
    return low, high


def plot_rates(rates: Rates, suggested: float, title: str) -> Rgb:
    """What is missed of one person (1 - TAR) and taken of two (FAR) over the distance, both as far down as
    their pairs reach: a curve ends at one pair."""
    picture = np.full((PLOT_HEIGHT, PLOT_WIDTH, 3), 255, np.uint8)
    end = min(2.0, 1.25 * float(rates.distances[np.searchsorted(rates.true_match, 1.0)]) + 0.2)
    decades = max(1, math.ceil(math.log10(max(rates.same, rates.different))))

    def point(distance: float, rate: float) -> tuple[int, int]:
        depth = -math.log10(max(rate, 10.0**-decades)) / decades
        return round(X0 + (X1 - X0) * distance / end), round(Y0 + (Y1 - Y0) * depth)

    def text(words: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5) -> None:
        cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    for decade in range(decades + 1):
        cv2.line(picture, point(0, 10.0**-decade), point(end, 10.0**-decade), GRID_INK, 1)
        text(f"1e-{decade}" if decade else "1", (X0 - 55, point(0, 10.0**-decade)[1] + 5), AXIS_INK)
    for tenth in range(0, int(end * 10) + 1):
        x = point(tenth / 10, 1)[0]
        cv2.line(picture, (x, Y1), (x, Y1 + 5), AXIS_INK, 1)
        if tenth % 2 == 0:
            text(f"{tenth / 10:.1f}", (x - 12, Y1 + 22), AXIS_INK)
    curves = (
        (1 - rates.true_match, rates.same, SAME_INK),
        (rates.false_match, rates.different, DIFFERENT_INK),
    )
    for values, pairs, colour in curves:
        shown = (rates.distances <= end) & (values * pairs > 0.5)
        line = [point(x, y) for x, y in zip(rates.distances[shown], values[shown], strict=True)]
        cv2.polylines(picture, [np.array(line, np.int32)], False, colour, 2, cv2.LINE_AA)
    cv2.line(picture, point(suggested, 1), (point(suggested, 1)[0], Y1), SUGGESTED_INK, 1, cv2.LINE_AA)
    text(f"Error rates over distance ({title})", (X0, 30), AXIS_INK, 0.65)
    text(f"missed of one person, 1 - TAR: {rates.same:,} pairs", (X1 - 300, Y1 - 54), SAME_INK)
    text(f"taken of two people, FAR: {rates.different:,} pairs", (X1 - 300, Y1 - 32), DIFFERENT_INK)
    text(f"suggested: {suggested:.3f}", (X1 - 300, Y1 - 10), SUGGESTED_INK)
    text("distance (1 - cosine similarity)", (PLOT_WIDTH // 2 - 120, PLOT_HEIGHT - 18), AXIS_INK)
    return picture


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_distance` found; both files are in the dataset's folder."""

    rates: Rates
    suggested: float
    photos: int
    people: int
    table: Path
    plot: Path


def calibrate_distance(out: Path, labels: Path, *, false_match_rate: float = 1e-4) -> Calibration:
    """Judge distances on an embedded dataset whose people are known (CSV of image and identity).

    Writes `tables/calibration.csv` and `calibration.png`. UserError where the labels name none of its photos.
    """
    if not 0 <= false_match_rate < 1:
        raise UserError(f"--false-match-rate {false_match_rate}: give a rate from 0 to below 1.")
    fingerprint(out, "embed")
    known = lists.read_labels(labels)
    embeddings = tables.load_embeddings(out)
    listed = [at for at, name in enumerate(embeddings.names) if known.get(name)]
    if not listed:
        raise UserError(f"{labels} names no photograph of {out}: its image column must hold their names.")
    people = [known[embeddings.names[at]] for at in listed]
    rates = match_rates(embeddings.vectors[listed], people)
    suggested = rates.suggested(false_match_rate)
    with lock(out, "calibrate"):
        table, plot = out / "tables" / "calibration.csv", out / "calibration.png"
        lists.write_rates(
            table,
            rates.distances,
            (rates.true_match, *rates.true_range),
            (rates.false_match, *rates.false_range),
        )
        write(plot, plot_rates(rates, suggested, f"{len(listed)} photos, {len(set(people))} people"))
    return Calibration(rates, suggested, len(listed), len(set(people)), table, plot)
