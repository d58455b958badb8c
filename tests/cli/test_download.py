"""What `download` says: plans that are true, options that are refused in a sentence, commands that follow."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.cli import download as command
from ffhqref.core.store import UserError
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile, load_source, sources


def say(*words: str) -> str:
    result = CliRunner().invoke(app, ["download", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_plan_counts_what_only_selects_of_files_not_yet_listed(tmp_path: Path) -> None:
    plan = say("ffhq", "--out", str(tmp_path / "out"), "--only", "0-999", "--dry-run")
    assert "0 of 1,001 files" in plan and "1.5 GB" in plan  # a thousand of 89.1 GB / 70, and 0.27 GB of JSON
    assert "70,00" not in plan and "89" not in plan
    whole = say("ffhq", "--out", str(tmp_path / "out"), "--dry-run")
    assert "0 of 70,001 files" in whole and "89.4 GB" in whole
    gone = tmp_path / "gone.txt"
    gone.write_text("00005\n00007.png\n")
    words = ["--only", "images1024x1024/00000", "--only", "69999.png", "--exclude", str(gone)]
    assert "0 of 1,000 files" in say("ffhq", "--out", str(tmp_path / "out"), *words, "--dry-run")
    assert not (tmp_path / "out").exists()


def test_a_plan_of_members_does_not_count_the_archive(tmp_path: Path) -> None:
    plan = say("ffhq-ref", "--only", "lists", "--out", str(tmp_path / "out"), "--dry-run")
    assert "0 B and 1 of unknown size" in plan and "read out of its 446.5 MB" in plan
    assert "446.5 MB." in say("ffhq-ref", "--out", str(tmp_path / "out"), "--dry-run")


@pytest.mark.parametrize(
    "words",
    [("--timeout", value) for value in ("inf", "nan", "0", "-1", "1e9", "1e400")]
    + [("--least-speed", value) for value in ("inf", "nan", "-1", "slow", "")]
    + [("--rate", value) for value in ("inf", "nan", "0", "0.1", "9" * 400)],
    ids=" ".join,
)
def test_limits_that_are_none(words: tuple[str, str], tmp_path: Path) -> None:
    toml = tmp_path / "m.toml"
    toml.write_text('[[file]]\npath = "x"\nurls = ["http://127.0.0.1:1/x"]\n')
    result = CliRunner().invoke(app, ["download", str(toml), "--out", str(tmp_path / "out"), *words])
    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)
    assert words[0] in result.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0, -1])
def test_manners_are_checked_in_python_too(value: float) -> None:
    with pytest.raises(UserError, match="--timeout"):
        Manners(timeout=value)


def parse(line: str) -> None:
    """A command as printed must parse: its options exist, and what it needs is given."""
    group: Any = typer.main.get_command(app)
    program, name, *words = shlex.split(line)
    assert program == "ffhqref" and name in group.commands
    if words != ["--help"]:
        group.commands[name].make_context(name, words)


@pytest.mark.parametrize("name", sources())
@pytest.mark.parametrize("out", ["ffhq", "my photos; rm -rf $HOME", "it's"])
def test_what_follows_runs_as_printed(name: str, out: str, tmp_path: Path) -> None:
    line = command._next([load_source(name)], tmp_path / out)
    parse(line)
    assert "{" not in line
    if source := re.match(r"ffhqref download (\S+)", line):  # asks nothing
        assert ("--accept-terms" in line) == bool(load_source(source[1]).terms)


def test_what_follows_reads_what_is_there(tmp_path: Path) -> None:
    file = SourceFile(path="x", urls=("http://127.0.0.1/x",))
    source = Source(name="m", title="m", files=(file,), next="ffhqref sheet {out}/a b")
    out = tmp_path / "my out"
    doctor = f"ffhqref doctor {shlex.quote(str(out))}"
    assert command._next([source], out) == doctor
    assert command._next([replace(source, next="")], out) == doctor
    (out / "a").mkdir(parents=True)
    assert shlex.split(command._next([source], out)) == ["ffhqref", "sheet", str(out / "a"), "b"]


def test_every_line_that_is_printed_as_next_parses() -> None:
    listed = CliRunner().invoke(app, ["download"])
    (line,) = re.findall("Next: (.*)", listed.output)
    parse(line)
