"""Parts: no two writers share one, and only those that nobody writes are swept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ffhqref.core import store
from ffhqref.core.parts import PART_SUFFIX

STEM = "." + "0" * 16
RANDOM = "0123abcd"


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.name[-5:] == ".part"}


def test_only_parts_of_ours_that_nobody_writes_are_swept(tmp_path: Path, dead: int) -> None:
    parent = os.getppid()  # alive
    others = [
        ".movie.mkv.part", ".0123.part", f"{STEM}-{dead}-{RANDOM}.part.gz", f"{STEM}-{dead}.part",
        f"{STEM}-{parent}-{RANDOM}.part", f"{STEM}x.part", f"x{STEM}.part",
    ]  # fmt: skip
    ours = [f"{STEM}-{dead}-{RANDOM}.part", f"{STEM}-{os.getpid()}-{RANDOM}.part", f"{STEM}.part"]
    ours.append(f"{STEM}-{'9' * 30}-{RANDOM}.part")  # a number that no process can have
    (tmp_path / "deep").mkdir()
    for name in others + ours:
        (tmp_path / "deep" / name).write_bytes(b"half")
    (tmp_path / ".dir.part").mkdir()
    (tmp_path / f".{'1' * 16}.part").mkdir()
    kept = {f"deep/{name}" for name in others[:2] + others[3:]} | {".dir.part", f".{'1' * 16}.part"}
    with store.lock(tmp_path, "embed"):
        assert left(tmp_path) == kept
    assert (tmp_path / "deep" / others[2]).exists()


def test_a_folder_behind_a_link_is_not_swept(tmp_path: Path, dead: int) -> None:
    away = tmp_path / "away" / f"{STEM}-{dead}-{RANDOM}.part"
    store.write_bytes(away, b"half")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(away.parent)
    with store.lock(tmp_path / "out", "embed"):
        assert away.exists()


def test_two_writers_of_one_file_never_share_a_part(tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    with store.atomic(target) as first:
        first.write_bytes(b"first, half")
        with store.atomic(target) as second:
            assert first != second and first.exists(), "the second writer sweeps what the first one writes"
            second.write_bytes(b"second")
        assert target.read_bytes() == b"second"
        with first.open("ab") as more:
            more.write(b" and whole")
    assert target.read_bytes() == b"first, half and whole"
    assert os.listdir(tmp_path) == [target.name]


def test_without_a_lock_a_writer_sweeps_what_a_killed_one_left_of_its_file(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from ffhqref.core.store import atomic\n"
        "with atomic(Path(sys.argv[1])) as part:\n"
        "    part.write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
    )
    for name in ("a", "b"):
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)])
    assert len(left(tmp_path)) == 2
    store.write_bytes(tmp_path / "a", b"whole")
    assert len(left(tmp_path)) == 1 and (tmp_path / "a").read_bytes() == b"whole"
    assert not (tmp_path / "b").exists() and PART_SUFFIX == ".part"
