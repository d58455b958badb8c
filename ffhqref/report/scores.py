"""What `evaluate` measured, by level: means with intervals, published rows beside, curves as it drew them."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ffhqref.core import tables
from ffhqref.core.published import TABLE_7
from ffhqref.report import figures
from ffhqref.report.facts import Facts
from ffhqref.report.figures import Chart

DRAWS = 1000  # of people, for an interval
CURVES = ("by-*.png", "sweep.png")  # what evaluate draws
MOST_CURVES, LARGEST_CURVE = 12, 1 << 19  # shown; bytes of a file


@dataclass(frozen=True)
class Score:
    """A method's mean of a metric over pictures, with a 95 % interval over people.

    `low` and `high` are None of all pictures together (FID), and of published numbers; `pictures` is 0 there.
    """

    level: str
    method: str
    metric: str
    mean: float
    low: float | None = None
    high: float | None = None
    pictures: int = 0
    published: bool = False


@dataclass(frozen=True)
class Curve:
    """A picture that `evaluate` drew: its level, its file's name, its address inside the page."""

    level: str
    name: str
    address: str


def scores(facts: Facts, seed: int) -> list[Score]:
    """Every level's methods, metric by metric; after them the paper's Table 7 where it has that level."""
    found: list[Score] = []
    for level, table in facts.scores.items():
        for metric, rows in table.to_pandas().groupby(tables.METRIC, sort=True):
            found += _of_metric(facts, level, str(metric), rows, seed)
            found += _published(level, str(metric))
    return found


def _of_metric(facts: Facts, level: str, metric: str, rows: Any, seed: int) -> Iterator[Score]:
    """Means over pictures; intervals by drawing people, not pictures, again and again."""
    person = dict(zip(facts.faces.names, facts.identity, strict=True))
    generator = np.random.default_rng(seed)
    for method, part in rows.groupby(tables.METHOD, sort=True):
        values = part[tables.VALUE].to_numpy(np.float64)
        mean = float(values.mean())
        if not part[tables.IMAGE].iloc[0]:  # of all pictures together
            yield Score(level, str(method), metric, mean)
            continue
        who = np.unique([person.get(n, n) for n in part[tables.IMAGE]], return_inverse=True)[1]
        sums, sizes = np.bincount(who, values), np.bincount(who)
        low = high = mean
        if len(sums) > 1:
            chosen = generator.integers(0, len(sums), (DRAWS, len(sums)))
            low, high = np.percentile(sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1), [2.5, 97.5])
        yield Score(level, str(method), metric, mean, float(low), float(high), len(values))


def _published(level: str, metric: str) -> Iterator[Score]:
    for row in TABLE_7.get(level, ()):
        value = row.value(metric)
        if value is not None:
            yield Score(level, row.label, metric, value, published=True)


def charts(rows: Iterable[Score]) -> list[Chart]:
    """A chart for each level and metric: methods with their intervals, what is published as points."""
    grouped: dict[tuple[str, str], list[tuple[str, float, float, float]]] = {}
    for row in rows:
        name = f"{row.method.partition(' (')[0]} (published)" if row.published else row.method
        low = row.mean if row.low is None else row.low
        high = row.mean if row.high is None else row.high
        grouped.setdefault((row.level, row.metric), []).append((name, row.mean, low, high))
    return [
        figures.intervals(f"score{place}", methods, f"{metric}, {level}" if level else metric)
        for place, ((level, metric), methods) in enumerate(grouped.items())
    ]


def curves(out: Path, levels: Mapping[str, object]) -> list[Curve]:
    """The pictures of curves that `evaluate` left beside its scores, small enough to stand in the page."""
    found = []
    for level in levels:
        for path in sorted(path for form in CURVES for path in (out / "scores" / level).glob(form)):
            if path.is_file() and path.stat().st_size <= LARGEST_CURVE:
                data = base64.b64encode(path.read_bytes()).decode()
                found.append(Curve(level, re.sub(r"[-_]", " ", path.stem), f"data:image/png;base64,{data}"))
    return found[:MOST_CURVES]
