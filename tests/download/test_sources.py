"""Manifests: names that are kept, passwords that are not shown, commands that follow."""

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
from ffhqref.download.sources import Source, SourceFile, load_source, sources


def manifest(tmp_path: Path, path: str = "x", url: str = "http://127.0.0.1/x", more: str = "") -> Path:
    toml = tmp_path / "m.toml"
    toml.write_text(f'{more}[[file]]\npath = "{path}"\nurls = ["{url}"]\n')
    return toml


@pytest.mark.parametrize("path", ["missing.csv", "MISSING.csv", "./missing.csv", "a/.0123456789abcdef.part"])
def test_names_that_the_program_writes_itself(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kept for this program"):
        load_source(str(manifest(tmp_path, path)))
    load_source(str(manifest(tmp_path, "a/missing.csv")))


@pytest.mark.parametrize(
    "url",
    [f"{kind}://user:hush@{rest}" for kind in ("ftp", "https") for rest in ("h:port/x", "[h/x", "h/a b")],
)
def test_a_password_is_not_in_the_sentence(url: str, tmp_path: Path) -> None:
    toml = manifest(tmp_path, url=url)
    result = CliRunner().invoke(app, ["download", str(toml), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.output.startswith("Error: ")
    assert "hush" not in result.output
    single = toml.read_text().replace("[" + f'"{url}"' + "]", f'"{url}"')
    toml.write_text(single)
    assert "hush" not in CliRunner().invoke(app, ["download", str(toml), "--out", str(tmp_path)]).output


@pytest.mark.parametrize("count", [5_000, 100_000])
@pytest.mark.parametrize("text", ["x = {}", "x = {}1", "[[file]]\nbytes = {}"])
def test_toml_without_end_is_one_sentence(count: int, text: str, tmp_path: Path) -> None:
    toml = tmp_path / "m.toml"
    toml.write_text(text.format(("9" if "bytes" in text else "[") * count))
    result = CliRunner().invoke(app, ["download", str(toml), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1 and result.output.startswith(f"Error: {toml} is not valid TOML: ")
    assert len(result.output) < 300


def test_sizes_that_no_file_has(tmp_path: Path) -> None:
    for size in ("1" + "0" * 30, "-1"):
        toml = manifest(tmp_path)
        toml.write_text(toml.read_text() + f"bytes = {size}\n")
        with pytest.raises(UserError, match="bytes must be from 0"):
            load_source(str(toml))


def test_who_asked_to_be_removed_is_listed_with_a_date(tmp_path: Path) -> None:
    for name in sources():
        source = load_source(name)
        if source.listing:
            assert re.fullmatch(r"\d{4}-\d\d-\d\d", source.exclude_date)
            assert "removed" in source.terms and "--exclude" in source.terms
    dated = 'exclude = ["00001"]\nexclude_date = "2026-11-27"\n'
    assert load_source(str(manifest(tmp_path, more=dated))).exclude == ("00001",)
    for wrong in (dated.partition("\n")[0] + "\n", dated.replace("2026-11-27", "27 November")):
        with pytest.raises(UserError):
            load_source(str(manifest(tmp_path, more=wrong)))


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
