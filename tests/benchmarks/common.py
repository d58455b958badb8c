"""What the benchmarks share: interleaved pairs and their rows, skipping, time and memory of a process."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

ROOT = Path(__file__).parent.parent.parent
FACES = ROOT.parent / "shared" / "faces"
PAIRS = 5  # the least that the README may show
Row = dict[str, Any]
Made = TypeVar("Made")


class Skip(Exception):
    """A benchmark cannot run here; its text says why."""


def today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def load() -> float:
    """Load average of the minute before."""
    return round(os.getloadavg()[0], 2)


@dataclass(frozen=True)
class Rounds(Generic[Made]):
    """What each way measured, round by round; date and load average are of the beginning."""

    made: dict[str, list[Made]]
    date: str
    load: float

    def costs(self, way: str, of: Callable[[Made], float]) -> list[float]:
        """One number of each of a way's rounds."""
        return [of(one) for one in self.made[way]]

    def row(
        self,
        name: str,
        ours: Sequence[float],
        theirs: Sequence[float] | None,
        unit: str,
        note: str,
        show: Callable[[float], float] = float,
    ) -> Row:
        """One line of the table from the costs of both sides, the i-th of each from the same round.

        A cost is better the less it is (seconds, bytes). The ratio theirs / ours is taken pair by pair: its
        median says how many times better ours is, and its range is from the least to the greatest. Where
        nothing stands beside, the range is that of ours. `show` turns a cost into what the table shows, such
        as seconds into pictures a second.
        """
        shown = [show(cost) for cost in ours]
        found = {
            "name": name, "ours": statistics.median(shown), "theirs": None, "ratio": None,
            "range": [min(shown), max(shown)], "pairs": len(ours), "unit": unit, "note": note,
            "date": self.date, "load": self.load,
        }  # fmt: skip
        if theirs is None:
            return found
        ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
        return found | {
            "theirs": statistics.median(show(cost) for cost in theirs),
            "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }


def interleave(pairs: int, **ways: Callable[[], Made]) -> Rounds[Made]:
    """Run every way once a round, `pairs` rounds; each round's order is the last one's, reversed.

    So a load that comes, goes or grows meets all of them alike. A way whose memory is measured runs a
    `child`: what one leaves in a process would change the other's peak.
    """
    found: dict[str, list[Made]] = {way: [] for way in ways}
    began, before = today(), load()
    order = list(ways)
    for number in range(pairs):
        for way in order:
            start = time.perf_counter()
            found[way].append(ways[way]())
            taken = time.perf_counter() - start
            print(f"  round {number + 1} of {pairs}, {way}: {taken:.1f} s", flush=True)
        order.reverse()
    return Rounds(found, began, before)


def score(name: str, ours: float, theirs: float | None, ratio: float | None, unit: str, note: str) -> Row:
    """A line of what is computed from fixed data and not timed, so that one run is enough."""
    return row(name, ours, theirs, ratio, unit, note) | {"pairs": None}


def row(name: str, ours: float, theirs: float | None, ratio: float | None, unit: str, note: str) -> Row:
    """A line that was measured once, and is marked so. `ratio` says how many times better ours is."""
    return {
        "name": name, "ours": ours, "theirs": theirs, "ratio": ratio, "range": None, "pairs": 1,
        "unit": unit, "note": note,
    }  # fmt: skip


def crosses(found: Row) -> bool:
    """Whether the pairs do not agree on which side is better."""
    if found["ratio"] is None or found["range"] is None:
        return False
    low, high = found["range"]
    return bool(low <= 1 <= high)


def needed(path: Path) -> Path:
    """`path` of the shared photographs or networks, or Skip where it is absent."""
    if not path.exists():
        raise Skip(f"{path.name} of ../shared is not on this machine")
    return path


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call: by the clock on the wall, or another."""
    began = clock()
    work()
    return clock() - began


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


def most_memory() -> int:
    """The most memory (bytes) that this process has held. Not ru_maxrss: a child begins with its parent's."""
    return _memory("VmHWM")


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
