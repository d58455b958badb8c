"""By command, from drawn people to restored pictures: the three stages on a verified dataset."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists
from ffhqref.demo.run import EMBEDDER, run_demo
from ffhqref.refldm.training.runs import MODEL, RunFolder
from tests.photographs import SEED
from tests.refldm import tiny_train as tiny

PEOPLE, STEPS = 5, 3


@pytest.fixture(scope="module")
def demo(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ and dataset/ of the demo, with its low-quality test images."""
    out = shutil.copytree(drawn, tmp_path_factory.mktemp("demo") / "out")
    run_demo(out, people=PEOPLE, seed=SEED)  # it keeps the photographs that are of these people
    return out


def train(demo: Path, stage: str, *more: str) -> Path:
    """Train a stage by its command below demo/runs; the checkpoint."""
    out, chosen = demo / "runs" / stage, tiny.config(stage, steps=STEPS, batch_size=2)
    arguments = tiny.arguments(chosen, demo / "dataset", demo / "photos", out)
    done = CliRunner().invoke(app, [*arguments, *more])
    assert done.exit_code == 0, done.output
    assert f"{stage}: {STEPS} of {STEPS} steps" in done.output
    return RunFolder(out).of(STEPS) / MODEL


def test_from_drawn_people_to_restored_pictures(demo: Path) -> None:
    dataset, photos = demo / "dataset", demo / "photos"
    checked = CliRunner().invoke(app, ["verify", str(dataset), "--images", str(photos)])
    assert checked.exit_code == 0, checked.output
    first = train(demo, "autoencoder")
    ldm = train(demo, "ldm", "--autoencoder", str(first), "--set", "identity_weight=0")
    model = train(demo, "refldm", "--init", str(ldm), "--identity", str(EMBEDDER))
    done = CliRunner().invoke(
        app,
        ["restore", str(dataset), "--level", "severe", "--images", str(photos), "--checkpoint", str(model),
         "--steps", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    wanted = lists.read_references(dataset / "reference_mapping" / "test_references.csv")
    made = dataset / "restored" / "severe"
    assert wanted and {p.name for p in made.glob("*.png")} == {Path(name).stem + ".png" for name in wanted}
    size = tiny.ARCHITECTURE.height, tiny.ARCHITECTURE.width, 3
    pictures: list[Any] = [cv2.imread(str(path)) for path in made.glob("*.png")]
    assert all(picture.shape == size and np.ptp(picture) > 0 for picture in pictures)


def test_a_dataset_that_was_changed_is_not_trained_on(demo: Path, tmp_path: Path) -> None:
    """Without --unverified; the sentence names what is wrong."""
    dataset = shutil.copytree(demo / "dataset", tmp_path / "dataset")
    path = dataset / "reference_mapping" / "train_references.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines[1:]]) + "\n")
    out = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["train", "ldm", "--data", str(dataset), "--images", str(demo / "photos"), "--out", str(out)]
    )
    assert done.exit_code == 1 and not out.exists()
    assert "is not a dataset that `ffhqref verify` passes" in done.output.replace("\n", " ")
