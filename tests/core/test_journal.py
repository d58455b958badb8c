"""Files made in threads: what is noted when, what stands on a later run, what a kill leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

from ffhqref.core import journal, store
from ffhqref.core.journal import IN_FLIGHT, Made


@dataclass(frozen=True)
class Item:
    """Something to be made whose key and bytes are its file's name."""

    file: str

    @property
    def key(self) -> str:
        return f"key of {self.file}"


def items(count: int) -> list[Item]:
    return [Item(f"{number:02d}.txt") for number in range(count)]


def maker(out: Path, item: Item) -> Made:
    store.write_text(out / item.file, item.file)
    return Made(item.key, store.digest(item.file.encode()))


def test_what_was_made_stands_by_its_key_and_its_bytes(tmp_path: Path) -> None:
    item = Item("a.txt")
    made = maker(tmp_path, item)
    assert journal.stands(tmp_path, item, made)
    assert not journal.stands(tmp_path, item, None)
    assert not journal.stands(tmp_path, item, Made("another key", made.sha256))
    assert not journal.stands(tmp_path, item, Made(item.key, ""))
    assert journal.stands(tmp_path, Item("b.txt"), Made("key of b.txt", "", "missing", "no such file"))
    (tmp_path / "a.txt").write_text("a.tx_")
    assert not journal.stands(tmp_path, item, made)
    (tmp_path / "a.txt").unlink()
    assert not journal.stands(tmp_path, item, made)


def test_of_several_lines_the_last_counts_and_no_line_does_harm(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    assert journal.read(path) == {}
    whole = {"b": Made("1", "x"), "a": Made("2", "y", "missing", "gone", "a note")}
    journal.write(path, whole)
    assert [line[:5] for line in path.read_text().splitlines()] == ['["a",', '["b",']
    assert journal.read(path) == whole
    with path.open("a") as file:
        file.write('["b", {"key": "3", "sha256": "z"}]\n' + "[" * 99_999 + '\n["b"]\n[1, 2, 3]\n')
        file.write('["c", {"key": "1", "odd": 1}]\n["d", {"key": "4", "sha2')
    assert journal.read(path) == {**whole, "b": Made("3", "z")}


@pytest.mark.parametrize("workers", [1, 3])
def test_each_file_is_noted_on_disk_before_many_more_are_begun(tmp_path: Path, workers: int) -> None:
    path, ahead = tmp_path / "receipts" / "journal", workers * IN_FLIGHT
    lacking = []

    def make(item: Item) -> Made:
        number = int(item.file[:2])
        known = journal.read(path)
        lacking.extend(f"{n:02d}.txt" for n in range(number - ahead + 1) if f"{n:02d}.txt" not in known)
        return maker(tmp_path, item)

    made = journal.make_all(items(30), make, path, workers=workers, what="test")
    assert lacking == []
    assert list(made) == [item.file for item in items(30)]
    assert journal.read(path) == made


def test_a_run_goes_on_behind_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('["z", {"key": "1", "sha256": "x"}]\n["y", {"key')
    made = journal.make_all(items(2), lambda item: maker(tmp_path, item), path, workers=1, what="test")
    assert journal.read(path) == {"z": Made("1", "x"), **made}


def test_an_error_stops_the_run_and_what_was_made_before_is_noted(tmp_path: Path) -> None:
    def make(item: Item) -> Made:
        if item.file == "05.txt":
            raise store.UserError("the disk is full")
        return maker(tmp_path, item)

    with pytest.raises(store.UserError, match="full"):
        journal.make_all(items(30), make, tmp_path / "journal", workers=1, what="test")
    assert list(journal.read(tmp_path / "journal")) == [item.file for item in items(5)]
    assert len(list(tmp_path.glob("*.txt"))) <= 5 + IN_FLIGHT


def test_opencv_has_one_thread_meanwhile_and_its_own_number_afterwards(tmp_path: Path) -> None:
    before, seen = cv2.getNumThreads(), []

    def make(item: Item) -> Made:
        seen.append(cv2.getNumThreads())
        return maker(tmp_path, item)

    try:
        cv2.setNumThreads(3)
        journal.make_all(items(3), make, tmp_path / "journal", workers=2, what="test")
        assert seen == [1] * 3 and cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
