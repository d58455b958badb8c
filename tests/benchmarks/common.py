"""What the benchmarks share: rows, skipping, alternating runs, time and peak memory of a child process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
FACES = ROOT.parent / "shared" / "faces"


class Skip(Exception):
    """A benchmark cannot run here; its text says why."""


def row(
    name: str, ours: float, theirs: float | None, ratio: float | None, unit: str, note: str
) -> dict[str, Any]:
    """One line of the table. `ratio` says how many times better ours is; None where nothing stands beside."""
    return {"name": name, "ours": ours, "theirs": theirs, "ratio": ratio, "unit": unit, "note": note}


def needed(path: Path) -> Path:
    """`path` of the shared photographs or networks, or Skip where it is absent."""
    if not path.exists():
        raise Skip(f"{path.name} of ../shared is not on this machine")
    return path


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int
) -> tuple[float, float, float]:
    """Medians of both and of the rounds' ratios theirs / ours; both take turns, so load meets both."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return (
        statistics.median(our for our, _ in pairs),
        statistics.median(their for _, their in pairs),
        statistics.median(their / our for our, their in pairs),
    )


class Peak:
    """The most memory (bytes) this process held within `with`, above what it held at the beginning."""

    def __enter__(self) -> Peak:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        except OSError:
            raise Skip("peak memory can be read on Linux alone") from None
        self._before = _memory("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = _memory("VmHWM") - self._before


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def child(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` and read the one line of JSON that it prints last."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
