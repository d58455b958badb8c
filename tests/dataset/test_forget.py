"""forget: no trace is left, nobody else moves, references are refilled, nothing comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ffhqref import build_refs, degrade_dataset, forget_photos, load_recipe, verify_dataset
from ffhqref.core import images, lists, store, tables
from ffhqref.core.store import UserError
from ffhqref.dataset import tombstones, trace, verdicts
from ffhqref.dataset.build import recipe_of
from ffhqref.dataset.forget_plan import plan_path, rows_of
from ffhqref.dataset.references import csv_path
from ffhqref.dataset.trace import Traces
from ffhqref.degrade.levels import load_level
from ffhqref.degrade.stage import DegradeOptions
from tests.synthetic import statuses


@dataclass(frozen=True)
class Place:
    """A dataset that has been used: everything below it that a command may have made of a photo."""

    out: Path
    photos: Path
    networks: dict[str, Any]

    def recipe(self, **changes: Any) -> Any:
        return load_recipe("photos", **{**self.networks, **changes})

    def build(self, out: Path | None = None, **changes: Any) -> Any:
        chosen = self.recipe(**changes)
        return build_refs(self.photos, out or self.out, chosen, device="cpu", workers=2, batch_size=16)

    def splits(self) -> dict[str, tuple[str, str]]:
        rows = pq.read_table(tables.path_of(self.out, "splits")).to_pylist()
        return {row["image"]: (row["identity"], row["split"]) for row in rows}

    def references(self, split: str) -> dict[str, list[str]]:
        return lists.read_references(csv_path(self.out, split))


def mentioning(root: Path, names: list[str]) -> list[str]:
    """The oracle: files that hold a name or its `.png`, found by reading everything in the simplest way."""
    wanted = {form for name in names for form in (name, images.png_name(name))}
    found = []
    for path in sorted(root.rglob("*")):
        if not path.is_file() or path.name == store.LOCK_NAME:
            continue
        text = path.relative_to(root).as_posix() + path.read_bytes().decode("latin-1")
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            text += repr(table.schema.metadata) + repr(table.drop_columns(
                [c for c in table.column_names if c == "embedding"]).to_pylist())  # fmt: skip
        if any(name in text for name in wanted):
            found.append(path.relative_to(root).as_posix())
    return found


@pytest.fixture(scope="session")
def used(built: Path, drawn: Path, once: Callable[..., Path]) -> Path:
    """The drawn people's dataset with low-quality images, results, scores, verdicts, pages, an export."""

    def make(folder: Path) -> None:
        out = folder / "mine"
        shutil.copytree(built, out)
        degrade_dataset(load_level("severe"), out, photos=drawn / "photos", options=DegradeOptions(size=64))
        name = next(iter(lists.read_references(csv_path(out, "test"))))
        finished = {}
        for target in lists.read_references(csv_path(out, "test")):
            result = out / "restored" / "severe" / images.png_name(target)
            images.write(result, np.zeros((8, 8, 3), np.uint8))
            finished[images.png_name(target)] = "0" * 64
        record = {"command": "restore", "failed": {}, "finished": finished}
        store.write_text(out / "restored" / "severe" / "run.json", json.dumps(record))
        scores = [
            ("ours", target, "ids", 0.5, "a test") for target in lists.read_references(csv_path(out, "test"))
        ]
        tables.write_rows(out / "scores" / "scores.parquet", tables.SCORES, scores)
        lists.write_csv(
            out / "scores" / "failures.csv", tables.FAILURES, [("ours", name, "missing", "no file")]
        )
        store.write_text(out / "report.html", f"<img alt='{name}'>")
        store.write_text(out / "README.md", "# A card")
        store.write_text(out / "scores" / "table.md", f"| worst | {name} |")
        images.write(out / "contact-sheet.png", np.zeros((8, 8, 3), np.uint8))
        lines = [("same", one, "", "x.png", "", "me", "2026-01-01", "two\nlines") for one in (name, "y.png")]
        lists.write_csv(out / "verdicts.csv", tables.VERDICTS, lines)
        store.write_text(out / "exported" / "receipts" / "export-folders.jsonl", "")
        store.write_bytes(out / "exported" / "archive.tar", b"\x00 pictures of all \xff")

    return once("used", make)


@pytest.fixture
def place(used: Path, drawn: Path, detector: Path, embedder: Path, tmp_path: Path) -> Place:
    shutil.copytree(used / "mine", tmp_path / "mine")
    shutil.copytree(drawn / "photos", tmp_path / "photos", copy_function=shutil.copy2)
    networks = {"detector": str(detector), "embedder": str(embedder), "min_distance": 0.02}
    receipt = store.read_receipt(tmp_path / "mine", "embed")
    assert receipt
    outputs = [tmp_path / "mine" / name for name in receipt.outputs]
    store.write_receipt(
        tmp_path / "mine", receipt, outputs, {**receipt.notes, "images": str(tmp_path / "photos")}
    )
    return Place(tmp_path / "mine", tmp_path / "photos", networks)


def a_target(place: Place) -> str:
    """The first test target: it is in every file that `used` made, and a reference of others."""
    return next(iter(place.references("test")))


def test_nothing_is_left_and_it_is_proved(place: Place) -> None:
    name = a_target(place)
    before = mentioning(place.out, [name])
    assert {"scores/scores.parquet", "scores/table.md", "verdicts.csv", "report.html", "tables/pairs.parquet",
            "receipts/degrade-severe-test.jsonl", "tables/degradations.parquet"} <= set(before)  # fmt: skip
    pixels = {row[1] for row in rows_of(place.out) if row[0] == name}
    done = forget_photos(place.out, [name])
    assert mentioning(place.out, [name, *pixels]) == []
    assert [line.left for line in verdicts.read(place.out / "verdicts.csv")] == ["y.png"]
    assert done.scan.mentions == [] and not plan_path(place.out).exists()
    assert done.scan.files == sum(path.is_file() for path in place.out.rglob("*"))
    assert not (place.out / "contact-sheet.png").exists() and not (place.out / "exported").exists()
    assert done.photographs == [place.photos / name]


def test_nobody_else_moves_and_references_are_those_of_a_build_without_it(
    place: Place, tmp_path: Path
) -> None:
    name = a_target(place)
    before, had = place.splits(), place.references("test")
    forget_photos(place.out, [name])
    after = place.splits()
    assert {one: split for one, (_, split) in after.items()} == {
        one: split for one, (_, split) in before.items() if one != name
    }
    groups = [
        {frozenset(n for n in rows if rows[n][0] == rows[one][0]) - {name} for one in rows}
        for rows in (before, after)
    ]
    assert groups[0] - {frozenset()} == groups[1]
    assert verify_dataset(place.out, recipe_of(place.out)).violations == []
    (place.photos / name).unlink()
    place.build(tmp_path / "anew", splits=str(place.out))
    for split in tables.SPLITS:
        assert csv_path(place.out, split).read_bytes() == csv_path(tmp_path / "anew", split).read_bytes()
    assert any(name in references for references in had.values())


def test_a_build_without_the_photograph_has_nothing_to_embed_or_group(place: Place) -> None:
    (place.out / "verdicts.csv").unlink()  # which the next `cluster` would obey
    name = a_target(place)
    forget_photos(place.out, [name])
    (place.photos / name).unlink()
    kept = {
        stage: store.receipt_path(place.out, stage).read_bytes() for stage in ("embed", "cluster", "split")
    }
    splits = place.splits()
    place.build()
    assert place.splits() == splits
    assert kept == {stage: store.receipt_path(place.out, stage).read_bytes() for stage in kept}


def test_it_does_not_come_back_under_any_name(place: Place) -> None:
    name = a_target(place)
    forget_photos(place.out, [name])
    (place.photos / name).rename(place.photos / "another.png")
    place.build()
    assert statuses(place.out)["another.png"] == (tombstones.STATUS, tombstones.REASON)
    assert "another.png" not in place.splits()
    content = tombstones.path_of(place.out).read_text()
    assert name not in content and images.png_name(name) not in content
    pixels = store.digest(b"")
    assert pixels not in content


def test_results_made_with_it_go_too(place: Place) -> None:
    had = place.references("test")
    name = next(one for references in had.values() for one in references)
    touched = {images.png_name(target) for target, references in had.items() if name in references}
    forget_photos(place.out, [name])
    folder = place.out / "restored" / "severe"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    assert there == {images.png_name(t) for t in had} - touched - {images.png_name(name)}
    assert set(json.loads((folder / "run.json").read_text())["finished"]) == there


def test_all_of_a_person(place: Place) -> None:
    rows = place.splits()
    person = rows[a_target(place)][0]
    mine = [name for name, (identity, _) in rows.items() if identity == person]
    done = forget_photos(place.out, person=person)
    assert done.photos == len(mine) > 1
    assert mentioning(place.out, mine) == []
    assert set(place.splits()) == set(rows) - set(mine)


def test_a_dry_run_says_it_and_writes_nothing(place: Place) -> None:
    name = a_target(place)
    before = {
        path: path.stat().st_mtime_ns
        for path in place.out.rglob("*")
        if path.name != store.LOCK_NAME and path.is_file()
    }
    would = forget_photos(place.out, [name], dry_run=True)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    done = forget_photos(place.out, [name])
    assert set(would.removed) == set(done.removed)
    assert set(would.changed) >= set(done.changed) - {"verdicts.csv"}


STEPS = ["tombstones.add", "_rewrite_embeddings", "_rewrite_verdicts", "_strip_mappings", "_drop_results",
         "_rewrite_duplicates", "write_references", "trace.scan"]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_killed_before_any_step_it_goes_on(place: Place, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = a_target(place)

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        broken.setattr(f"ffhqref.dataset.forget.{step}", kill)
        with pytest.raises(Killed):
            forget_photos(place.out, [name])
    forget_photos(place.out)  # no name need be given again
    assert mentioning(place.out, [name]) == []
    assert verify_dataset(place.out, recipe_of(place.out)).violations == []


def test_killed_after_any_file_it_goes_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at each file in turn, on one dataset: every run gets one file further."""
    name, real, left = a_target(place), trace.erase, [3]

    class Killed(BaseException):
        pass

    def erase(*given: Any) -> str:
        what = real(*given)
        if what and left[0]:
            left[0] -= 1
            raise Killed
        return what

    monkeypatch.setattr(trace, "erase", erase)
    for again in range(4):
        try:
            forget_photos(place.out, [] if again else [name])
        except Killed:
            continue
    assert left == [0]
    assert mentioning(place.out, [name]) == []


@pytest.mark.slow
def test_killed_outright_at_many_moments(place: Place, tmp_path: Path) -> None:
    """SIGKILL while it works; then again, to the bytes that an undisturbed run makes but for the salt."""
    name = a_target(place)
    whole = Path(shutil.copytree(place.out, tmp_path / "whole"))
    forget_photos(whole, [name])

    def start(out: Path, *names: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "ffhqref", "forget", str(out), *names]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    for moment in range(6):
        out = Path(shutil.copytree(place.out, tmp_path / f"killed-{moment}"))
        process = start(out, name)
        while process.poll() is None and not plan_path(out).exists():
            time.sleep(0.001)
        time.sleep(moment * 0.05)
        process.kill()
        process.wait()
        assert not plan_path(out).exists() or start(out).wait() == 0
        assert mentioning(out, [name]) == []
        assert digests(out) == digests(whole)


def digests(out: Path) -> dict[str, str]:
    """Every file but locks and the tombstones, whose salt is drawn."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != store.LOCK_NAME]
    found = {path.relative_to(out).as_posix(): store.digest_file(path) for path in files}
    return {name: digest for name, digest in found.items() if name != "receipts/forgotten.json"}


def test_copies_under_other_names_go_with_it(place: Place) -> None:
    name = a_target(place)
    shutil.copy2(place.photos / name, place.photos / "copy.png")
    place.build()
    done = forget_photos(place.out, [name])
    assert done.photos == 2 and mentioning(place.out, [name, "copy.png"]) == []


@pytest.mark.parametrize(
    ("names", "words"),
    [(["nobody.png"], "no photo 'nobody.png'"), (["../escape.png"], "not a path below"),
     (["/etc/passwd"], "not a path"), ([], "Say what to forget"), (["a\0b"], "not a path")],
)  # fmt: skip
def test_bad_names(place: Place, names: list[str], words: str) -> None:
    before = sorted(place.out.rglob("*"))
    with pytest.raises(UserError, match=words):
        forget_photos(place.out, names)
    assert sorted(place.out.rglob("*")) == before


def test_a_folder_that_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    for folder in (tmp_path, tmp_path / "none", tmp_path / "a.png"):
        with pytest.raises(UserError, match="no dataset"):
            forget_photos(folder, ["a.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_every_photo_cannot_be_forgotten(place: Place) -> None:
    with pytest.raises(UserError, match="remove the whole folder"):
        forget_photos(place.out, list(statuses(place.out)))


def test_a_link_in_the_way(place: Place, tmp_path: Path) -> None:
    name = a_target(place)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "list.txt").write_text(name)
    (place.out / "linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="linked is a link"):
        forget_photos(place.out, [name])
    (place.out / "linked").unlink()
    (place.out / "exported" / name).symlink_to(place.photos / name)  # a picture's link goes, not the picture
    forget_photos(place.out, [name])
    assert (place.photos / name).is_file()


def test_a_file_of_no_known_form_is_named_and_the_plan_stays(place: Place) -> None:
    name = a_target(place)
    (place.out / "own.bin").write_bytes(b"\xff\x00" + name.encode() + b"\x00")
    with pytest.raises(UserError, match=r"own\.bin"):
        forget_photos(place.out, [name])
    (place.out / "own.bin").unlink()
    forget_photos(place.out)
    assert mentioning(place.out, [name]) == []


def test_runs_of_training_are_named(place: Place, tmp_path: Path) -> None:
    for folder in (place.out / "runs" / "a", tmp_path / "runs" / "b"):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "config.json").write_text('{"data": "0123"}')
    done = forget_photos(place.out, [a_target(place)], runs=tmp_path / "runs")
    assert done.runs == {place.out / "runs" / "a": False, tmp_path / "runs" / "b": False}


@pytest.mark.parametrize(("split", "named"), [("train", True), ("test", False)])
def test_a_run_on_these_lists_is_known_to_have_seen_what_is_in_them(
    place: Place, split: str, named: bool
) -> None:
    run = place.out / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text('{"data": "0123"}')
    name = next(iter(place.references(split)))
    done = forget_photos(place.out, [name], trained_on=lambda _: True, dry_run=True)
    assert done.runs == ({run: True} if named else {})


def test_a_writer_of_results_is_not_disturbed(place: Place) -> None:
    import multiprocessing

    folder = place.out / "restored" / "severe"
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, ready, leave))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="is being written by"):
            forget_photos(place.out, [a_target(place)])
    finally:
        leave.set()
        other.join()


def hold(folder: Path, ready: Any, leave: Any) -> None:
    with store.lock(folder, "restore"):
        ready.set()
        leave.wait(60)


def test_the_users_photographs_below_the_dataset_are_left(place: Place) -> None:
    name = a_target(place)
    inside = place.out / "originals"
    place.photos.rename(inside)
    receipt = store.read_receipt(place.out, "embed")
    assert receipt
    outputs = [place.out / one for one in receipt.outputs]
    store.write_receipt(place.out, replace(receipt), outputs, {**receipt.notes, "images": str(inside)})
    done = forget_photos(place.out, [name])
    assert (inside / name).is_file() and done.photographs == [inside / name]


# ---- what a mention is ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gone", "stay", "text", "wanted"),
    [
        ("1.png", ["11.png", "b/1.png"], "11.png", False),
        ("1.png", ["11.png", "b/1.png"], "restored/severe/1.png", True),
        ("1.png", ["11.png", "b/1.png"], "restored/severe/b/1.png", False),
        ("b/1.png", ["1.png"], "['1.png']", False),
        ("b/1.jpg", ["1.png"], "out/b__1.png", True),
        ("b/1.png", ["1.png"], "['b/1.png', '1.png']", True),
        ("ü&.jpg", [], '"\\u00fc&.jpg"', True),
        ("ü&.jpg", [], "<td>ü&amp;.jpg</td>", True),
        ("ü&.jpg", [], "href=%C3%BC%26.jpg", True),
        ("x.jpg", ["x.png"], "x.png", False),  # the name of another
        ("a-1.png", ["1.png"], "1.png", False),
        ("1.png", ["a-1.png"], "a-1.png", False),
    ],
)
def test_what_a_mention_is(gone: str, stay: list[str], text: str, wanted: bool) -> None:
    assert Traces([gone], (), stay).mentioned(text) is wanted


def test_a_name_across_two_pieces_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "PIECE", 1 << 14)
    for at in range((1 << 14) - 12, (1 << 14) + 2):
        (tmp_path / "a.bin").write_bytes(b" " * at + b" gone.png " + b" " * 40_000)
        assert trace.scan(tmp_path, Traces(["gone.png"])).mentions == [tmp_path / "a.bin"]


def test_a_damaged_tombstone_is_an_error(tmp_path: Path) -> None:
    tombstones.add(tmp_path, ["0" * 64])
    assert tombstones.read(tmp_path).hold("0" * 64) and not tombstones.read(tmp_path).hold("1" * 64)
    tombstones.path_of(tmp_path).write_text("{}")
    with pytest.raises(UserError, match=r"forgotten\.json is damaged"):
        tombstones.read(tmp_path)


def test_salts_differ_so_that_datasets_cannot_be_matched(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        tombstones.add(tmp_path / folder, ["0" * 64])
    assert tombstones.read(tmp_path / "a").digests.isdisjoint(tombstones.read(tmp_path / "b").digests)
