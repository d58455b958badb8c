"""The command: what it prints, what it refuses, and that its last line runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ffhqref.cli import app
from ffhqref.core import lists, store, tables
from ffhqref.dataset.references import csv_path
from tests.core.test_store import HOLD


@pytest.fixture
def out(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "my dataset"))


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["forget", *map(str, words)])


def targets(out: Path) -> list[str]:
    return list(lists.read_references(csv_path(out, "train")))


def test_names_and_a_list_and_what_it_prints(out: Path, tmp_path: Path) -> None:
    first, second = targets(out)[:2]
    (tmp_path / "asked.txt").write_text(f"{second}\n\n")
    would = run(out, first, "--list", tmp_path / "asked.txt", "--dry-run")
    assert would.exit_code == 0 and "Would forget 2 photos" in would.output
    assert "change  tables/pairs.parquet" in would.output and first in targets(out)
    done = run(out, first, "--list", tmp_path / "asked.txt")
    assert done.exit_code == 0, done.output
    files = sum(path.is_file() for path in out.rglob("*"))
    assert f"Scanned {files} files below {out}, 0 mention them." in done.output
    assert "Yours, and left: 2 photographs" in done.stderr
    assert not {first, second} & set(targets(out))
    following = shlex.split(re.search("Next: ffhqref (.*)", done.stdout)[1])  # type: ignore[index]
    assert CliRunner().invoke(app, following).exit_code == 0


def test_a_person(out: Path) -> None:
    table = tables.read_by_image(tables.path_of(out, "identities"), tables.IDENTITIES, tables.IDENTITY)
    person = table[targets(out)[0]]
    assert run(out, "--person", person).exit_code == 0
    left = tables.read_by_image(tables.path_of(out, "identities"), tables.IDENTITIES, tables.IDENTITY)
    assert left == {name: one for name, one in table.items() if one != person}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nobody.png"], "no photo 'nobody.png'"),
        (["../a.png"], "not a path below"),
        (["--person", "nobody"], "no identity 'nobody'"),
        (["--list", "none.txt"], "Cannot read none.txt"),
        ([], "Say what to forget"),
    ],
)
def test_what_is_refused_is_one_sentence(out: Path, words: list[str], said: str) -> None:
    done = run(out, *words)
    assert done.exit_code == 1 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("Error: ")


def test_a_dataset_that_is_being_written(out: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", HOLD, str(out)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout and holder.stdout.readline()
        done = run(out, targets(out)[0])
        assert done.exit_code == 1 and "is being written by" in done.stderr
    finally:
        holder.kill()
        holder.communicate()
    assert store.read_receipt(out, "verify")


def test_a_training_run_that_saw_them_is_named(out: Path, drawn: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    from ffhqref.cli.train import configure
    from ffhqref.degrade.operators import sampler
    from ffhqref.refldm.training.data import open_dataset
    from ffhqref.refldm.training.runs import RunFolder

    folder = RunFolder(tmp_path / "runs" / "mine")
    (folder.root / "checkpoints").mkdir(parents=True)
    config = configure("refldm", "demo-refldm", {}, False)
    source = open_dataset(out, drawn / "photos", config, sampler("train", config.seed))
    folder.write_config({"config": config.table(), "data": source.digest()})
    name = targets(out)[0]
    done = run(out, name, "--runs", tmp_path / "runs", "--dry-run")
    assert f"the checkpoints of {folder.root}. It was trained on them" in done.stderr, done.output
    assert run(out, name).exit_code == 0
    later = run(out, targets(out)[0], "--runs", tmp_path / "runs", "--dry-run")
    assert f"{folder.root}. Whether it was trained on them is not known" in later.stderr
