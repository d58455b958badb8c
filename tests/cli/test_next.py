"""Every command ends with the command to run next, which runs as it is printed."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from tests.photographs import Known
from tests.synthetic import people, recipe, write_embedded

MOST = 12  # commands of a chain


def run(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (words, done.output)
    return done.output


def follow(output: str, most: int = MOST) -> list[str]:
    """The commands that are run one after another, each as the one before printed it."""
    ran: list[str] = []
    while (found := re.search(r"Next: (.*)", output)) and len(ran) < most:
        words = shlex.split(found[1])
        assert words[0] == "ffhqref", found[1]
        if words[1] in ran:
            break
        ran.append(words[1])
        output = run(*words[1:])
    return ran


@pytest.fixture
def place(tmp_path: Path, known: list[Known], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs of the drawn people in a folder whose name a shell would split."""
    folder = tmp_path / "my photos"
    folder.mkdir()
    for photo in known:
        (folder / photo.path.name).symlink_to(photo.path)
    monkeypatch.chdir(tmp_path)
    return folder


def test_from_photographs_to_restored_pictures(
    place: Path, networks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    few = ["--test-identities", 1, "--val-identities", 1, "--test-references", "1:", "--distance", 0.25]
    built = run("build-refs", "--images", place, "--out", "it's mine", *networks, *few)
    monkeypatch.setattr("ffhqref.restore.run.RestoreOptions.steps", 1)
    assert follow(built)[:2] == ["degrade", "restore"]


def test_stage_by_stage(place: Path, networks: list[str]) -> None:
    without = [word for word in networks if word not in ("--min-distance", "0.02")]
    embedded = run("embed", "my dataset", "--images", place, *without)
    assert follow(embedded, 4) == ["cluster", "split", "references", "verify"]


@pytest.mark.parametrize(("kept", "follows"), [("val", "degrade"), ("train", "sheet")])
def test_what_follows_is_what_the_targets_allow(tmp_path: Path, kept: str, follows: str) -> None:
    """No test targets, or none but of train."""
    from ffhqref.dataset.cluster import find_identities
    from ffhqref.dataset.references import write_references
    from ffhqref.dataset.split import split_identities

    out = tmp_path / "out"
    vectors, _ = people([2] * 6, 1, spread=0.4)
    photos = write_embedded(out, [f"{n}.png" for n in range(12)], vectors)
    chosen = recipe(val_identities=2 if kept == "val" else 0, test_identities=0, grouping="components")
    for stage in (find_identities, split_identities, write_references):
        stage(out, chosen)
    from ffhqref.dataset.build import write_recipe

    write_recipe(out, chosen)
    verified = run("verify", out)
    assert f"Next: ffhqref {follows} " in verified
    run(*shlex.split(verified.split("Next: ffhqref ")[1]))
    assert photos.is_dir()


def test_a_distance_that_was_found_is_used_next(tmp_path: Path, built: Path, drawn: Path) -> None:
    out = tmp_path / "known people"
    shutil.copytree(built, out)
    said = run("calibrate", out, "--labels", drawn / "labels.csv", "--false-match-rate", 0.01)
    assert follow(said, 1) == ["cluster"]


def test_a_sheet(tmp_path: Path, built: Path) -> None:
    out = tmp_path / "a b"
    shutil.copytree(built, out)
    assert follow(run("sheet", out), 1) == ["verify"]
