"""Many files made one by one in threads, so that a killed run goes on where it stopped.

The journal has a line for each finished file: what it was made of and the digest of its bytes. A file is
kept on a later run only if both still hold; a line that a kill cut off counts for nothing.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TextIO, TypeVar

import cv2
from threadpoolctl import threadpool_limits

from ffhqref.core.store import UserError, below, digest_file, open_unlinked, refuse_leaving, write_text
from ffhqref.core.terminal import progress_bar

BEGUN = "begun"  # the status of a file that is ours and not yet written
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

    key: str  # empty where another try is worth it: it is made again on the next run
    sha256: str  # of the file; empty where none was made
    status: str = "ok"
    reason: str = ""  # for people, where the status is not ok
    note: str = ""


def read(path: Path) -> dict[str, Made]:
    """The journal by file; of several lines for one file the last counts."""
    known: dict[str, Made] = {}
    try:
        handle = open_unlinked(path, os.O_RDONLY)
    except FileNotFoundError:
        return known
    with os.fdopen(handle, encoding="utf-8", errors="replace") as journal:
        for line in journal.read().splitlines():
            try:
                file, fields = json.loads(line)
                made = Made(**fields)
            except (ValueError, TypeError, RecursionError):
                continue
            if all(isinstance(text, str) for text in (file, *asdict(made).values())) and _inside(file):
                known[file] = made
    return known


def _inside(file: str) -> bool:
    try:
        below(Path(), file)
    except UserError:
        return False
    return True


def write(path: Path, made: Mapping[str, Made]) -> None:
    """Write the whole journal atomically, ordered by file."""
    write_text(path, "".join(_line(file, made[file]) for file in sorted(made)))


def _line(file: str, made: Made) -> str:
    return json.dumps([file, asdict(made)]) + "\n"


def claim(path: Path, files: Iterable[str]) -> None:
    """Note that these files will be ours, before the first of them is written.

    So whatever stands in the place of a file that the journal does not name is somebody else's.
    """
    with _append(path) as journal:
        journal.writelines(_line(file, Made("", "", BEGUN)) for file in files)


def _append(path: Path) -> TextIO:
    """The journal, open at its end, where a new line begins."""
    refuse_leaving(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = open_unlinked(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    journal = os.fdopen(handle, "a", encoding="utf-8")
    if journal.tell():
        journal.write("\n")  # ends a line that a kill cut off
    return journal


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
    made = {}
    with _append(path) as journal, progress_bar(what, "image", len(items)) as bar:
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
