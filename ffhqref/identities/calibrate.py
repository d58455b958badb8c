"""Embeddings and known people -> how often a distance is right, and one to use.

`match_rates` and `plot_rates` are arrays in, arrays out; `calibrate_distance`, last, reads and writes files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64
from ffhqref.core.images import Rgb, write
from ffhqref.core.store import UserError, fingerprint, lock
from ffhqref.identities.grouping import Vectors

STEPS = 2000  # distances from 0 to 2 at which both rates are known
BLOCK_ROWS = 1024  # compared with all others at once
PLOT_WIDTH, PLOT_HEIGHT = 960, 540  # px
X0, X1, Y0, Y1 = 90, 930, 60, 470  # px, the axes' left, right, top and bottom
AXIS_INK, GRID_INK, SAME_INK = (40, 40, 40), (225, 225, 225), (30, 110, 200)
DIFFERENT_INK, SUGGESTED_INK = (210, 80, 30), (20, 140, 70)


@dataclass(frozen=True)
class Rates:
    """True and false match rates at each distance: of pairs of one person, of two people, strictly below.

    `same` and `different` are the numbers of pairs. Rates are 0..1, rising with the distance.
    """

    distances: Float64
    true_match: Float64
    false_match: Float64
    same: int
    different: int

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
        index = int(np.clip(np.searchsorted(self.distances, distance + 1e-9) - 1, 0, STEPS))
        return float(self.true_match[index]), float(self.false_match[index])


def match_rates(vectors: Vectors, people: Sequence[str]) -> Rates:
    """Rates over all pairs of n labelled photos (n x D unit rows), a block of rows at a time."""
    _, person = np.unique(np.asarray(people, object), return_inverse=True)
    counts = np.zeros((2, STEPS + 1), np.int64)  # different, same
    rows = np.asarray(vectors, np.float64)
    for begin in range(0, len(rows), BLOCK_ROWS):
        distance = 1 - rows[begin : begin + BLOCK_ROWS] @ rows[begin:].T
        upper = np.arange(distance.shape[1])[None] > np.arange(len(distance))[:, None]
        same = person[begin : begin + BLOCK_ROWS, None] == person[None, begin:]
        # a pair counts from the first distance that it lies strictly below
        cell = np.clip(np.floor(distance * STEPS / 2).astype(np.int64) + 1, 0, STEPS)
        for kind in (0, 1):
            counts[kind] += np.bincount(cell[upper & (same == bool(kind))], minlength=STEPS + 1)
    totals = counts.sum(axis=1)
    if not totals[1]:
        raise UserError("The labels hold no two photographs of one person: a distance cannot be judged.")
    if not totals[0]:
        raise UserError("The labels hold one person only: a distance cannot be judged.")
    different, same_rates = counts.cumsum(axis=1) / totals[:, None]
    return Rates(np.linspace(0, 2, STEPS + 1), same_rates, different, int(totals[1]), int(totals[0]))


def plot_rates(rates: Rates, suggested: float, title: str) -> Rgb:
    """Both rates over the distance, and the suggested one, as a picture."""
    picture = np.full((PLOT_HEIGHT, PLOT_WIDTH, 3), 255, np.uint8)
    end = min(2.0, 1.25 * float(rates.distances[np.searchsorted(rates.true_match, 1.0)]) + 0.2)

    def point(distance: float, rate: float) -> tuple[int, int]:
        x = X0 + (X1 - X0) * distance / end
        return round(x), round(Y1 - (Y1 - Y0) * rate)

    def text(words: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5) -> None:
        cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        cv2.line(picture, point(0, rate), point(end, rate), GRID_INK, 1)
        text(f"{rate:.0%}", (X0 - 55, point(0, rate)[1] + 5), AXIS_INK)
    for tenth in range(0, int(end * 10) + 1):
        x = point(tenth / 10, 0)[0]
        cv2.line(picture, (x, Y1), (x, Y1 + 5), AXIS_INK, 1)
        if tenth % 2 == 0:
            text(f"{tenth / 10:.1f}", (x - 12, Y1 + 22), AXIS_INK)
    shown = rates.distances <= end
    for values, colour in ((rates.true_match, SAME_INK), (rates.false_match, DIFFERENT_INK)):
        line = [point(x, y) for x, y in zip(rates.distances[shown], values[shown], strict=True)]
        cv2.polylines(picture, [np.array(line, np.int32)], False, colour, 2, cv2.LINE_AA)
    cv2.line(picture, point(suggested, 0), point(suggested, 1), SUGGESTED_INK, 1, cv2.LINE_AA)
    text(f"Match rates over distance ({title})", (X0, 30), AXIS_INK, 0.65)
    text(f"one person: {rates.same:,} pairs", (X0 + 10, Y0 + 20), SAME_INK)
    text(f"two people: {rates.different:,} pairs", (X0 + 10, Y0 + 42), DIFFERENT_INK)
    text(f"suggested: {suggested:.3f}", (X0 + 10, Y0 + 64), SUGGESTED_INK)
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
    known = tables.read_labels(labels)
    embeddings = tables.load_embeddings(out)
    listed = [at for at, name in enumerate(embeddings.names) if known.get(name)]
    if not listed:
        raise UserError(f"{labels} names no photograph of {out}: its image column must hold their names.")
    people = [known[embeddings.names[at]] for at in listed]
    rates = match_rates(embeddings.vectors[listed], people)
    suggested = rates.suggested(false_match_rate)
    with lock(out, "calibrate"):
        table, plot = out / "tables" / "calibration.csv", out / "calibration.png"
        tables.write_rates(table, rates.distances, rates.true_match, rates.false_match)
        write(plot, plot_rates(rates, suggested, f"{len(listed)} photos, {len(set(people))} people"))
    return Calibration(rates, suggested, len(listed), len(set(people)), table, plot)
