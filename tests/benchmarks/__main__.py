"""`python -m tests.benchmarks [NAME ...] [--pairs N] [--out FILE]`: run every bench_NAME.py, keep its rows.

A row is kept as soon as it is measured, in results.json beside this file, and the README's table, between its
two bench marks, is written anew; rows that were not measured stay as they are. With --out, rows go to that
file alone.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module, metadata
from pathlib import Path

from ffhqref.core.store import write_text
from tests.benchmarks.common import PAIRS, ROOT, Row, Skip, crosses, load, today

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
README = ROOT / "README.md"
MARKS = ("<!-- bench -->", "<!-- /bench -->")
LIBRARIES = (
    "faiss-cpu",
    "numpy",
    "onnxruntime",
    "opencv-python",
    "insightface",
    "scikit-learn",
    "scipy",
    "torch",
)


def machine() -> str:
    """Cores and processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return f"{len(os.sched_getaffinity(0))} cores of {cpu}"


def versions() -> str:
    """Python's and the libraries' that do the work."""
    found = [f"python {platform.python_version()}"]
    for library in LIBRARIES:
        try:
            found.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@dataclass
class Book:
    """The rows that are known, of every benchmark by name, and where they are written."""

    results: Path
    readme: Path | None  # whose table they are; None where it is left alone
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in json.loads(self.results.read_text()) if self.results.exists() else []:
            self.rows.setdefault(row["bench"], {})[row["name"]] = row

    def keep(self, row: Row) -> None:
        self.rows.setdefault(row["bench"], {})[row["name"]] = row
        self.write()

    def only(self, bench: str, names: list[str]) -> None:
        """Forget the rows of a benchmark that it no longer has."""
        known = self.rows.get(bench, {})
        self.rows[bench] = {name: known[name] for name in names}
        self.write()

    def write(self) -> None:
        rows = [row for _, known in sorted(self.rows.items()) for row in known.values()]
        write_text(self.results, json.dumps(rows, indent=1) + "\n")
        if self.readme is not None:
            write_text(self.readme, into_readme(self.readme.read_text(), table(rows)))


def measure(bench: str, run: Callable[..., Iterable[Row]], pairs: int, book: Book) -> None:
    """Run one benchmark and keep its rows, each with date, machine and load, as they come."""
    about = {"bench": bench, "date": today(), "machine": machine(), "load": load(), "versions": versions()}
    names = []
    try:
        given = {"pairs": pairs} if "pairs" in inspect.signature(run).parameters else {}  # scores need none
        for row in run(**given):
            book.keep(about | row)
            names.append(row["name"])
            print(_line(about | row), flush=True)
    except Skip as reason:
        print(f"{bench}: not measured: {reason}", flush=True)
        if not book.rows.get(bench):  # what was measured elsewhere is worth more than the reason
            book.keep(about | {"name": bench, "skipped": str(reason)})
        return
    book.only(bench, names)


def table(rows: list[Row]) -> str:
    """The README's table, and below it when and where each benchmark was run."""
    lines = ["| | ours | instead | ratio [min, max] | |", "|---|--:|--:|--:|---|"]
    lines += [_line(row) for row in rows]
    machines = [_runs(name, rows) for name in sorted({row["machine"] for row in rows})]
    libraries = sorted({version for row in rows for version in row["versions"].split(", ")})
    return "\n".join(
        [
            *lines,
            "",
            f"Measured with `make bench` {'; '.join(machines)}. Load is that of the minute before. "
            f"With {', '.join(libraries)}.",
        ]
    )


def _runs(machine: str, rows: list[Row]) -> str:
    """What was measured on a machine: benchmarks, dates and loads."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row["machine"] == machine:
            found.setdefault(row["bench"], []).append(row)
    runs = []
    for bench, own in found.items():
        dates, loads = sorted({row["date"] for row in own}), sorted({row["load"] for row in own})
        runs.append(f"{bench} {_span(dates)} (load {_span(loads)})")
    return f"on {machine}: {', '.join(runs)}"


def _span(values: list[str] | list[float]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _line(row: Row) -> str:
    if "skipped" in row:
        return f"| {row['name']} | | | | not measured: {row['skipped']} |"
    theirs, ratio, unit = row["theirs"], row["ratio"], row["unit"]
    ours, around = f"{row['ours']:.4g}", ""
    if row.get("range"):
        low, high = row["range"]
        around = f" [{low:.2f}, {high:.2f}]"
        if ratio is None:
            ours, around = f"{ours} [{low:.4g}, {high:.4g}]", ""
    return (
        f"| {row['name']} | {ours} {unit} "
        f"| {'' if theirs is None else format(theirs, '.4g') + ' ' + unit} "
        f"| {'' if ratio is None else format(ratio, '.2f') + around} | {_remark(row)}{row['note']} |"
    )


def _remark(row: Row) -> str:
    """What the reader must know of the ratio before the note."""
    pairs = row.get("pairs", 1)
    if pairs is None:
        return "a score, not timed; "
    if pairs == 1:
        return f"**1 run**, {row['date']}; "
    of = "runs" if row["ratio"] is None else "pairs"
    return f"{'**no clear difference**; ' if crosses(row) else ''}{pairs} {of}; "


def into_readme(text: str, new: str) -> str:
    """`text` with the part between the marks replaced; unchanged where it has no marks."""
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{new}\n{match[2]}", text)


def names() -> list[str]:
    """Of every benchmark."""
    return sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))


def arguments(words: list[str], known: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m tests.benchmarks", description=(__doc__ or "").partition("\n\n")[2]
    )
    add = parser.add_argument
    add("bench", nargs="*", metavar="NAME", help=f"{', '.join(known)}; all where none is named")
    add("--pairs", type=int, default=PAIRS, metavar="N", help="pairs a row (default %(default)s)")
    add("--out", type=Path, metavar="FILE", help="write here; results.json and the README stay")
    asked = parser.parse_args(words)
    if unknown := sorted(set(asked.bench) - set(known)):
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if asked.pairs < 1 or asked.pairs < PAIRS and asked.out is None:
        parser.error(f"the README shows no fewer than {PAIRS} pairs; for a quick look, add --out FILE")
    return asked


def main(words: list[str]) -> int:
    known = names()
    asked = arguments(words, known)
    book = Book(asked.out or RESULTS, None if asked.out else README)
    book.rows = {bench: rows for bench, rows in book.rows.items() if bench in known}
    failed = []
    for bench in asked.bench or known:
        began = time.monotonic()
        try:
            measure(bench, import_module(f"tests.benchmarks.bench_{bench}").run, asked.pairs, book)
        except KeyboardInterrupt:
            print(f"{bench}: stopped; the rows above are kept", flush=True)
            return 130
        except Exception as error:  # the others are still worth their time
            print(f"{bench}: failed: {type(error).__name__}: {error}", flush=True)
            failed.append(bench)
            continue
        print(f"{bench}: {time.monotonic() - began:.0f} s", flush=True)
    print(f"Wrote {book.results}{'' if asked.out else f' and the table of {README.name}'}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
