"""Is a grouping right? Any folder or CSV of who is who against known people, with intervals over people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffhqref.core import lists
from ffhqref.core.arrays import Float64
from ffhqref.core.store import UserError
from ffhqref.evaluate.statistics import RESAMPLES, SEED
from ffhqref.identities.grouping import agreement

PARTS = tuple(f"{kind} {part}" for kind in ("pairwise", "BCubed") for part in ("precision", "recall", "F"))


@dataclass(frozen=True)
class Share:
    """A share and its 95 % bootstrap interval over known people."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Grouping:
    """How a grouping agrees with known people, and what went wrong in the dataset made of it."""

    photos: int
    people: int
    shares: dict[str, Share]  # by PARTS
    wrong_references: int
    references: int
    wrong_share: Share | None  # of the references
    crossing: tuple[str, ...]  # people in two splits


def judge(source: Path, labels: Path) -> Grouping:
    """Judge a built dataset, a folder of published lists, or a CSV (image, identity) by known people.

    UserError where `labels` (CSV of image, identity) names none of the photos.
    """
    known = lists.read_labels(labels)
    found, references, splits = _read(source)
    both = sorted(name for name in found if known.get(name))
    if not both:
        raise UserError(f"{labels} names no photograph of {source}: its image column must hold their names.")
    shares = _shares([found[name] for name in both], [known[name] for name in both])
    wrong = _wrong_by_person(references, known)
    total, bad = sum(n for n, _ in wrong.values()), sum(b for _, b in wrong.values())
    crossing = _crossing(splits, known)
    return Grouping(
        len(both), len({known[name] for name in both}), shares, bad, total, _ratio(wrong), crossing
    )


def _read(source: Path) -> tuple[dict[str, str], list[tuple[str, Sequence[str]]], dict[str, str]]:
    """Photo -> identity, (target, references), photo -> split."""
    if source.is_file():
        return lists.read_labels(source), [], {}
    from ffhqref.dataset.compare import load_lists

    found = load_lists(source)
    rows = [(target, names) for rows in found.references.values() for target, names in rows.items()]
    return dict(found.identity), rows, dict(found.split)


def _shares(found: Sequence[str], known: Sequence[str]) -> dict[str, Share]:
    """Pairwise and BCubed precision, recall and F; a draw of people keeps all photos of those drawn.

    For the bootstrap every measure is a ratio of sums over people. Pairs of two people belong to both by
    half; a BCubed value belongs to its photo's person.
    """
    whole = agreement(found, known)
    values = (
        whole.pair_precision, whole.pair_recall, whole.pair_f,
        whole.bcubed_precision, whole.bcubed_recall, whole.bcubed_f,
    )  # fmt: skip
    intervals = _intervals(*_sums(found, known))
    return {
        name: Share(value, low, high)
        for name, value, (low, high) in zip(PARTS, values, intervals, strict=True)
    }


def _sums(found: Sequence[str], known: Sequence[str]) -> tuple[Float64, ...]:
    """By known person: right pairs, pairs grouped together (half of each that crosses), pairs of the person,
    sums of BCubed precision and recall over the photos, photos."""
    _, group = np.unique(np.asarray(found, object), return_inverse=True)
    _, person = np.unique(np.asarray(known, object), return_inverse=True)
    count = int(person.max()) + 1
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for g, p in zip(group.tolist(), person.tolist(), strict=True):
        cells[g, p] += 1
    in_group, in_person = np.bincount(group), np.bincount(person)
    sums = np.zeros((5, count))
    for (g, p), n in cells.items():
        sums[0, p] += n * (n - 1) / 2
        sums[1, p] += n * (n - 1) / 2 + n * (in_group[g] - n) / 2
        sums[3, p] += n * n / in_group[g]
        sums[4, p] += n * n / in_person[p]
    sums[2] = in_person * (in_person - 1) / 2
    return (*sums, in_person.astype(np.float64))


def _intervals(*sums: Float64) -> list[tuple[float, float]]:
    right, grouped, true, precision, recall, photos = sums
    if len(photos) < 2:
        return [(float("nan"), float("nan"))] * len(PARTS)
    random = np.random.Generator(np.random.PCG64(SEED))
    drawn = np.empty((len(PARTS), RESAMPLES))
    for at in range(RESAMPLES):
        weight = np.bincount(random.integers(len(photos), size=len(photos)), minlength=len(photos))
        pairs, together, theirs = (float(part @ weight) for part in (right, grouped, true))
        pp, pr = _over(pairs, together), _over(pairs, theirs)
        bp, br = (float(part @ weight / (photos @ weight)) for part in (precision, recall))
        drawn[:, at] = pp, pr, _harmonic(pp, pr), bp, br, _harmonic(bp, br)
    return [tuple(map(float, np.percentile(row, (2.5, 97.5)))) for row in drawn]  # type: ignore[misc]


def _over(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a + b else 0.0


def _wrong_by_person(
    rows: Sequence[tuple[str, Sequence[str]]], known: Mapping[str, str]
) -> dict[str, tuple[int, int]]:
    """Person -> references of known people that the targets have, and how many of them are wrong."""
    counts: dict[str, tuple[int, int]] = {}
    for target, references in rows:
        who = known.get(target)
        if who:
            others = [known[name] for name in references if known.get(name)]
            total, wrong = counts.get(who, (0, 0))
            counts[who] = total + len(others), wrong + sum(other != who for other in others)
    return counts


def _ratio(counts: Mapping[str, tuple[int, int]]) -> Share | None:
    totals, wrong = (np.array([row[at] for _, row in sorted(counts.items())], float) for at in (0, 1))
    if not totals.sum():
        return None
    if len(totals) < 2:
        return Share(float(wrong.sum() / totals.sum()), float("nan"), float("nan"))
    random = np.random.Generator(np.random.PCG64(SEED))
    drawn = []
    for _ in range(RESAMPLES):
        weight = np.bincount(random.integers(len(totals), size=len(totals)), minlength=len(totals))
        bad, every = float(wrong @ weight), float(totals @ weight)
        drawn.append(bad / every if every else 0.0)
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Share(float(wrong.sum() / totals.sum()), float(low), float(high))


def _crossing(splits: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Known people whose photos stand in more than one split."""
    places: dict[str, set[str]] = defaultdict(set)
    for name, split in splits.items():
        if who := known.get(name):
            places[who].add(split)
    return tuple(sorted(who for who, found in places.items() if len(found) > 1))
