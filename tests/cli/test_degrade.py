"""degrade's last line, and what its sheet says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, sheets
from ffhqref.degrade import stage
from ffhqref.degrade.draws import DegradeOptions
from tests.degrade.test_stage import cli, dataset, picture


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "my photos"
    for number in range(3):
        images.write(folder / f"{number}.png", picture(number, 70, 70))
    images.write(folder / "some" / "0.png", picture(9))  # the reference of `dataset`
    return folder


def following(said: str) -> list[str]:
    """The words of the command that is printed as the next one."""
    return shlex.split(said.split(" Next: ")[1])


def run(words: list[str]) -> str:
    assert words[0] == "ffhqref"
    done = CliRunner().invoke(app, words[1:])
    assert done.exit_code == 0, done.output
    return done.output


def test_without_torch_the_next_line_runs(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.restore.run.has_torch", lambda: False)
    out = dataset(tmp_path / "out", photos, test=["1.png"], val=["2.png"])
    for split in ("test", "val"):
        words = following(cli(out, "--level", "severe", "--size", 48, "--split", split))
        assert words[:3] == ["ffhqref", "sheet", str(out)]
        run(words)
    said = cli("--level", "severe", "--images", photos, "--out", tmp_path / "lq", "--size", 48)
    assert following(said) == ["ffhqref", "doctor"]


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_next_line_restores_a_dataset_as_it_is_printed(
    split: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    out = dataset(tmp_path / "out", photos, **{split: ["1.png"]})
    words = following(cli(out, "--level", "severe", "--size", 64, "--split", split))
    assert "--images" in words and str(photos) in words and words[-2:] == ["--checkpoint", "demo"]
    assert "1 restored" in run([*words, "--steps", "1"])


def test_the_next_line_restores_a_folder_as_it_is_printed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # then the word is a path
    said = cli("--level", "severe", "--images", photos, "--out", tmp_path / "l q", "--size", 512)
    assert "4 restored" in run([*following(said), "--steps", "1"])


def test_the_next_line_takes_a_checkpoint_that_is_there(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.restore.run.has_torch", lambda: True)
    monkeypatch.chdir(tmp_path)
    words = ("--level", "severe", "--images", photos, "--out", tmp_path / "lq", "--size", 16)
    (tmp_path / "refldm.ckpt").touch()
    assert "demo" in following(cli(*words)), "it needs its autoencoder"
    (tmp_path / "vqgan.ckpt").touch()
    assert "--checkpoint refldm.ckpt --autoencoder vqgan.ckpt" in cli(*words)
    (tmp_path / "refldm.safetensors").touch()
    assert "--checkpoint refldm.safetensors" in cli(*words)


def test_the_sheet_gives_a_photograph_its_own_size(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images.write(photos / "1.png", picture(1, 48, 48))
    captions: list[list[tuple[str, ...]]] = []

    def compose(rows: list[list[sheets.Panel]], *_: object, **__: object) -> images.Rgb:
        captions.extend([tuple(panel.caption) for panel in row] for row in rows)
        return picture(0)

    monkeypatch.setattr(sheets, "compose", compose)
    out = tmp_path / "lq"
    images.write(photos / "0.png", picture(0, 70, 50))
    cli("--level", "severe", "--images", photos, "--out", out, "--size", 48, "--squeeze")
    (photos / "2.png").unlink()
    stage.level_sheet(tmp_path / "look.png", {"severe": (out, "")}, photos, DegradeOptions(size=48))
    assert [row[0] for row in captions] == [
        ("0.png", "50 x 70 px, as 48 x 48"), ("1.png", "48 x 48 px"), ("2.png", "cannot be read"),
        ("some/0.png", "64 x 64 px, as 48 x 48"),
    ]  # fmt: skip
