"""Files that never lie: atomic writes, digests, safe paths, receipts, one writer per folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from ffhqref.core import store
from ffhqref.core.store import PART_SUFFIX, Receipt, UserError

HOLD = """
import sys, time
from pathlib import Path
from ffhqref.core.store import lock
with lock(Path(sys.argv[1]), "build-refs"):
    print("held", flush=True)
    time.sleep(60)
"""


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(PART_SUFFIX)]


def test_digests_are_sha256(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(data)
    wanted = hashlib.sha256(data).hexdigest()
    assert store.digest(data) == store.digest_file(tmp_path / "a") == wanted
    assert store.digest_given(str(tmp_path / "a")) == wanted
    assert store.digest_given(None) == ""
    with pytest.raises(UserError, match="missing"):
        store.digest_given(str(tmp_path / "missing"))


def test_seed_depends_on_seed_name_and_purpose_alone() -> None:
    # the digest is of the JSON list; this value was computed apart, so that it may never change
    text = b'[7, "a/\\u00e9.png", "split"]'
    assert store.seed_for(7, "a/é.png", "split") == int(hashlib.sha256(text).hexdigest()[:16], 16)
    seeds = {store.seed_for(s, n, p) for s in (0, 1) for n in ("a", "b") for p in ("x", "y")}
    assert len(seeds) == 8


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", "\ud800.png"])
def test_no_name_leaves_its_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="not a path below"):
        store.below(tmp_path, name)


@pytest.mark.parametrize("name", ["a.png", "a/b c,'\".png", "..a/b..png", "写真/é.jpg"])
def test_names_below_a_root(tmp_path: Path, name: str) -> None:
    assert store.below(tmp_path, name) == tmp_path / name


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "table"
    store.write_bytes(target, b"old")
    with pytest.raises(RuntimeError), store.atomic(target) as part:
        part.write_bytes(b"half of the n")
        assert target.read_bytes() == b"old"
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
    store.write_bytes(target, b"new")
    assert target.read_bytes() == b"new"


def test_atomic_makes_folders_and_takes_the_longest_name(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / ("é" * 127 + "x")  # 255 bytes
    store.write_text(target, "é\r\n")
    assert target.read_bytes() == "é\r\n".encode()
    assert os.listdir(target.parent) == [target.name]


def test_a_file_is_flushed_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a power cut: a name must never stand for bytes that are not on disk yet."""
    done: list[tuple[str, object]] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        about = os.fstat(handle)
        is_folder = os.path.samestat(about, os.stat(tmp_path))
        done.append(("folder" if is_folder else "file", None if is_folder else about.st_size))
        fsync(handle)

    def renamed(source: Path, target: Path) -> None:
        assert Path(source).parent == Path(target).parent, "a rename between folders may be a copy"
        done.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    store.write_bytes(tmp_path / "table", b"x" * 70_000)
    assert done == [("file", 70_000), ("rename", "table"), ("folder", None)]


def test_an_error_names_the_file_and_not_its_part(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "x").touch()
    with pytest.raises(OSError) as caught:
        store.write_bytes(folder, b"a file where a folder stands")
    assert caught.value.filename == str(folder)
    with pytest.raises(OSError) as caught, store.atomic(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as libraries raise it: no name
    assert caught.value.filename == str(tmp_path / "full")
    assert parts(tmp_path) == []


def test_the_lock_refuses_a_second_process_and_dies_with_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert first.stdout and first.stdout.readline() == b"held\n"
        left = tmp_path / "tables" / f".{'0' * 16}-{first.pid}-{'0' * 8}{PART_SUFFIX}"
        left.parent.mkdir()
        left.write_bytes(b"half")
        with pytest.raises(UserError) as caught, store.lock(tmp_path, "embed"):
            pass
        told = str(caught.value)
        assert str(tmp_path) in told and "ffhqref build-refs" in told and str(first.pid) in told
        assert left.exists(), "the one who is refused must not sweep what the holder writes"
        first.send_signal(signal.SIGKILL)
        first.wait()
        with store.lock(tmp_path, "embed"):
            assert parts(tmp_path) == [], "the next holder sweeps what a killed one left"
    finally:
        first.kill()
        first.wait()
        if first.stdout:
            first.stdout.close()


def test_a_thread_takes_its_lock_again_and_another_is_refused(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with store.lock(tmp_path, "embed"):
                refused.append("was let in")
        except UserError as error:
            refused.append(str(error))

    with store.lock(tmp_path, "build-refs"):
        with store.lock(tmp_path, "embed"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and "being written" in refused[0]
    with store.lock(tmp_path, "cluster"):
        pass


def test_a_lock_that_was_given_back_is_asked_for_again(tmp_path: Path) -> None:
    with store.lock(tmp_path, "embed"):
        pass
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="being written"), store.lock(tmp_path, "embed"):
            pass
    finally:
        other.kill()
        other.wait()
        if other.stdout:
            other.stdout.close()


def test_the_lock_names_its_holder_alone(tmp_path: Path) -> None:
    (tmp_path / store.LOCK_NAME).write_text("`ffhqref a-command-of-a-longer-name` (process 123456789)\n")
    with store.lock(tmp_path, "embed"):
        told = (tmp_path / store.LOCK_NAME).read_text()
    assert told == f"`ffhqref embed` (process {os.getpid()})\n"


def test_without_file_locks_the_first_lock_names_the_platforms(tmp_path: Path) -> None:
    """As on Windows: everything can be imported, and nothing is written."""
    program = (
        "import pathlib, sys\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import ffhqref.cli, ffhqref.dataset.build, ffhqref.degrade.stage, ffhqref.download.stage\n"
        "from ffhqref.core.store import UserError, lock\n"
        "try:\n"
        "    with lock(pathlib.Path(sys.argv[1]), 'embed'): pass\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    out = tmp_path / "out"
    run = subprocess.run(
        [sys.executable, "-c", program, str(out)], capture_output=True, text=True, check=True
    )
    assert "runs on Linux and macOS" in run.stdout and not out.exists()


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    for place in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserError, match="out"), store.lock(place, "embed"):
            pass


def test_a_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"out\xff")
    with pytest.raises(UserError, match="not UTF-8"), store.lock(odd, "embed"):
        pass
    assert not odd.exists()


def test_need_space(tmp_path: Path) -> None:
    store.need_space(tmp_path / "not" / "yet", 1000, "A test")
    with pytest.raises(UserError, match="A test needs .* GB free"):
        store.need_space(tmp_path / "not" / "yet", 1 << 60, "A test")


def test_space_that_just_suffices_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    store.need_space(tmp_path, 1000, "A test")
    with pytest.raises(UserError, match="A test needs"):
        store.need_space(tmp_path, 1001, "A test")


def receipt(**changes: object) -> Receipt:
    about = {"stage": "embed", "revision": 1, "parameters": {"a": [1, 2.5]}, "inputs": {"photos": "x"}}
    return Receipt(**{**about, **changes})  # type: ignore[arg-type]


def test_done_is_a_receipt_for_the_same_work_with_outputs_that_stand(tmp_path: Path) -> None:
    output = tmp_path / "tables" / "é.bin"
    store.write_bytes(output, b"content")
    assert store.finished(tmp_path, receipt()) is None
    written = store.write_receipt(tmp_path, receipt(), [output], {"count": 3})
    assert store.finished(tmp_path, receipt()) == written
    assert written.outputs == {"tables/é.bin": hashlib.sha256(b"content").hexdigest()}
    changes: list[dict[str, object]] = [
        {"revision": 2}, {"parameters": {"a": [1, 2]}}, {"inputs": {"photos": "y"}},
    ]  # fmt: skip
    for change in changes:
        assert store.finished(tmp_path, receipt(**change)) is None
    assert store.finished(tmp_path, receipt(version="9.9.9")) == written, "the version alone redoes nothing"
    output.write_bytes(b"c0ntent")
    assert store.damaged_outputs(tmp_path, written) == ["tables/é.bin"]
    assert store.finished(tmp_path, receipt()) is None
    output.unlink()
    assert store.finished(tmp_path, receipt()) is None


TABLES = ("parameters", "inputs", "outputs", "notes")


def whole(**changes: object) -> str:
    about: dict[str, object] = {"stage": "embed", "revision": 1, "parameters": {}, "inputs": {}}
    return json.dumps(about | changes)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", '{"stage": "embed"}', '{"odd": 1}', "[" * 100_000, '{"a":' * 100_000,
        '{"revision": ' + "1" * 5_000 + "}",
        *(whole(**{key: odd}) for key in TABLES for odd in ([], None, 3)),
        whole(stage=[]), whole(revision="1"), whole(revision=None), whole(version=3),
        whole(inputs={"a": 1}), whole(outputs={"a": []}), whole(outputs={"a": None}),
    ],
)  # fmt: skip
def test_a_damaged_receipt_is_none(tmp_path: Path, text: str) -> None:
    store.write_text(store.receipt_path(tmp_path, "embed"), text)
    assert store.read_receipt(tmp_path, "embed") is None
    with pytest.raises(UserError, match="ffhqref embed"):
        store.fingerprint(tmp_path, "embed")


def test_a_receipt_that_points_out_of_the_dataset_is_refused(tmp_path: Path) -> None:
    lying = receipt(outputs={"../secret": "0"})
    with pytest.raises(UserError, match="secret"):
        store.damaged_outputs(tmp_path, lying)


def test_a_receipt_may_speak_of_a_path_that_is_not_utf8(tmp_path: Path) -> None:
    odd = os.fsdecode(b"/photos/\xff")
    store.write_receipt(tmp_path, receipt(), [], {"images": odd})
    there = store.read_receipt(tmp_path, "embed")
    assert there and there.notes["images"] == odd


def test_fingerprint_follows_the_outputs(tmp_path: Path) -> None:
    output = tmp_path / "a"
    store.write_bytes(output, b"1")
    store.write_receipt(tmp_path, receipt(), [output], {"seconds": 1})
    first = store.fingerprint(tmp_path, "embed")
    store.write_receipt(tmp_path, receipt(), [output], {"seconds": 2})
    assert store.fingerprint(tmp_path, "embed") == first, "notes decide nothing"
    store.write_bytes(output, b"2")
    store.write_receipt(tmp_path, receipt(), [output], {})
    assert store.fingerprint(tmp_path, "embed") != first


def test_read_text_says_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa.png\n")
    assert store.read_text(tmp_path / "bom.txt", "a list") == "a.png\n"
    (tmp_path / "utf16").write_bytes("a".encode("utf-16"))
    for name in ("utf16", "missing", "."):
        with pytest.raises(UserError, match=r"give a list of names\."):
            store.read_text(tmp_path / name, "a list of names")


# ---- links ---------------------------------------------------------------------------------------


def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / store.LOCK_NAME).symlink_to(mine)
    with pytest.raises(UserError, match="is a link"), store.lock(tmp_path / "out", "embed"):
        pass
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / store.LOCK_NAME).symlink_to(tmp_path / "made")
    with pytest.raises(UserError, match="is a link"), store.lock(tmp_path / "new", "embed"):
        pass
    assert mine.read_text() == "mine" and not (tmp_path / "made").exists()


def test_a_receipt_behind_a_link_is_none_and_is_replaced(tmp_path: Path) -> None:
    store.write_receipt(tmp_path, receipt(), [], {})
    mine = tmp_path / "mine.json"
    store.receipt_path(tmp_path, "embed").rename(mine)
    before = mine.read_bytes()
    store.receipt_path(tmp_path, "embed").symlink_to(mine)
    assert store.read_receipt(tmp_path, "embed") is None
    store.write_receipt(tmp_path, receipt(revision=2), [], {})
    assert mine.read_bytes() == before and not store.receipt_path(tmp_path, "embed").is_symlink()


def test_no_file_is_written_through_a_folder_that_leaves_the_locked_one(tmp_path: Path) -> None:
    away, real = tmp_path / "away", tmp_path / "real"
    for folder in (away, real / "inside"):
        folder.mkdir(parents=True)
    (real / "tables").symlink_to(away)
    (real / "link").symlink_to(real / "inside")
    (tmp_path / "out").symlink_to(real)  # the folder itself may be a link: it is the user's word
    out = tmp_path / "out"
    with store.lock(out, "embed"):
        for name in ("tables/a", "tables/new/a"):
            with pytest.raises(UserError, match="leaves"):
                store.write_text(out / name, "x")
        store.write_text(out / "link" / "a", "x")
        store.write_text(out / "a", "x")
    assert list(away.iterdir()) == [] and (real / "inside" / "a").is_file()
