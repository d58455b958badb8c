"""`python -m tests.benchmarks [NAME ...]`: run every bench_NAME.py and write down what it measured.

All rows go to results.json beside this file; those of benchmarks that were not run stay as they are. The
table in the README stands between its two bench marks.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
import time
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from tests.benchmarks.common import ROOT, Skip

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
README = ROOT / "README.md"
MARKS = ("<!-- bench -->", "<!-- /bench -->")
FIELDS = ("name", "ours", "theirs", "ratio", "unit", "note")
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
Row = dict[str, Any]


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


def measure(bench: str) -> list[Row]:
    """The rows of one benchmark, or one that says why it was skipped; with date, machine and load."""
    about = {
        "bench": bench,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2),  # of the minute before
        "versions": versions(),
    }
    try:
        rows = import_module(f"tests.benchmarks.bench_{bench}").run()
    except Skip as reason:
        return [about | {"name": bench, "skipped": str(reason)}]
    return [{field: row[field] for field in FIELDS} | about for row in rows]


def table(rows: list[Row]) -> str:
    """The README's table, and below it when and where each benchmark was run."""
    lines = ["| | ours | instead | ratio | |", "|---|--:|--:|--:|---|"]
    lines += [_line(row) for row in rows]
    runs = {row["bench"]: f"{row['bench']} {row['date']} (load {row['load']})" for row in rows}
    machines = ", ".join(sorted({row["machine"] for row in rows}))
    libraries = sorted({version for row in rows for version in row["versions"].split(", ")})
    return "\n".join(
        [
            *lines,
            "",
            f"Measured with `make bench` on {machines}: {', '.join(runs.values())}; load is that of the "
            f"minute before. With {', '.join(libraries)}.",
        ]
    )


def _line(row: Row) -> str:
    if "skipped" in row:
        return f"| {row['name']} | | | | not measured: {row['skipped']} |"
    theirs, ratio = row["theirs"], row["ratio"]
    return (
        f"| {row['name']} | {row['ours']:.4g} {row['unit']} "
        f"| {'' if theirs is None else format(theirs, '.4g') + ' ' + row['unit']} "
        f"| {'' if ratio is None else format(ratio, '.2f')} | {row['note']} |"
    )


def into_readme(text: str, new: str) -> str:
    """`text` with the part between the marks replaced; unchanged where it has no marks."""
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{new}\n{match[2]}", text)


def main(wanted: list[str]) -> int:
    benches = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := set(wanted) - set(benches):
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benches)}.")
        return 1
    old: list[Row] = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = {bench: [row for row in old if row["bench"] == bench] for bench in benches}
    failed = []
    for bench in wanted or benches:
        began = time.monotonic()
        try:
            rows[bench] = measure(bench)
        except Exception as error:  # the others are still worth their time
            print(f"{bench}: failed: {type(error).__name__}: {error}", flush=True)
            failed.append(bench)
            continue
        for row in rows[bench]:
            print(_line(row), flush=True)
        print(f"{bench}: {time.monotonic() - began:.0f} s", flush=True)
        RESULTS.write_text(json.dumps([row for bench in benches for row in rows[bench]], indent=1) + "\n")
    if any(rows.values()):
        README.write_text(into_readme(README.read_text(), table([row for b in benches for row in rows[b]])))
        print(f"Wrote {RESULTS.relative_to(ROOT)} and the table of {README.name}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
