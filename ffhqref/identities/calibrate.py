"""Embeddings and known people -> how often a distance is right, and one to use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.core import tables
from ffhqref.core.images import Rgb, write
from ffhqref.core.store import UserError, fingerprint, lock
from ffhqref.identities.grouping import Vectors

Floats = npt.NDArray[np.float64]
STEPS = 2000  # distances from 0 to 2 at which both rates are known
BLOCK = 1024


@dataclass(frozen=True)
class Rates:
    """True and false match rates at each distance: of pairs of one person, of two people, strictly below.

    `same` and `different` are the numbers of pairs. Rates are 0..1, rising with the distance.
    """

    distances: Floats
    true_match: Floats
    false_match: Floats
    same: int
    different: int

    def suggested(self, false_match_rate: float) -> float:
        """The greatest distance whose false match rate is not above the wanted one, and not idle beyond
        the point where every pair of one person is found."""
        good = np.flatnonzero(self.false_match <= false_match_rate)
        full = np.flatnonzero(self.true_match >= 1.0)
        at = min(int(good[-1]), int(full[0]) if len(full) else STEPS)
        return float(self.distances[at])

    def equal_error(self) -> tuple[float, float]:
        """The equal error rate and its distance, where misses are as frequent as false matches."""
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
    for begin in range(0, len(rows), BLOCK):
        distance = 1 - rows[begin : begin + BLOCK] @ rows[begin:].T
        upper = np.arange(distance.shape[1])[None] > np.arange(len(distance))[:, None]
        same = person[begin : begin + BLOCK, None] == person[None, begin:]
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


@dataclass(frozen=True)
class Calibration:
    """What `calibrate_distance` found; both files lie in the dataset's folder."""

    rates: Rates
    suggested: float
    photos: int
    people: int
    table: Path
    plot: Path


def calibrate_distance(out: Path, labels: Path, *, false_match_rate: float = 1e-4) -> Calibration:
    """Judge distances on an embedded dataset whose people are known (CSV of image and identity).

    Writes `tables/calibration.csv` and `calibration.png`. UserError where the labels fit no photo.
    """
    if not 0 <= false_match_rate < 1:
        raise UserError(f"--false-match-rate {false_match_rate}: give a rate from 0 to below 1.")
    fingerprint(out, "embed")
    frame = tables.read_csv(labels, [tables.IMAGE, tables.IDENTITY])
    known = dict(zip(frame[tables.IMAGE], frame[tables.IDENTITY], strict=True))
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
        write(plot, draw(rates, suggested, f"{len(listed)} photos, {len(set(people))} people"))
    return Calibration(rates, suggested, len(listed), len(set(people)), table, plot)


WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 960, 540, 90, 60, 30, 70  # px of the plot and its margins
INK, FAINT, SAME, DIFFERENT, MARK = (
    (40, 40, 40),
    (225, 225, 225),
    (30, 110, 200),
    (210, 80, 30),
    (20, 140, 70),
)


def draw(rates: Rates, suggested: float, title: str) -> Rgb:
    """Both rates over the distance, and the suggested one, as a picture."""
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    end = min(2.0, 1.25 * float(rates.distances[np.searchsorted(rates.true_match, 1.0)]) + 0.2)

    def point(distance: float, rate: float) -> tuple[int, int]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * distance / end
        return round(x), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * rate)

    def text(words: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.5) -> None:
        cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        cv2.line(picture, point(0, rate), point(end, rate), FAINT, 1)
        text(f"{rate:.0%}", (LEFT - 55, point(0, rate)[1] + 5), INK)
    for tenth in range(0, int(end * 10) + 1):
        x = point(tenth / 10, 0)[0]
        cv2.line(picture, (x, HEIGHT - BOTTOM), (x, HEIGHT - BOTTOM + 5), INK, 1)
        if tenth % 2 == 0:
            text(f"{tenth / 10:.1f}", (x - 12, HEIGHT - BOTTOM + 22), INK)
    shown = rates.distances <= end
    for values, colour in ((rates.true_match, SAME), (rates.false_match, DIFFERENT)):
        line = [point(x, y) for x, y in zip(rates.distances[shown], values[shown], strict=True)]
        cv2.polylines(picture, [np.array(line, np.int32)], False, colour, 2, cv2.LINE_AA)
    cv2.line(picture, point(suggested, 0), point(suggested, 1), MARK, 1, cv2.LINE_AA)
    text(f"Match rates over distance ({title})", (LEFT, 30), INK, 0.65)
    text(f"one person: {rates.same:,} pairs", (LEFT + 10, TOP + 20), SAME)
    text(f"two people: {rates.different:,} pairs", (LEFT + 10, TOP + 42), DIFFERENT)
    text(f"suggested: {suggested:.3f}", (LEFT + 10, TOP + 64), MARK)
    text("distance (1 - cosine similarity)", (WIDTH // 2 - 120, HEIGHT - 18), INK)
    return picture
