"""A grid of restore settings -> restored and scored, one after another: one table, one plot.

The grid is a TOML file of values for options of `restore` and the order of `references`; each combination is
a run. A run is a folder named by a digest of its settings; finished ones are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.images import write
from ffhqref.core.recipe import Order, Recipe, load_toml
from ffhqref.core.store import UserError, digest, write_text
from ffhqref.dataset import neighbours
from ffhqref.dataset.references import rows_of
from ffhqref.evaluate.cases import LOW_QUALITY, Method, of_dataset
from ffhqref.evaluate.curves import Curve, plot
from ffhqref.evaluate.run import EvaluateOptions, Evaluation, evaluate
from ffhqref.evaluate.summary import Summary, digits, summarise
from ffhqref.restore.run import RestoreOptions, restore_pictures

KEYS: dict[str, type] = {
    "checkpoint": str, "order": str, "steps": int, "guidance": float, "max_references": int, "seed": int,
    "schedule": str, "reference_encoding": str, "noise": str, "precision": str,
}  # fmt: skip
MOST = 1000  # runs of one grid
Setting = dict[str, Any]  # of one run: a value by key


@dataclass(frozen=True)
class Run:
    """One combination of the grid's values."""

    setting: Setting

    @property
    def key(self) -> str:
        return digest(json.dumps(self.setting, sort_keys=True).encode())[:12]

    def label(self, varied: Sequence[str]) -> str:
        """What sets it apart: the values of the keys that vary."""
        return ", ".join(f"{name} {self.setting[name]}" for name in varied) or "the one setting"


@dataclass(frozen=True)
class Grid:
    """Every run of a sweep, in the file's order, and the keys that vary."""

    runs: list[Run]
    varied: tuple[str, ...]


def read_grid(path: Path) -> Grid:
    """A TOML file: a value or a list of values a key. Paths are below the file's folder; UserError else."""
    table = load_toml(path)
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise UserError(f"{path}: unknown key {unknown[0]!r} (known are {', '.join(KEYS)}).")
    if "checkpoint" not in table:
        raise UserError(f'{path} names no checkpoint: give checkpoint = "refldm.safetensors" or a list.')
    values = {key: _values(path, key, value) for key, value in table.items()}
    if "order" in values:
        orders = get_args(Order)
        wrong = [order for order in values["order"] if order not in orders]
        if wrong:
            raise UserError(f"{path}: order {wrong[0]!r} is none of {', '.join(orders)}.")
    count = int(np.prod([len(each) for each in values.values()]))
    if count > MOST:
        raise UserError(f"{path} asks for {count:,} runs: at most {MOST:,} go into one sweep.")
    combined = product(*values.values())
    runs = [Run(dict(zip(values, combination, strict=True))) for combination in combined]
    return Grid(runs, tuple(key for key, each in values.items() if len(each) > 1))


def _values(path: Path, key: str, value: object) -> list[Any]:
    given: list[Any] = value if isinstance(value, list) else [value]
    kind = KEYS[key]
    kinds = (int, float) if kind is float else (kind,)
    if not given or any(isinstance(one, bool) or not isinstance(one, kinds) for one in given):
        raise UserError(f"{path}: {key} must be a {kind.__name__} or a list of them.")
    if key != "checkpoint":
        return [kind(one) for one in given]
    return [one if one == "demo" else str((path.parent / one).resolve()) for one in given]


@dataclass(frozen=True)
class Swept:
    """What a sweep found: each run's summary row, in the grid's order."""

    labels: list[str]
    found: Evaluation
    summary: Summary
    table: Path
    plot: Path


def sweep(
    dataset: Path, grid: Grid, out: Path, recipe: Recipe, options: EvaluateOptions, *, level: str,
    photos: Path, split: str = "test", demo: Path | None = None, device: str = "cpu",
) -> Swept:  # fmt: skip
    """Restore and score a dataset's pictures for every run of the grid.

    `demo` is the checkpoint that the name demo stands for. UserError where a run cannot be made at all.
    """
    most = max([int(run.setting.get("max_references", 5)) for run in grid.runs])
    cases = of_dataset(dataset, level=level, split=split, photos=photos, most=most)
    methods = []
    for run in grid.runs:
        place = out / "runs" / run.key
        _restore(
            dataset, run, place, recipe, level=level, split=split, photos=photos, demo=demo, device=device
        )
        methods.append(Method(run.label(grid.varied), place / "restored"))
    found = evaluate(cases, methods, out, options, dataset=dataset)
    summary = summarise(found)
    labels = [method.name for method in methods]
    table, picture = _write(out, grid, found, summary)
    return Swept(labels, found, summary, table, picture)


def ordered_rows(dataset: Path, recipe: Recipe, split: str) -> list[tuple[str, list[str]]]:
    """The mapping of a split with its references in the recipe's order; nothing of the dataset is written."""
    graph = neighbours.load(dataset, recipe)
    vectors = tables.load_embeddings(dataset).of(graph.names).vectors
    table = tables.read(tables.path_of(dataset, "splits"), tables.SPLIT_TABLE)
    return rows_of(graph, vectors, tables.texts(table, tables.SPLIT), split, recipe)


def _restore(
    dataset: Path, run: Run, place: Path, recipe: Recipe, *, level: str, split: str, photos: Path,
    demo: Path | None, device: str,
) -> None:  # fmt: skip
    setting = dict(run.setting)
    name = setting.pop("checkpoint")
    checkpoint = demo if name == "demo" and demo else Path(name)
    mapping = dataset / "reference_mapping" / f"{split}_references.csv"
    if order := setting.pop("order", None):
        rows = ordered_rows(dataset, replace(recipe, order=order, max_references=None), split)
        mapping = place / f"{split}_references.csv"
        write_text(mapping, lists.reference_csv(rows, with_lq=True))
    known = {item.name for item in fields(RestoreOptions)}
    restoring = RestoreOptions(
        **{key: value for key, value in setting.items() if key in known}, device=device
    )
    lq = dataset / f"{split}_images" / f"{level}_degrad"
    outcome = restore_pictures(
        lq, checkpoint, out=place / "restored", mapping=mapping, photos=photos, options=restoring
    )
    if not outcome.restored and not outcome.kept:
        reason = next(iter(outcome.failed.items()), ("", "no picture"))
        raise UserError(f"Nothing could be restored with {run.setting} ({reason[0]} {reason[1]}).")
    write_text(place / "setting.json", json.dumps(run.setting, indent=1, sort_keys=True) + "\n")


def _write(out: Path, grid: Grid, found: Evaluation, summary: Summary) -> tuple[Path, Path]:
    """sweep.csv (a row a run: its settings, then every metric with its interval) and sweep.png."""
    metrics = summary.metrics
    columns = [*grid.runs[0].setting, *(f"{name}{end}" for name in metrics for end in ("", "_low", "_high"))]
    rows = [[LOW_QUALITY, *[""] * (len(grid.runs[0].setting) - 1), *_numbers(summary, LOW_QUALITY)]]
    for run in grid.runs:
        rows.append([*map(str, run.setting.values()), *_numbers(summary, run.label(grid.varied))])
    table, picture = out / "sweep.csv", out / "sweep.png"
    lists.write_csv(table, columns, rows)
    write(picture, plot(curve_of(grid, summary, metrics[0])))
    return table, picture


def _numbers(summary: Summary, method: str) -> list[str]:
    row = summary.cells.get(method, {})
    numbers: list[str] = []
    for metric in summary.metrics:
        cell = row.get(metric)
        parts = (cell.mean.mean, cell.mean.low, cell.mean.high) if cell else (np.nan,) * 3
        numbers += ["" if part != part else f"{part:.{digits(metric) + 2}f}" for part in parts]
    return numbers


def curve_of(grid: Grid, summary: Summary, metric: str) -> Curve:
    """The metric over the key with the most values, a line for each combination of the others."""
    counts = {key: len({str(run.setting[key]) for run in grid.runs}) for key in grid.varied}
    axis = max(counts, key=lambda key: counts[key]) if counts else ""
    rest = [key for key in grid.varied if key != axis]
    means: dict[str, dict[str, Any]] = {}
    groups: dict[str, None] = {}
    for run in grid.runs:
        group = str(run.setting.get(axis, "the one setting"))
        groups[group] = None
        cell = summary.cells[run.label(grid.varied)].get(metric)
        if cell:
            means.setdefault(run.label(rest) if rest else metric, {})[group] = cell.mean
    whole = {line: row for line, row in means.items() if len(row) == len(groups)}
    return Curve(axis or "setting", metric, tuple(groups), whole)


def lines(found: Swept) -> list[str]:
    """For the terminal: a line a run, the first metrics with their intervals."""
    shown: list[str] = []
    every: Mapping[str, Mapping[str, Any]] = found.summary.cells
    for name in [LOW_QUALITY, *found.labels]:
        row = every.get(name, {})
        parts = [f"{m} {row[m].mean.text(digits(m))}" for m in found.summary.metrics[:3] if m in row]
        shown.append(f"  {name}: {', '.join(parts)}")
    return shown
