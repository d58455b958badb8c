"""The names of files that are being written, and which of them nobody writes any more.

A part lies beside the file it will become. Its name is a short digest of that file's (so that a file with a
name of the greatest allowed length has one, too), the process and a random number: two writers never share
a part, and what a killed process left is known from what a living one writes.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PART_SUFFIX = ".part"
_FORM = re.compile(r"\.[0-9a-f]{16}(?:-(\d+)-[0-9a-f]{8})?\.part")  # an unpacked member's names no process
_WRITING: set[str] = set()  # the parts that this process writes at the moment


def _stem(path: Path) -> str:
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}"


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """A new part of `path`; inside the context it counts as being written. The caller makes it."""
    name = f"{_stem(path)}-{os.getpid()}-{secrets.token_hex(4)}{PART_SUFFIX}"
    _WRITING.add(name)
    try:
        yield path.parent / name
    finally:
        _WRITING.discard(name)


def sweep_parts(folder: Path) -> None:
    """Remove what a killed run left half-written; only for the holder of the folder's lock.

    Only files with the exact name of a part of ours, and none that a process still writes.
    """
    for where, _, names in os.walk(folder):
        _remove_left(Path(where), names)


def sweep_parts_of(path: Path) -> None:
    """Remove what killed runs left of this one file: for a writer that needs no lock."""
    stem = _stem(path) + "-"
    _remove_left(path.parent, [name for name in os.listdir(path.parent) if name.startswith(stem)])


def _remove_left(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        if _is_left(name):
            (folder / name).unlink(missing_ok=True)


def _is_left(name: str) -> bool:
    """Whether this is the name of a part of ours that nobody writes any more."""
    found = _FORM.fullmatch(name)
    if not found:
        return False
    process = int(found[1] or 0)
    return name not in _WRITING if process == os.getpid() else not _alive(process)


def _alive(process: int) -> bool:
    if not process:  # none was named
        return False
    try:
        os.kill(process, 0)  # signal 0 only asks
    except PermissionError:  # it is somebody else's
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
