"""What a training run does at a signal, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

BUSY = """
import hashlib
from ffhqref.refldm.training.signals import signals

with signals(lambda: "waits for step 7") as asked:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000_000)  # one call of C, as a backward pass is, of minutes
    print("asked", asked(), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_at_once_and_a_second_one_ends_the_process(number: signal.Signals) -> None:
    """Also while the main thread is in C, where Python's own handlers wait."""
    command = [sys.executable, "-c", BUSY]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:
        assert run.stdout and run.stderr and run.stdout.readline() == "ready\n"
        began = time.monotonic()
        run.send_signal(number)
        assert run.stderr.readline() == "waits for step 7\n"
        run.send_signal(number)
        assert run.wait(timeout=20) == 128 + number and time.monotonic() - began < 15
        assert "asked" not in run.stdout.read()
