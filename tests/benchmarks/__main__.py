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
LIBRARIES = ("faiss-cpu", "numpy", "onnxruntime", "opencv-python", "insightface", "scikit-learn", "scipy")


def machine() -> dict[str, Any]:
    """Processor, cores and versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {"cpu": cpu, "cores": len(os.sched_getaffinity(0)), "versions": versions}


def measure(name: str) -> dict[str, Any]:
    """One benchmark: its rows, or why it was skipped; with date, machine and load."""
    entry: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine()}
    load = round(os.getloadavg()[0], 2)
    began = time.monotonic()
    try:
        rows = import_module(f"tests.benchmarks.bench_{name}").run()
        entry["rows"] = [{field: line[field] for field in FIELDS} for line in rows]
    except Skip as reason:
        entry["skipped"] = str(reason)
    return entry | {"load": load, "seconds": round(time.monotonic() - began, 1)}


def table(results: dict[str, Any]) -> str:
    """The README's table, with a line for each machine and date."""
    lines = ["| | ours | instead | ratio | |", "|---|--:|--:|--:|---|"]
    lines += [
        f"| {row['name']} | {row['ours']:.4g} {row['unit']} | {_figure(row['theirs'], row['unit'])} "
        f"| {_figure(row['ratio'], '', '.2f')} | {row['note']} |"
        for entry in results.values()
        for row in entry.get("rows", [])
    ]
    lines += [
        f"| {name} | | | | not measured: {entry['skipped']} |"
        for name, entry in results.items()
        if "skipped" in entry
    ]
    runs: dict[str, list[str]] = {}
    for name, entry in results.items():
        about = f"{entry['date']}, {entry['machine']['cores']} cores of {entry['machine']['cpu']}"
        runs.setdefault(about, []).append(name)
    measured = "; ".join(f"{', '.join(names)}: {about}" for about, names in runs.items())
    return "\n".join([*lines, "", f"Measured with `make bench` ({measured})."])


def _figure(value: float | None, unit: str, form: str = ".4g") -> str:
    return "" if value is None else f"{value:{form}} {unit}".strip()


def into_readme(text: str, new: str) -> str:
    """`text` with the part between the marks replaced; unchanged where it has no marks."""
    pattern = re.compile(f"({re.escape(MARKS[0])}\n).*?({re.escape(MARKS[1])})", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{new}\n{match[2]}", text)


def main(wanted: list[str]) -> int:
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := set(wanted) - set(names):
        print(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
        return 1
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {name: entry for name, entry in results.items() if name in names}
    failed = []
    for name in wanted or names:
        try:
            results[name] = measure(name)
        except Exception as error:  # the others are still worth their time
            print(f"{name}: failed: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        for row in results[name].get("rows", [{"name": name, "note": results[name].get("skipped")}]):
            print(json.dumps(row))
        RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
    text = README.read_text()
    README.write_text(into_readme(text, table(dict(sorted(results.items())))))
    print(f"Wrote {RESULTS.relative_to(ROOT)} and the table of {README.name}.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
