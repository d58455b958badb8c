"""Many files made one by one in threads, so that a killed run goes on where it stopped.

The journal has a line for each finished file: what it was made of and the digest of its bytes. A file is
kept on a later run only if both still hold; a line that a kill cut off counts for nothing.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
from threadpoolctl import threadpool_limits

from ffhqref.core.store import below, digest_file, write_text
from ffhqref.core.terminal import progress_bar

IN_FLIGHT = 4  # items a worker that are begun and not yet noted: bounds the memory


class JournalItem(Protocol):
    """Something to be made."""

    @property
    def file(self) -> str:
        """Where, as a path below the output folder."""

    @property
    def key(self) -> str:
        """A digest of everything that decides its bytes."""


T = TypeVar("T", bound=JournalItem)


@dataclass(frozen=True)
class Made:
    """What the journal says of an item."""

    key: str
    sha256: str  # of the file; empty where none was made
    status: str = "ok"
    reason: str = ""  # for people, where the status is not ok
    note: str = ""


def read(path: Path) -> dict[str, Made]:
    """The journal by file; of several lines for one file the last counts."""
    known = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    for line in lines:
        try:
            file, fields = json.loads(line)
            known[file] = Made(**fields)
        except (ValueError, TypeError, RecursionError):
            continue
    return known


def write(path: Path, made: Mapping[str, Made]) -> None:
    """Write the whole journal atomically, ordered by file."""
    write_text(path, "".join(_line(file, made[file]) for file in sorted(made)))


def _line(file: str, made: Made) -> str:
    return json.dumps([file, asdict(made)]) + "\n"


def stands(out: Path, item: JournalItem, made: Made | None) -> bool:
    """Whether what was made is what the item asks for, byte for byte."""
    if made is None or made.key != item.key:
        return False
    return made.status != "ok" or unchanged(out, item.file, made)


def unchanged(out: Path, file: str, made: Made) -> bool:
    """Whether the file below `out` still has the bytes that were written."""
    path = below(out, file)
    return bool(made.sha256) and path.is_file() and digest_file(path) == made.sha256


def cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_all(
    items: Sequence[T], make: Callable[[T], Made], path: Path, *, workers: int | None, what: str
) -> dict[str, Made]:
    """Make the items in threads, noting each in the journal at `path` as it is done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {}
    with path.open("a", encoding="utf-8") as journal, progress_bar(what, "image", len(items)) as bar:
        if journal.tell():
            journal.write("\n")  # ends a line that a kill cut off
        for item, result in _in_threads(items, make, workers or cores()):
            made[item.file] = result
            journal.write(_line(item.file, result))
            journal.flush()
            bar.update()
    return made


def _in_threads(items: Sequence[T], make: Callable[[T], Made], workers: int) -> Iterator[tuple[T, Made]]:
    """Results in the order of the items. The workers are all the threads: OpenCV and BLAS get one each."""
    waiting: deque[tuple[T, Future[Made]]] = deque()
    queue = iter(items)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            try:
                while True:
                    for item in islice(queue, workers * IN_FLIGHT - len(waiting)):
                        waiting.append((item, pool.submit(make, item)))
                    if not waiting:
                        return
                    item, future = waiting.popleft()
                    yield item, future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
    finally:
        cv2.setNumThreads(threads)
