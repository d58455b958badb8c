"""Labels of people as shares with intervals: a bare share would hide that labels are often predicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

from ffhqref.core import lists, tables
from ffhqref.core.store import UserError
from ffhqref.report import figures
from ffhqref.report.facts import Facts
from ffhqref.report.figures import Chart

MOST_VALUES = 12  # of a label that is shown
Z = 1.96  # of a 95 % interval


@dataclass(frozen=True)
class LabelChart:
    """A label's shares over the targets, with intervals, and how they came about in words."""

    name: str
    chart: Chart
    note: str


def share_interval(count: int, total: int, accuracy: float) -> tuple[float, float]:
    """The least and the greatest share (0..1) that a label may really have.

    Wilson's 95 % interval for the sampling; and since a labeller that is right for a share `accuracy` of the
    pictures puts at most 1 - accuracy of them into a wrong class, a share is at most that much too great or
    too small, whichever classes it confuses.
    """
    share, spread = count / total, Z * Z / total
    middle = (share + spread / 2) / (1 + spread)
    half = Z * sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return max(0.0, middle - half - (1 - accuracy)), min(1.0, middle + half + (1 - accuracy))


def charts(facts: Facts, labels: Path | None, accuracy: float | None) -> list[LabelChart]:
    """A chart for each label of few values in the CSV `labels`, over the dataset's targets.

    `accuracy` is how often the labeller is right, 0..1; None where nobody measured it.
    """
    path = labels or (Path(facts.recipe.labels) if facts.recipe.labels else None)
    if path is None or (labels is None and not path.is_file()):
        return []
    if accuracy is not None and not 0 < accuracy <= 1:
        raise UserError(f"--label-accuracy {accuracy:g}: give how often the labels are right, such as 0.71.")
    frame = lists.read_csv(path, [tables.IMAGE])
    targets = {target for _, target, _ in facts.targets()}
    frame = frame[frame[tables.IMAGE].isin(targets)]
    found = []
    for number, column in enumerate(c for c in frame.columns if c not in (tables.IMAGE, tables.IDENTITY)):
        counts = Counter(value or "not known" for value in frame[column])
        if 1 < len(counts) <= MOST_VALUES:
            found.append(_chart(f"label{number}", str(column), counts, accuracy))
    return found


def _chart(key: str, column: str, counts: Mapping[str, int], accuracy: float | None) -> LabelChart:
    total = sum(counts.values())
    rows: Sequence[tuple[str, float, float, float]] = [
        (f"{value[:40]} ({count:,})", count / total, *share_interval(count, total, accuracy or 1.0))
        for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]
    chart = figures.intervals(key, rows, f"{column}: share of {total:,} targets")
    if accuracy is None:
        note = (
            "How often this labeller is wrong was not given: the interval is of sampling alone, so the true "
            "shares may lie outside it. Give --label-accuracy where it is known."
        )
    else:
        note = (
            f"The interval holds the sampling and a labeller that is right in {accuracy:.0%} of the pictures."
        )
    return LabelChart(column, chart, note)
