"""Manifests: names that are kept, passwords that are not shown, commands that follow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.store import UserError
from ffhqref.download.sources import load_source, sources


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
