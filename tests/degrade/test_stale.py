"""degrade and other people's files; what goes when photographs go; what is tried again."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, journal, lists, store
from ffhqref.core.store import UserError
from ffhqref.degrade import stage, stale
from ffhqref.degrade.draws import DegradeOptions
from ffhqref.degrade.levels import load_level
from tests.degrade.test_stage import cli, contents, dataset, picture, refused, rows

SMALL = ("--size", 16)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(4):
        images.write(folder / f"{number}.png", picture(number, 20, 20))
    return folder


def mapping(out: Path, split: str, names: Sequence[str]) -> None:
    text = lists.reference_csv([(name, ["0.png"]) for name in names], with_lq=True)
    store.write_text(out / "reference_mapping" / f"{split}_references.csv", text)


# ---- files of others -----------------------------------------------------------------------------


def test_no_photograph_is_written_over(tmp_path: Path) -> None:
    """The target p/a.png of D/p would be written to D/p/a.png, which is a photograph itself."""
    photos = tmp_path / "p"
    images.write(photos / "p" / "a.png", picture(0))
    images.write(photos / "a.png", picture(1))
    before = contents(tmp_path)
    said = refused("--level", "severe", "--images", photos, "--out", tmp_path, *SMALL)
    assert "would lie among the photographs" in said and str(photos / "a.png") in said
    assert contents(tmp_path) == before


def test_a_file_that_no_run_made_is_kept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images.write(out / "2.png", picture(9))
    mine = (out / "2.png").read_bytes()
    said = refused("--level", "severe", "--images", photos, "--out", out, *SMALL)
    assert str(out / "2.png") in said and "no run of `degrade` made it" in said
    assert (out / "2.png").read_bytes() == mine and not (out / "1.png").exists()
    (out / "2.png").unlink()
    (out / "2.png").symlink_to(photos / "nowhere.png")
    assert "no run of `degrade` made it" in refused(
        "--level", "severe", "--images", photos, "--out", out, *SMALL
    )


def test_a_killed_run_knows_its_files_even_with_another_level(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, options = tmp_path / "out", DegradeOptions(size=16, workers=1)

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(journal, "_line", killed)  # files are written, and no line says so
        patch.setattr(journal, "claim", lambda path, files: None)
        stage.degrade_folder(load_level("severe"), photos, out, options=options)
    assert (out / "0.png").is_file()
    with pytest.raises(UserError, match="no run of"):
        stage.degrade_folder(load_level("moderate"), photos, out, options=options)
    for path in out.glob("*.png"):
        path.unlink()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage.journal, "make_all", lambda items, make, *_, **__: [make(items[0]), killed()])
        stage.degrade_folder(load_level("severe"), photos, out, options=options)
    assert (out / "0.png").is_file()
    stage.degrade_folder(load_level("moderate"), photos, out, options=options)
    clean = tmp_path / "clean"
    stage.degrade_folder(load_level("moderate"), photos, clean, options=options)
    assert contents(out) == contents(clean)


def test_without_its_journal_the_table_knows_its_files(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cli("--level", "severe", "--images", photos, "--out", out, *SMALL)
    before = contents(out)
    for path in (out / "receipts").iterdir():
        path.unlink()
    cli("--level", "severe", "--images", photos, "--out", out, *SMALL)
    assert contents(out) == before


def test_a_sheet_never_takes_a_photographs_place(photos: Path, tmp_path: Path) -> None:
    photo = photos / "3.png"
    before = photo.read_bytes()
    words = ("--level", "severe", "--images", photos, "--out", tmp_path / "out", *SMALL, "--sheet")
    assert "no sheet that ffhqref made" in refused(*words, photo)
    assert photo.read_bytes() == before and not (tmp_path / "out").exists()
    for _ in range(2):  # its own it replaces
        cli(*words, tmp_path / "look.png")
    data = dataset(tmp_path / "set", photos, test=["1.png"])
    done = CliRunner().invoke(app, ["sheet", str(data), "--out", str(photo)])
    assert done.exit_code == 1 and "no sheet that ffhqref made" in done.output
    assert photo.read_bytes() == before


def test_nothing_is_written_through_links_of_a_dataset(photos: Path, tmp_path: Path) -> None:
    out, mine = dataset(tmp_path / "out", photos, test=["1.png"]), tmp_path / "mine"
    mine.write_text("mine")
    link = out / "receipts" / "degrade-severe-test.jsonl"
    link.symlink_to(mine)
    assert "is a link" in refused(out, "--level", "severe", *SMALL)
    link.unlink()
    (tmp_path / "away").mkdir()
    (out / "test_images").symlink_to(tmp_path / "away")
    assert "leaves" in refused(out, "--level", "severe", *SMALL)
    assert mine.read_text() == "mine" and not list((tmp_path / "away").iterdir())


# ---- what goes with a photograph -----------------------------------------------------------------


def test_images_of_former_targets_go_at_every_level_and_split(photos: Path, tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", photos, test=["0.png", "1.png"], val=["2.png"])
    for level in ("severe", "moderate"):
        cli(out, "--level", level, *SMALL)
    cli(out, "--level", "severe", "--split", "val", *SMALL)
    edited = out / "test_images/moderate_degrad/1.png"
    edited.write_bytes(b"somebody's work")
    mapping(out, "test", ["0.png"])
    mapping(out, "val", [])
    cli(out, "--level", "severe", *SMALL)
    there = {path.relative_to(out).as_posix() for path in out.rglob("*_degrad/*")}
    assert there == {f"test_images/{level}_degrad/0.png" for level in ("severe", "moderate")} | {
        edited.relative_to(out).as_posix()
    }
    assert [(row["image"], row["level"]) for row in rows(out)] == [("0.png", "moderate"), ("0.png", "severe")]
    assert not list((out / "receipts").glob("*-val*")) and not (out / "val_images").exists()
    assert set(journal.read(out / "receipts/degrade-moderate-test.jsonl")) == {
        "test_images/moderate_degrad/0.png"
    }
    assert store.read_receipt(out, "degrade-moderate-test") is None, "it is no longer finished"
    assert stale.remove_stale(out) == 0
    edited.unlink()
    clean = dataset(tmp_path / "clean", photos, test=["0.png"])
    for level in ("severe", "moderate"):
        cli(clean, "--level", level, *SMALL)
        cli(out, "--level", level, *SMALL)
    assert contents(out) == contents(clean)


def test_no_target_is_left(photos: Path, tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", photos, test=["0.png"])
    cli(out, "--level", "severe", *SMALL)
    mapping(out, "test", [])
    assert "names no target" in refused(out, "--level", "severe", *SMALL)
    assert not (out / "test_images").exists() and rows(out) == []


def test_a_journal_from_a_stranger_removes_nothing_else(photos: Path, tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", photos, test=["0.png"])
    file = "reference_mapping/test_references.csv"
    made = journal.Made("", store.digest_file(out / file))
    journal.write(out / "receipts/degrade-severe-test.jsonl", {file: made})
    cli(out, "--level", "severe", *SMALL)
    assert (out / file).is_file()


# ---- what may pass -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_what_could_not_be_read_is_tried_again(
    number: int, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, usual = tmp_path / "out", Path.read_bytes

    def fails(path: Path) -> bytes:
        if path.name == "2.png" and path.parent.name == "photos":
            raise OSError(number, os.strerror(number))
        return usual(path)

    words = ("--level", "severe", "--images", photos, "--out", out, *SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        for _ in range(2):
            assert "3 severe images" in cli(*words) and not (out / "2.png").exists()
    assert "4 severe images" in cli(*words)
    cli("--level", "severe", "--images", photos, "--out", tmp_path / "clean", *SMALL)
    assert contents(out) == contents(tmp_path / "clean")


def test_what_is_no_picture_is_not_tried_again(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "2.png").write_bytes(b"no picture")
    words = ("--level", "severe", "--images", photos, "--out", tmp_path / "out", *SMALL)
    first = cli(*words)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("it was finished")

    monkeypatch.setattr(stage.DegradeItem, "make", never)
    assert cli(*words) == first and "1 unreadable" in first
