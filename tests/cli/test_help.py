"""What --help says, at 80 columns: choices, defaults, an example; and what a shell completes."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.recipe import Recipe

GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)


@cache
def run(*words: str, **environment: str) -> str:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80", **environment}, prog_name="ffhqref")
    assert result.exit_code == 0, result.output
    return result.output


@cache
def entries(command: str) -> dict[str, str]:
    """Each option of a command with its help, joined to one line."""
    records = re.split(r"\n  (?=-)", run(command, "--help").partition("\nOptions:")[2])[1:]
    joined = [" ".join(record.split()).replace("ffhq- ref", "ffhq-ref") for record in records]
    return {re.split(r",? ", entry.removeprefix("-h, "))[0]: entry for entry in joined}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_80_columns_and_has_an_example(command: str) -> None:
    words = [command] if command else []
    text = run(*words, "--help")
    assert max(map(len, text.splitlines())) <= 80, text
    assert f"\n  ffhqref {command or 'build-refs'} " in text or f"\n  ffhqref {command}\n" in text
    assert run(*words, "-h") == text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_parse(command: str) -> None:
    text = run(command, "--help").replace("\\\n", " ")
    lines = [line.partition("   ")[0] for line in re.findall(r"^  (ffhqref .*)$", text, re.M)]
    assert lines
    for line in lines:
        name, *words = shlex.split(re.sub(r" {2,}--", " --", line))[1:]
        GROUP.commands[name].make_context(name, words, resilient_parsing=True)
        known = {name for parameter in GROUP.commands[name].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known


def test_no_summary_is_cut() -> None:
    listed = run("--help").partition("Commands:")[2].strip().splitlines()
    assert {line.split()[0] for line in listed} == set(COMMANDS)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_plain_default_is_shown(command: str) -> None:
    for parameter in GROUP.commands[command].params:
        if parameter.opts[-1].startswith("--") and parameter.default not in (None, False, "", ()):
            assert f"[default: {parameter.default}" in entries(command)[parameter.opts[-1]]


def test_every_choice_of_a_recipe_is_shown() -> None:
    choices = {name: get_args(hint) for name, hint in get_type_hints(Recipe).items()
               if get_origin(hint) is Literal}  # fmt: skip
    assert {
        "align",
        "faces",
        "grouping",
        "dedupe",
        "order",
        "fps_start",
        "exclude_unmatched",
        "crop",
        "crop_format",
        "join_across",
        "new_of_test",
    } == set(choices)
    for name, words in choices.items():
        option = f"--{name.replace('_', '-')}"
        assert entries("build-refs")[option].startswith(f"{option} <{'|'.join(words)}> ")


@pytest.mark.parametrize(
    ("command", "option", "words"),
    [
        ("build-refs", "--recipe", "[default: photos]"),
        ("cluster", "--recipe", "[default: the dataset's own, else photos]"),
        ("build-refs", "--align", "[default: detect (photos, celebahq), landmarks (ffhq-ref)]"),
        ("cluster", "--grouping", "[default: average (photos), components (celebahq, ffhq-ref)]"),
        ("cluster", "--distance", "[default: the embedder's own, where known]"),
        ("cluster", "--min-distance", "[default: 0.1]"),
        ("embed", "--min-score", "[default: 0.5]"),
        ("embed", "--limit", "[default: all]"),
        ("split", "--val", "[default: 0.05 (photos)]"),
        ("split", "--test", "[default: 0.1 (photos), 1 (celebahq)]"),
        ("split", "--test-identities", "[default: 150 (ffhq-ref)]"),
        ("split", "--dedupe", "[default: near (photos), off (celebahq, ffhq-ref)]"),
        ("references", "--test-references", "[default: 2:9 (photos, ffhq-ref), 1: (celebahq)]"),
        ("references", "--order", "[default: fps]"),
        ("degrade", "--workers", "[default: one per core]"),
        ("download", "--rate", "[default: unlimited]"),
        ("restore", "--precision", "<fp32|auto|bf16|fp16|tf32>"),
        ("train", "--lr", "[default: the configuration's]"),
    ],
)
def test_the_default_that_holds_is_shown(command: str, option: str, words: str) -> None:
    assert words in entries(command)[option]


def complete(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    line = {"COMP_WORDS": " ".join(["ffhqref", *words]), "COMP_CWORD": str(len(words))}
    return run(_FFHQREF_COMPLETE="complete_bash", **line).split()


def test_a_shell_completes_commands_options_and_choices() -> None:
    assert complete("bui") == ["build-refs"]
    assert complete("cluster", "mine", "--grou") == ["--grouping"]
    assert complete("cluster", "mine", "--grouping", "") == ["components", "average"]
    assert complete("references", "mine", "--order", "n") == ["nearest", "name"]
    assert complete("build-refs", "--recipe", "ff") == ["ffhq-ref"]
    assert complete("degrade", "--format", "") == ["png", "webp"]
    assert complete("train", "ld") == ["ldm"]


def test_completion_is_shown_and_installed(tmp_path: Path) -> None:
    """In the name of `ffhqref`, however it was started."""
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}

    def script(option: str) -> str:
        call = [sys.executable, "-m", "ffhqref", option, "bash"]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    shown = script("--show-completion")
    assert "_FFHQREF_COMPLETE=complete_bash" in shown and shown.strip().endswith(" ffhqref")
    assert "installed" in script("--install-completion")
    assert (tmp_path / ".bash_completions" / "ffhqref.sh").read_text().strip() == shown.strip()
