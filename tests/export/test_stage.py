"""The run: refusals, resuming, links; for every reader."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, tables
from ffhqref.core.store import UserError, read_receipt
from ffhqref.export import entries, stage
from ffhqref.export.contents import flat, folder_of
from ffhqref.export.entries import BytesEntry
from ffhqref.export.options import ExportOptions, Reader
from tests.export.conftest import PEOPLE, SIDE, draw, files_below, write_dataset

READERS = get_args(Reader)
PACKED = ("hf", "webdataset", "lmdb")


def run(reader: str, place: Path, out: Path, *more: object, code: int = 0) -> str:
    if reader == "lmdb":
        pytest.importorskip("lmdb", reason="lmdb (the extra `export`) is not installed")
    if reader == "faceme":
        pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    words = ["export", place / "mine", "--for", reader, "--images", place / "photos", "--out", out]
    result = CliRunner().invoke(app, [str(word) for word in (*words, "--size", SIDE, *more)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def refused(reader: str, place: Path, out: Path, *more: object) -> str:
    said = run(reader, place, out, *more, code=1)
    assert said.count("Error: ") == 1
    return said.partition("Error: ")[2]


@pytest.fixture(scope="module")
def points(metadata: Path) -> tuple[str, Path]:
    return "--landmarks", metadata


def test_every_reader_has_a_plan() -> None:
    assert set(READERS) == set(stage.PLANS)


# ---- every reader --------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", READERS)
def test_twice_is_once_and_anywhere_the_same(
    reader: str, handed: Path, tmp_path: Path, points: tuple[str, Path]
) -> None:
    said = run(reader, handed, tmp_path / "a", *points, "--workers", 1)
    assert f"files for {reader} are in {tmp_path / 'a'}. Next: " in said
    made = files_below(tmp_path / "a")
    receipt = read_receipt(tmp_path / "a", "export")
    assert receipt and receipt.parameters["reader"] == reader
    times = {file: (tmp_path / "a" / file).stat().st_mtime_ns for file in made}
    assert "of them kept" in run(reader, handed, tmp_path / "a", *points, "--workers", 3)
    assert {file: (tmp_path / "a" / file).stat().st_mtime_ns for file in made} == times
    run(reader, handed, tmp_path / "b", *points, "--workers", 4)
    assert files_below(tmp_path / "b") == made


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_photo_is_named_before_anything_is_written(
    reader: str, own: Path, tmp_path: Path, points: tuple[str, Path]
) -> None:
    (own / "photos" / "00031.png").unlink()
    said = refused(reader, own, tmp_path / "out", *points)
    assert said.startswith("00031.png is missing below ") and "--images" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_names_that_would_be_one_file(reader: str, tmp_path: Path, points: tuple[str, Path]) -> None:
    """Only where targets become files or keys by their names: packed samples go by numbers."""
    write_dataset(tmp_path, {**PEOPLE, "test": [["00030.png", "00031.png", "q.jpg", "q.png"]]})
    if reader in ("hf", "webdataset"):
        run(reader, tmp_path, tmp_path / "out")
        return
    said = refused(reader, tmp_path, tmp_path / "out", *points)
    assert said.startswith("q.") and " and q." in said and "would both be" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reader", READERS)
def test_what_others_wrote_stays(reader: str, handed: Path, tmp_path: Path, points: tuple[str, Path]) -> None:
    out = tmp_path / "out"
    (out / "test").mkdir(parents=True)
    (out / "test" / "own.png").write_bytes(b"mine")
    said = refused(reader, handed, out, *points)
    assert said == f"{out} holds test/own.png, which no export made: give --out an empty folder.\n"
    assert files_below(out) == {"test/own.png": b"mine"}
    shutil.rmtree(out)
    run(reader, handed, out, *points)
    (out / "stray.txt").write_text("mine")
    assert "holds stray.txt, which this export did not make" in refused(reader, handed, out, *points)
    (out / "stray.txt").unlink()
    other = "folders" if reader != "folders" else "hf"
    assert f"holds an export for {reader}: give --out another" in refused(other, handed, out)


@pytest.mark.parametrize("reader", READERS)
def test_photographs_are_not_squeezed(
    reader: str, own: Path, tmp_path: Path, points: tuple[str, Path]
) -> None:
    draw(own / "photos" / "00031.png", 1, width=80)
    said = refused(reader, own, tmp_path / "out", *points)
    assert "00031.png 80 x 64 px is not square" in said and "`ffhqref build-refs ... --crop on" in said
    draw(own / "mine" / "images512x512" / "00031.png", 2)  # a crop is taken in its place
    run(reader, own, tmp_path / "out", *points)


# ---- killed --------------------------------------------------------------------------------------

STOPS = {
    "folders": (entries.PictureEntry, 3),
    "refldm": (entries.PictureEntry, 9),
    "hf": (stage.hub.ParquetEntry, 2),
    "webdataset": (stage.shards.TarEntry, 1),
    "lmdb": (stage.records.DatabaseEntry, 1),
}


@pytest.mark.parametrize("reader", STOPS)
def test_a_stopped_run_goes_on(
    reader: str, handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were finished stay; the end is that of a run that nothing stopped."""
    run(reader, handed, tmp_path / "whole")
    kind, after = STOPS[reader]
    make, made = kind.make, []

    def stopping(entry: Any, out: Path) -> Any:
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(entry.file)
        return make(entry, out)

    monkeypatch.setattr(kind, "make", stopping)
    run(reader, handed, tmp_path / "out", "--workers", 1, code=130)
    assert read_receipt(tmp_path / "out", "export") is None
    monkeypatch.setattr(kind, "make", make)
    said = run(reader, handed, tmp_path / "out")
    assert f", {after}" in said or "of them kept" in said
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


KILLED = """
import os, signal, sys
from ffhqref.export import entries, hub, records, shards
calls, packed, write_bytes = [0], entries.packed, entries.write_bytes
records.BATCH = 2
def counted(do):
    def inner(*words):
        calls[0] += 1
        if calls[0] == int(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)
        return do(*words)
    return inner
records.packed = hub.packed = shards.packed = counted(packed)
entries.write_bytes = counted(write_bytes)
from ffhqref.cli import app
app(sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "reader", ["instantrestore", "faceme", "hf", "webdataset", "lmdb"]
)  # every kind of file
def test_kill_9_at_many_moments(
    reader: str, handed: Path, tmp_path: Path, points: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage.records, "BATCH", 2)
    run(reader, handed, tmp_path / "whole", *points)
    words = ["export", handed / "mine", "--for", reader, "--images", handed / "photos", *points]
    killed = 0
    for moment in (1, 4, 6):
        command = [sys.executable, "-c", KILLED, moment, *words, "--size", SIDE, "--out", tmp_path / "out"]
        done = subprocess.run([str(word) for word in command], capture_output=True)
        killed += done.returncode == -signal.SIGKILL
    assert killed >= 2
    run(reader, handed, tmp_path / "out", *points)
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


# ---- links, changes, what is left out ------------------------------------------------------------


@pytest.mark.parametrize("links", ["hard", "sym"])
def test_links(links: str, own: Path, tmp_path: Path) -> None:
    """A PNG of the size is linked, a JPEG is written; and no link is ever written through."""
    out = tmp_path / "out"
    run("folders", own, out, "--links", links)
    there, source = out / "train" / "00000" / "00000.png", own / "photos" / "00000.png"
    assert there.is_symlink() == (links == "sym") and os.path.samefile(there, source)
    os.utime(source, ns=(1, 1))  # linked again to what it is linked to: a rename that does nothing
    run("folders", own, out, "--links", links)
    assert not list(out.rglob("*.part"))
    made = out / "train" / "00000" / "deep__c.png"
    assert not made.is_symlink() and made.stat().st_nlink == 1
    before = source.read_bytes()
    run("folders", own, out, "--size", 32)
    assert source.read_bytes() == before and images.dimensions(there) == (32, 32) and not there.is_symlink()


def test_packed_files_hold_no_links(handed: Path, tmp_path: Path) -> None:
    for reader in PACKED:
        assert "leave out --links" in refused(reader, handed, tmp_path / "out", "--links", "sym")


def test_what_changed_is_made_again_and_what_went_goes(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("folders", own, out)
    draw(own / "photos" / "00010.png", 77)
    said = run("folders", own, out, "--least", 2, "--split", "train")
    assert "5 of them kept" in said and "people of fewer than 2 photos" in said
    assert (out / "train/00010/00010.png").read_bytes() == (own / "photos" / "00010.png").read_bytes()
    assert not (out / "train" / "alone").exists() and not (out / "test").exists()


def test_damaged_photographs_are_named_and_the_rest_is_made(own: Path, tmp_path: Path) -> None:
    path = own / "photos" / "00001.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # its header is good
    assert "00001.png" in refused("folders", own, tmp_path / "out")
    assert (tmp_path / "out/train/00000/00000.png").is_file()
    assert "00001.png" in refused("hf", own, tmp_path / "hf")
    path.write_text("no picture at all")
    assert "00001.png not a PNG" in refused("folders", own, tmp_path / "other")
    path.write_bytes(whole)
    run("folders", own, tmp_path / "out")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("../out.png,../out.png,['00031.png']", "names must be relative"),
        ("\"a\nb.png\",a.png,['00031.png']", "control character"),
        ("00030.png,../../a.png,['00031.png']", "names must be relative"),
        ("00030.png,00030.png,['/etc/passwd']", "names must be relative"),
        ("00030.png,gone.png,['00031.png']", "test_images/severe_degrad/gone.png is missing"),
    ],
)
def test_hostile_mappings(own: Path, tmp_path: Path, line: str, said: str) -> None:
    (own / "mine/reference_mapping/test_references.csv").write_text(f"gt_image,lq_image,ref_image\n{line}\n")
    assert said in refused("webdataset", own, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_are_refused(own: Path, tmp_path: Path) -> None:
    assert "lies in the dataset" in refused("folders", own, own / "mine")
    assert "lies in the folder of the photographs" in refused("folders", own, own / "photos" / "out")
    (tmp_path / "elsewhere").mkdir()
    run("folders", own, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "test")
    (tmp_path / "out" / "test").symlink_to(tmp_path / "elsewhere")
    assert "holds test, which this export did not make" in refused("folders", own, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_names_meet_where_case_does_not_count_and_are_not_too_long() -> None:
    pair = [BytesEntry("a/B.png", b"1", "one"), BytesEntry("a/b.png", b"1", "two")]
    with pytest.raises(UserError, match="one and two would both be a/b.png"):
        stage.settled(pair)
    assert len(stage.settled([pair[0], pair[0]])) == 1
    with pytest.raises(UserError, match="more than 255 bytes"):
        stage.settled([BytesEntry(f"{'a' * 256}.png", b"1", "one")])


@pytest.mark.parametrize(
    "wrong",
    [{"size": -1}, {"least": 0}, {"splits": ()}, {"splits": ("all",)}, {"level": "../a"}, {"shard_mb": 0}],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        ExportOptions(**wrong)


def test_a_plain_command_finds_the_photographs(own: Path, tmp_path: Path) -> None:
    receipt = own / "mine" / "receipts" / "embed.json"
    known = json.loads(receipt.read_text())
    known["notes"]["images"] = str(own / "photos")
    receipt.write_text(json.dumps(known))
    words = ["export", own / "mine", "--for", "folders", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert images.dimensions(tmp_path / "out/train/00000/00000.png") == (512, 512)


def test_a_dataset_as_it_is_built(built: Path, drawn: Path, tmp_path: Path) -> None:
    """Identities of the grouping become folders; nothing but the dataset's folder is given."""
    words = ["export", built, "--for", "folders", "--out", tmp_path / "out", "--size", 0, "--links", "sym"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    rows = tables.read(tables.path_of(built, "splits"), tables.SPLIT_TABLE).to_pylist()
    assert {file for file in files_below(tmp_path / "out") if not file.startswith("receipts/")} == {
        f"{row['split']}/{folder_of(row['identity'])}/{flat(row['image'])}.png" for row in rows
    }
