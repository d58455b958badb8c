"""What "Next:" offers: words that the same command reads as it read the ones before."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from ffhqref.cli import app
from ffhqref.cli.again import again
from ffhqref.demo import EMBEDDER


def context(*words: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.commands[words[0]].make_context(words[0], list(words[1:]))


def test_a_command_again_is_read_as_it_was_given(tmp_path: Path) -> None:
    given = context(
        "restore", "--checkpoint", "a b.ckpt", "--lq", "it's.png", "--refs", "1.png", "2.png", "--refs",
        "3.png", "--align", "--steps", "7", "--guidance", "1.25",
    )  # fmt: skip
    line = again(given, "--sheet", "--align")
    words = shlex.split(line)
    assert words[:2] == ["ffhqref", "restore"] and words.count("--align") == 1
    assert "--seed" not in words, "defaults are not written out"
    assert context(*words[1:]).params == given.params | {"sheet": True}
    assert sorted(shlex.split(again(context(*words[1:]), "--sheet"))) == sorted(words), "it is there already"


def following(out: Path, *words: str, stage: str, **changes: Any) -> list[str]:
    """The words after `ffhqref` that a finished run ends with."""
    pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    from ffhqref.cli.again import next_command
    from ffhqref.cli.train import configure
    from ffhqref.refldm.training.train import TrainingResult

    given = context("train", stage, "--data", "d", "--images", "p", "--out", str(out), *words)
    name = words[words.index("--config") + 1] if "--config" in words else None
    result = TrainingResult(step=3, checkpoint=out / "checkpoints/step-00000003", best=None, **changes)
    found = shlex.split(next_command(given, configure(stage, name, {}, False), result))
    assert found[0] == "ffhqref"
    context(*found[1:])
    return found[1:]


def test_the_next_stage_has_the_neighbouring_configuration(tmp_path: Path) -> None:
    words = following(tmp_path / "ae", "--config", "demo-autoencoder", stage="autoencoder")
    assert words[:2] == ["train", "ldm"] and words[words.index("--config") + 1] == "demo-ldm"
    plain = following(tmp_path / "ae", stage="autoencoder")
    assert "--config" not in plain and "--set" not in plain, "it is of the published size"
    assert plain[plain.index("--out") + 1] == str(tmp_path / "ldm")
    (tmp_path / "ldm").mkdir()
    plain = following(tmp_path / "ae", stage="autoencoder", stopped=False)
    assert plain[plain.index("--out") + 1] == str(tmp_path / "ldm-2"), "a run is there already"
    stopped = following(tmp_path / "ae", "--config", "demo-autoencoder", stage="autoencoder", stopped=True)
    assert stopped[:2] == ["train", "autoencoder"] and stopped[-1] == "--resume"


def test_the_identity_loss_has_a_network_or_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ffhqref.dataset import build

    words = following(tmp_path / "ldm", "--config", "demo-ldm", stage="ldm")
    assert words[words.index("--set") + 1] == "identity_weight=0", "the dataset names no embedder"
    monkeypatch.setattr(build, "recipe_of", lambda data: SimpleNamespace(embedder=str(EMBEDDER)))
    words = following(tmp_path / "ldm", "--config", "demo-ldm", stage="ldm")
    assert words[words.index("--identity") + 1] == str(EMBEDDER)
