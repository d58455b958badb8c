"""What libjpeg and libpng print while OpenCV decodes: kept off the terminal, and noticed.

They print through C's variable `stderr`, which glibc lets a program point elsewhere; Python's own standard
error and the file behind it stay as they are, so bars and messages of other threads are not touched. With
another C library (macOS, musl) nothing is done: lines of theirs appear, and nothing is noticed.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

UNBUFFERED = 2  # _IONBF of stdio.h
KEPT = 1 << 20  # bytes of lines, above which they are let go


@dataclass
class Heard:
    """Whether a library printed inside a `listening` block, in this thread or in another one."""

    anything: bool = False


class _Sink:
    """A file in memory that takes the place of C's `stderr` while at least one block runs."""

    def __init__(self, libc: ctypes.CDLL) -> None:
        libc.fdopen.restype = ctypes.c_void_p
        libc.setvbuf.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
        self.handle = os.memfd_create("libraries")
        self.file = int(libc.fdopen(self.handle, b"w"))
        libc.setvbuf(self.file, None, UNBUFFERED, 0)
        self.variable = ctypes.c_void_p.in_dll(libc, "stderr")
        self.usual = self.variable.value
        self.begin_anew()
        os.register_at_fork(after_in_child=self.begin_anew)

    def begin_anew(self) -> None:
        self.lock, self.blocks = threading.Lock(), 0
        self.variable.value = self.usual

    def position(self) -> int:
        """Bytes printed since the sink was made."""
        return os.lseek(self.handle, 0, os.SEEK_CUR)

    def enter(self) -> None:
        with self.lock:
            self.blocks += 1
            self.variable.value = self.file

    def leave(self) -> None:
        with self.lock:
            self.blocks -= 1
            if self.blocks == 0:
                self.variable.value = self.usual
        if os.fstat(self.handle).st_size > KEPT:
            os.ftruncate(self.handle, 0)  # the position goes on: `position` never falls


@cache
def _sink() -> _Sink | None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version") or not hasattr(os, "memfd_create"):
        return None
    return _Sink(libc)


@contextmanager
def listening() -> Iterator[Heard]:
    """What a C library prints inside stays off the terminal; afterwards `Heard` tells whether any did."""
    heard, sink = Heard(), _sink()
    if sink is None:
        yield heard
        return
    sink.enter()
    before = sink.position()
    try:
        yield heard
    finally:
        heard.anything = sink.position() != before
        sink.leave()
