"""What SIGTERM and Ctrl-C do to a training run: it says at once what it waits for; a second ends it."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals(waiting: Callable[[], str] | None) -> Iterator[Callable[[], bool]]:
    """Yields whether a signal came. At the first `waiting()` is printed; the second ends the process.

    Python runs handlers between two of its own instructions, and a backward pass of minutes is one. So a
    thread listens where the interpreter's signal handler in C writes (`signal.set_wakeup_fd`).
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {number: signal.signal(number, _note(came)) for number in NUMBERS}
    wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(ours, came, waiting), daemon=True)
    listener.start()
    try:
        yield came.is_set
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        theirs.close()  # which ends the thread
        listener.join()
        ours.close()


def _note(came: threading.Event) -> Callable[[int, FrameType | None], None]:
    return lambda number, frame: came.set()


def _listen(ours: socket.socket, came: threading.Event, waiting: Callable[[], str] | None) -> None:
    told = False
    while numbers := ours.recv(16):
        for number in numbers:
            if number not in NUMBERS:
                continue
            if told:  # checkpoints are renamed when whole, so there is nothing to clear up
                os._exit(128 + number)
            told = True
            came.set()
            if waiting is not None:
                tqdm.write(waiting(), file=sys.stderr)
                sys.stderr.flush()
