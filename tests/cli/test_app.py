"""The app: where output cannot be written, Ctrl-C while modules load, names that would steer a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.store import UserError

FULL = Path("/dev/full")
PROGRAM = [sys.executable, "-m", "ffhqref"]


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("words", [["--version"], ["download"], ["train", "--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_a_sentence(words: list[str], unbuffered: str) -> None:
    with FULL.open("w") as full:
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(
            [*PROGRAM, *words], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: Cannot write to standard output (No space left on device).\n",
    )


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_where_standard_error_is_full_the_exit_code_says_it() -> None:
    with FULL.open("w") as full:
        assert subprocess.run([*PROGRAM, "--version"], stdout=full, stderr=full).returncode == 1


def test_closed_streams_are_no_error() -> None:
    command = f"exec {sys.executable} -m ffhqref --version >&- 2>&-"
    assert subprocess.run(["sh", "-c", command]).returncode == 0


def test_ctrl_c_while_modules_load_is_one_word() -> None:
    program = (
        "import sys, time\n"
        "class Slow:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'ffhqref.cli.build':\n"
        "            print('loading', flush=True)\n"
        "            time.sleep(60)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from ffhqref.__main__ import main\n"
        "main()\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert started.stdout and started.stdout.readline() == "loading\n"
    started.send_signal(signal.SIGINT)
    said = started.communicate(timeout=60)[1]
    assert (started.returncode, said) == (130, "Stopped.\n")


def test_the_command_is_the_module() -> None:
    """So that Ctrl-C is answered while `ffhqref.cli` is loaded."""
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert 'ffhqref = "ffhqref.__main__:main"' in project


STEERING = "a\x1b]0;title\x07\x9b2J\x7f\u202egnp.exe"
ESCAPED = r"a\x1b]0;title\x07\x9b2J\x7f\u202egnp.exe"


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_whatever_a_command_prints_is_escaped(
    debug: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def says(*_: Any) -> None:
        typer.echo(f"found {STEERING}")
        print(f"printed {STEERING}")
        typer.echo(f"Warning: {STEERING}", err=True)
        if not debug:
            raise UserError(f"{STEERING} is missing.")
        raise typer.Exit

    monkeypatch.setattr("ffhqref.dataset.cluster.find_identities", says)
    done = CliRunner().invoke(app, [*debug, "cluster", str(tmp_path)])
    assert done.stdout.splitlines() == [f"found {ESCAPED}", f"printed {ESCAPED}"]
    assert (
        done.stderr.splitlines()
        == [f"Warning: {ESCAPED}"] + [f"Error: {ESCAPED} is missing."][: 0 if debug else 1]
    )


def test_a_traceback_is_escaped(tmp_path: Path) -> None:
    name = f"no {STEERING}"
    done = subprocess.run([*PROGRAM, "--debug", "verify", name], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr
    assert not set("\x1b\x07\x9b\x7f\u202e") & set(done.stderr) and "title" in done.stderr


def test_nothing_is_printed_past_the_escaped_streams() -> None:
    """But for the one word of `__main__`."""
    package = Path(__file__).parents[2] / "ffhqref"
    past = re.compile(r"__std(out|err)__|std(out|err)\.buffer|os\.write\([12]\b")
    found = {path.name for path in package.rglob("*.py") if past.search(path.read_text())}
    assert found == {"__main__.py"}


def test_words_that_are_no_command_are_escaped() -> None:
    done = CliRunner().invoke(app, [STEERING])
    assert done.exit_code == 2 and "No such command" in done.output
    assert not set("\x1b\x07\x9b\x7f\u202e") & set(done.output)


def test_half_of_a_surrogate_pair_in_a_mapping_is_a_sentence(tmp_path: Path) -> None:
    mapping = tmp_path / "reference_mapping" / "train_references.csv"
    mapping.parent.mkdir()
    mapping.write_text("gt_image,ref_image\na.png,\"['\\ud800.png']\"\n")
    words = ["sheet", str(tmp_path), "--images", str(tmp_path), "--out", str(tmp_path / "s.png")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and r"'\ud800.png' is not a path below" in done.output
