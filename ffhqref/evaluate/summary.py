"""Scores -> the tables that people read: means with intervals, paired differences, published rows beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core import lists, tables
from ffhqref.core.published import TABLE_7, Published
from ffhqref.core.store import write_text
from ffhqref.core.terminal import shown
from ffhqref.dataset.build import recipe_of
from ffhqref.evaluate.adapters import EXTERNAL, FID
from ffhqref.evaluate.cases import LOW_QUALITY, Method, of_dataset
from ffhqref.evaluate.run import EvaluateOptions, Evaluation, evaluate
from ffhqref.evaluate.statistics import Mean, mean_over_people, paired, with_failures

DIGITS = {"psnr": 2, "niqe": 2, "musiq": 1, FID: 2}  # after the point; 3 for all others
LOWER = {FID, "copying", *(one.name for one in EXTERNAL.values() if one.lower)}
NEITHER = ("likeness_references", "likeness_wrong")  # better is no matter of higher or lower
NTIRE = ("clipiqa", "maniqa", "musiq", "niqe", "qalign", FID)
MEANS = ("mean", "low", "high")
COLUMNS = (
    tables.METHOD, tables.METRIC, "pictures", "people", *MEANS, "failed",
    *(f"{part}_with_failures" for part in MEANS), "published",
)  # fmt: skip
DIFFERENCES = (tables.METHOD, "less", tables.METRIC, "pictures", "people", *MEANS)


@dataclass(frozen=True)
class Cell:
    """A method's mean of a metric: over the usable pictures, and with failures as the input's score.

    `full` is None where nothing failed. Of all pictures together (FID) there is a value and no interval.
    """

    mean: Mean
    full: Mean | None = None


@dataclass(frozen=True)
class Summary:
    """Every method's cells by metric, differences of two methods, and the published rows."""

    metrics: list[str]
    cells: dict[str, dict[str, Cell]]  # method -> metric -> cell
    failed: dict[str, int]
    differences: dict[tuple[str, str], dict[str, Mean]]  # (method, less this one) -> metric -> mean
    published: tuple[Published, ...] = ()


def evaluate_dataset(
    dataset: Path,
    restored: Mapping[str, Path],
    *,
    level: str,
    split: str = "test",
    photos: Path | None = None,
    out: Path | None = None,
    options: EvaluateOptions | None = None,
) -> Summary:
    """Score results for a built dataset's low-quality pictures: name -> folder, under the targets' names.

    Scores and tables go to `out`, by default `dataset`/scores/`level`. Without `options` the metrics are IDS
    (by the dataset's own network), PSNR and SSIM. UserError where something given is missing or wrong.
    """
    place = out or dataset / "scores" / level
    embedder = recipe_of(dataset).embedder
    chosen = options or EvaluateOptions(embedder=Path(embedder) if embedder else None)
    cases = of_dataset(dataset, level=level, split=split, photos=photos)
    methods = [Method(name, folder) for name, folder in restored.items()]
    found = evaluate(cases, methods, place, chosen, dataset=dataset)
    summary = summarise(found)
    write_tables(place, summary, remarks(found))
    return summary


def summarise(found: Evaluation, published: str = "") -> Summary:
    """Means and differences of all that was measured; `published` is a test set of Table 7, or empty."""
    wanted = sorted(found.person)
    fallback = found.values.get(LOW_QUALITY, {})
    cells: dict[str, dict[str, Cell]] = {}
    for method in found.methods:
        failed = found.failed(method)
        values = found.values.get(method, {})
        row = {}
        for metric in found.metrics:
            if metric in values:
                low, worse = fallback.get(metric, {}), max if metric in LOWER else min
                full = with_failures(values[metric], low, wanted, worse) if failed else {}
                row[metric] = Cell(
                    mean_over_people(values[metric], found.person),
                    mean_over_people(full, found.person) if full else None,
                )
        with_all = found.overall_full.get(method, {})
        for metric, value in found.overall.get(method, {}).items():
            row[metric] = Cell(_single(value), _single(with_all[metric]) if metric in with_all else None)
        if all(name in row for name in NTIRE):
            row["ntire2026"] = Cell(_single(ntire_score({name: row[name].mean.mean for name in NTIRE})))
        cells[method] = row
    metrics = [
        *found.metrics,
        *(name for name in (FID, "ntire2026") if any(name in row for row in cells.values())),
    ]
    failed_counts = {method: len(found.failed(method)) for method in found.methods}
    return Summary(metrics, cells, failed_counts, _differences(found), TABLE_7.get(published, ()))


def _single(value: float) -> Mean:
    return Mean(value, float("nan"), float("nan"), 0, 0)


def ntire_score(means: Mapping[str, float]) -> float:
    """The overall score of the NTIRE 2026 challenge on real-world face restoration, from means."""
    return (
        means["clipiqa"] + means["maniqa"] + means["musiq"] / 100 + max(0.0, (10 - means["niqe"]) / 10)
        + means["qalign"] / 5 + max(0.0, (100 - means[FID]) / 100)
    )  # fmt: skip


def _differences(found: Evaluation) -> dict[tuple[str, str], dict[str, Mean]]:
    """Every later method less every earlier one, over the pictures that both have."""
    pairs = {}
    for at, other in enumerate(found.methods):
        for method in found.methods[at + 1 :]:
            ours, theirs = found.values.get(method, {}), found.values.get(other, {})
            pairs[method, other] = {
                metric: paired(ours[metric], theirs[metric], found.person)
                for metric in found.metrics
                if metric in ours and metric in theirs
            }
    return pairs


def digits(metric: str) -> int:
    return DIGITS.get(metric, 3)


def arrow(metric: str) -> str:
    """Which way is better: up, down, or neither."""
    return "" if metric in NEITHER else "↓" if metric in LOWER else "↑"


def _rows(summary: Summary) -> Iterator[tuple[str, list[str]]]:
    """A label and a text a metric: each method, its second mean where something failed, published rows."""
    for method, row in summary.cells.items():
        failed = summary.failed[method]
        label = f"{method} ({failed} failed, scored on the rest)" if failed else method
        yield label, [_text(row.get(metric), metric) for metric in summary.metrics]
        if failed:
            texts = [_text(row.get(metric), metric, full=True) for metric in summary.metrics]
            yield f"{method} (failures as {LOW_QUALITY})", texts
    for one in summary.published:
        values = [one.value(metric) for metric in summary.metrics]
        texts = [
            "" if value is None else f"{value:.{digits(metric)}f}"
            for value, metric in zip(values, summary.metrics, strict=True)
        ]
        yield one.label, texts


def _text(cell: Cell | None, metric: str, full: bool = False) -> str:
    if cell is None:
        return ""
    mean = cell.full if full else cell.mean
    return mean.text(digits(metric)) if mean else ""


def _head(summary: Summary) -> list[str]:
    return [f"{metric} {arrow(metric)}".strip() for metric in summary.metrics]


def terminal(summary: Summary) -> str:
    """A block of lines a method: a metric a line, so that it fits any terminal."""
    lines = []
    width = max((len(head) for head in _head(summary)), default=0)
    for label, texts in _rows(summary):
        lines.append(shown(label))
        lines += [
            f"  {head:<{width}}  {text}" for head, text in zip(_head(summary), texts, strict=True) if text
        ]
    return "\n".join(lines)


def markdown(summary: Summary) -> str:
    """A table of GitHub's Markdown."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    head = line(["", *_head(summary)])
    rule = "|---|" + "--:|" * len(summary.metrics)
    return "\n".join([head, rule, *(line([label, *texts]) for label, texts in _rows(summary))]) + "\n"


LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "#": r"\#", "$": r"\$",
         "_": r"\_", "^": r"\^{}", "~": r"\~{}", "↑": r"$\uparrow$", "↓": r"$\downarrow$"}  # fmt: skip


def latex(summary: Summary) -> str:
    """A `tabular` for a paper; its own package is none."""

    def line(cells: Sequence[str]) -> str:
        return "  " + " & ".join("".join(LATEX.get(c, c) for c in cell) for cell in cells) + r" \\"

    body = [line([label, *texts]) for label, texts in _rows(summary)]
    return "\n".join([
        rf"\begin{{tabular}}{{l{'r' * len(summary.metrics)}}}", r"  \hline", line(["", *_head(summary)]),
        r"  \hline", *body, r"  \hline", r"\end{tabular}", "",
    ])  # fmt: skip


def remarks(found: Evaluation) -> list[str]:
    """What a reader of the table must know beside the numbers."""
    lines = [
        f"Mean of {len(found.person):,} pictures of {len(set(found.person.values())):,} people, "
        "95 % bootstrap interval over people."
    ]
    lines += [
        f"{metric}: {limit}, over {limit.pairs:,} pairs of two people."
        for metric, limit in found.limits.items()
        if limit.similarity is not None
    ]
    lines += [f"{count:,} pictures of {name} were resized." for name, count in found.resized.items() if count]
    return [*lines, *found.notes]


def write_tables(out: Path, summary: Summary, notes: Sequence[str]) -> None:
    """summary.csv, differences.csv, table.md (with the notes below) and table.tex."""
    lists.write_csv(out / "summary.csv", COLUMNS, _csv_rows(summary))
    lists.write_csv(out / "differences.csv", DIFFERENCES, _difference_rows(summary))
    below = "".join(f"- {note}\n" for note in notes)
    write_text(out / "table.md", f"{markdown(summary)}\n{below}")
    write_text(out / "table.tex", latex(summary))


def _csv_rows(summary: Summary) -> Iterator[list[object]]:
    for method, row in summary.cells.items():
        for metric in summary.metrics:
            if cell := row.get(metric):
                mean, full = cell.mean, cell.full
                yield [
                    method, metric, mean.count, mean.people, *_three(mean), summary.failed[method],
                    *(_three(full) if full else ("", "", "")), "",
                ]  # fmt: skip
    for one in summary.published:
        for metric in summary.metrics:
            value = one.value(metric)
            if value is not None:
                yield [one.method, metric, "", "", value, "", "", one.failed, "", "", "", one.label]


def _three(mean: Mean) -> tuple[object, object, object]:
    low, high = (repr(part) if part == part else "" for part in (mean.low, mean.high))
    return repr(mean.mean), low, high


def _difference_rows(summary: Summary) -> Iterator[list[object]]:
    for (method, other), row in summary.differences.items():
        for metric, mean in row.items():
            yield [method, other, metric, mean.count, mean.people, *_three(mean)]


def difference_lines(summary: Summary, metrics: Sequence[str]) -> list[str]:
    """For the terminal: each method less the first one, for some metrics, where it is known."""
    lines = []
    first = next(iter(summary.cells))
    for (method, other), row in summary.differences.items():
        if other == first:
            parts = [f"{metric} {row[metric].text(digits(metric))}" for metric in metrics if metric in row]
            lines.append(f"{shown(method)} less {shown(other)}: {', '.join(parts)}")
    return lines
