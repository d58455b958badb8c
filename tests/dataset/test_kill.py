"""kill -9 at many moments of a build, then the same command again: byte-identical, little redone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ffhqref.core import store, tables
from ffhqref.dataset.verify import STAGES
from tests.dataset.test_build import QUOTAS, assert_same

pytestmark = pytest.mark.slow

BUILD = """
import sys
import ffhqref.dataset.embed
ffhqref.dataset.shards.SHARD = 16  # four shards of the sixty photographs
from ffhqref.cli import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def arguments(sixty: Path, networks: list[str]) -> list[str]:
    return ["build-refs", "--images", str(sixty), *networks, *map(str, QUOTAS), "--workers", "2", "--out"]


def start(arguments: Sequence[str], out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILD, *arguments, str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(arguments: Sequence[str], out: Path) -> str:
    process = start(arguments, out)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told


@pytest.fixture(scope="module")
def whole(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A build that nothing disturbed, and the seconds it took."""
    out = tmp_path_factory.mktemp("whole") / "mine"
    began = time.monotonic()
    finish(arguments, out)
    return out, time.monotonic() - began


def kill_when(arguments: Sequence[str], out: Path, reached: Callable[[], bool]) -> bool:
    """Start a build and kill it as soon as `reached`; False where it was finished before."""
    process = start(arguments, out)
    try:
        while process.poll() is None and not reached():
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode == -signal.SIGKILL


def assert_nothing_lies(out: Path) -> set[str]:
    """What stands after a kill is whole: tables can be read, receipts match. The stages with a receipt."""
    for path in out.rglob("*.parquet"):
        pq.read_table(path)
    done = set()
    for stage in STAGES:
        receipt = store.read_receipt(out, stage)
        assert (receipt is not None) == store.receipt_path(out, stage).exists()
        if receipt:
            assert store.damaged_outputs(out, receipt) == []
            done.add(stage)
    return done


def times(out: Path, names: Sequence[str]) -> list[int]:
    return [(out / name).stat().st_mtime_ns for name in names]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_killed_after_a_part_of_its_time(
    arguments: list[str], whole: tuple[Path, float], tmp_path: Path, share: float
) -> None:
    out, until = tmp_path / "mine", time.monotonic() + share * whole[1]
    kill_when(arguments, out, lambda: time.monotonic() > until)
    assert_nothing_lies(out)
    finish(arguments, out)
    assert_same(whole[0], out)


MOMENTS = {
    "while the first shard is written": ("tables/embeddings/.*.part", []),
    "after the first rows": ("tables/embeddings/rows-*.parquet", []),
    "after the second shard": ("tables/embeddings/shard-00001.parquet", []),
    "after embed": ("receipts/embed.json", [f"shard-0000{number}.parquet" for number in range(4)]),
    "as pairs are written": ("tables/.*.part", []),
    "after pairs": ("tables/pairs.parquet", []),
    "after identities": ("tables/identities.parquet", []),
    "after cluster": ("receipts/cluster.json", []),
    "after the ledger": ("tables/people.parquet", []),
    "after the table of splits": ("tables/splits.parquet", []),
    "after the first list": ("id_based_ffhq_split/train_image.txt", []),
    "after split": ("receipts/split.json", []),
    "after the first mapping": ("reference_mapping/train_references.csv", []),
    "after references": ("receipts/references.json", []),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_when_a_file_appears(
    arguments: list[str], whole: tuple[Path, float], tmp_path: Path, moment: str
) -> None:
    pattern, kept = MOMENTS[moment]
    out = tmp_path / "mine"
    killed = kill_when(arguments, out, lambda: any(out.glob(pattern)))
    done = assert_nothing_lies(out)
    assert killed, "the build was finished before it could be killed"
    shards = [f"tables/embeddings/{name}" for name in kept]
    before, receipts = times(out, shards), {stage: store.read_receipt(out, stage) for stage in done}
    finish(arguments, out)
    assert_same(whole[0], out)
    assert times(out, shards) == before, "shards that stood were not made again"
    assert all(store.read_receipt(out, stage) == receipt for stage, receipt in receipts.items())


def test_killed_again_and_again_in_one_folder(
    arguments: list[str], whole: tuple[Path, float], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    for pattern, _ in MOMENTS.values():
        there = set(out.glob(pattern))
        kill_when(arguments, out, lambda there=there, p=pattern: bool(set(out.glob(p)) - there))  # type: ignore[misc]
        assert_nothing_lies(out)
    told = finish(arguments, out)
    assert "finished and verified" in told or "Built and verified" in told
    assert_same(whole[0], out)


def test_killed_while_a_changed_option_is_applied(
    arguments: list[str], whole: tuple[Path, float], tmp_path: Path
) -> None:
    """Neither the old nor the new dataset is mixed up, whichever command comes next."""
    changed = [*arguments[:-1], "--distance", "0.2", "--seed", "3", "--redraw", "--out"]
    arguments = [*arguments[:-1], "--redraw", "--out"]
    finish(changed, tmp_path / "other")
    out = tmp_path / "mine"
    finish(arguments, out)
    pairs = tables.path_of(out, "pairs").stat().st_mtime_ns
    kill_when(changed, out, lambda: tables.path_of(out, "pairs").stat().st_mtime_ns != pairs)
    finish(changed, out)
    assert_same(tmp_path / "other", out)
    lists = (out / "id_based_ffhq_split" / "test_image.txt").stat().st_mtime_ns
    kill_when(
        arguments, out, lambda: (out / "id_based_ffhq_split" / "test_image.txt").stat().st_mtime_ns != lists
    )
    finish(arguments, out)
    assert_same(whole[0], out)
