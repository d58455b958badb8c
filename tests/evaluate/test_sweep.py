"""ffhqref sweep: a grid's runs, its table and plot with a stand-in for the restorer, and the demo's own."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, lists
from ffhqref.core.store import UserError
from ffhqref.evaluate import sweep as sweeping
from ffhqref.evaluate.sweep import read_grid
from ffhqref.restore.record import RestoreOutcome
from tests.photographs import Once


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["sweep", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def grid(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def data(built: Path, once: Once) -> Path:
    def make(folder: Path) -> None:
        out = folder / "mine"
        shutil.copytree(built, out)
        again = ["split", "--redraw", "--test-identities", "2"]
        for words in (again, ["references"], ["degrade", "--level", "severe"]):
            done = CliRunner().invoke(app, [words[0], str(out), *words[1:]])
            assert done.exit_code == 0, done.output

    return once("swept", make) / "mine"


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    found = read_grid(
        grid(tmp_path / "g.toml", 'checkpoint = "a.ckpt"\nsteps = [2, 5]\nguidance = [1, 1.5, 2]\n')
    )
    assert len(found.runs) == 6 and found.varied == ("steps", "guidance")
    assert found.runs[1].setting == {"checkpoint": str(tmp_path / "a.ckpt"), "steps": 2, "guidance": 1.5}
    assert found.runs[1].label(found.varied) == "steps 2, guidance 1.5"
    assert len({one.key for one in found.runs}) == 6


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("steps = 5\n", "names no checkpoint"),
        ('checkpoint = "demo"\nstep = 5\n', "unknown key 'step'"),
        ('checkpoint = "demo"\nsteps = "many"\n', "steps must be a int"),
        ('checkpoint = "demo"\nsteps = []\n', "steps must be"),
        ('checkpoint = "demo"\norder = "random-walk"\n', "order 'random-walk' is none of fps"),
        ('checkpoint = "demo"\nsteps = [true]\n', "steps must be"),
        ("checkpoint = ", "is not valid TOML"),
        (f'checkpoint = "demo"\nseed = {list(range(2000))}\n', "at most 1,000"),
    ],
)
def test_a_bad_grid_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_grid(grid(tmp_path / "g.toml", text))
    said = run(tmp_path, "--grid", tmp_path / "g.toml", "--out", tmp_path / "out", code=1)
    assert said.startswith("Error: ") and sentence.split("'")[0] in said


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A restorer whose results come nearer to the target with each reference it may use."""
    made: list[dict[str, Any]] = []

    def restore(
        lq: Path, checkpoint: Path, *, out: Path, mapping: Path, photos: Path, options: Any
    ) -> RestoreOutcome:
        made.append({"mapping": lists.read_references(mapping), "most": options.max_references, "out": out})
        outcome = RestoreOutcome()
        for target in lists.read_references(mapping):
            name = images.png_name(target)
            share = min(1.0, options.max_references / 4)
            clean, low = images.read(images.find(photos, target)), images.read(images.find(lq, name))
            images.write(out / name, np.asarray(share * clean + (1 - share) * low, np.uint8))
            outcome.restored.append(name)
        return outcome

    monkeypatch.setattr(sweeping, "restore_pictures", restore)
    return made


def rows_of(path: Path) -> Sequence[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_and_the_plot(data: Path, tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    text = 'checkpoint = "demo"\norder = ["fps", "name"]\nmax_references = [1, 3]\n'
    out = tmp_path / "out"
    words = [data, "--grid", grid(tmp_path / "g.toml", text), "--out", out, "--metrics", "psnr"]
    said = run(*words)
    rows = rows_of(out / "sweep.csv")
    assert rows[0]["checkpoint"] == "low quality" and len(rows) == 5
    by_count = {row["max_references"]: float(row["psnr"]) for row in rows[1:] if row["order"] == "name"}
    assert by_count["1"] < by_count["3"]
    assert all(float(row["psnr_low"]) <= float(row["psnr"]) <= float(row["psnr_high"]) for row in rows[1:])
    ordered = [call["mapping"] for call in calls if call["most"] == 1]
    assert all(found == sorted(found) for found in ordered[1].values())
    assert any(found != sorted(found) for found in ordered[0].values())
    assert {target: set(found) for target, found in ordered[0].items()} == {
        target: set(found) for target, found in ordered[1].items()
    }
    assert images.read(out / "sweep.png").shape == (540, 960, 3)
    assert f"Next: cat {out}/sweep.csv" in said and "order name, max_references 3" in said
    before = (out / "sweep.csv").read_bytes()
    run(*words)
    assert (out / "sweep.csv").read_bytes() == before


def test_the_demo_s_restorer_over_a_grid(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    text = 'checkpoint = "demo"\nsteps = 2\nmax_references = [1, 2]\n'
    words = [data, "--grid", grid(tmp_path / "g.toml", text), "--out", tmp_path / "out", "--metrics", "psnr"]
    run(*words)
    results = sorted((tmp_path / "out/runs").rglob("*.png"))
    stamps = [path.stat().st_mtime_ns for path in results]
    rows = rows_of(tmp_path / "out/sweep.csv")
    assert len(rows) == 3 and rows[1]["psnr"] != rows[2]["psnr"]
    run(*words)
    assert [path.stat().st_mtime_ns for path in results] == stamps
