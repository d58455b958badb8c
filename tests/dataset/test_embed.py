"""Photographs to shards: a row with a status each, the same for any workers, batches and restarts."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ffhqref.core import images, store, tables
from ffhqref.core.recipe import Recipe, load_recipe
from ffhqref.core.store import UserError
from ffhqref.core.tables import EmbeddingRow
from ffhqref.dataset import embed, shards
from ffhqref.dataset.embed import embed_photos, estimate
from ffhqref.faces.geometry import align
from ffhqref.faces.networks import Embedder
from tests.faces.stand_in import write_embedder
from tests.photographs import Known
from tests.synthetic import statuses

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def recipe(detector: Path, embedder: Path) -> Recipe:
    return load_recipe("photos", detector=str(detector), embedder=str(embedder))


@pytest.fixture
def photos(drawn: Path, tmp_path: Path) -> Path:
    """Twelve photographs, copied, so that a test may change them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((drawn / "photos").iterdir())[:12]:
        shutil.copy(path, folder)
    return folder


def rows_of(out: Path) -> pa.Table:
    """All shards as one table without metadata."""
    shards = sorted(tables.embeddings_folder(out).glob("shard-*.parquet"))
    return pa.concat_tables([pq.read_table(path).replace_schema_metadata(None) for path in shards])


def run(photos: Path, out: Path, recipe: Recipe, **options: Any) -> dict[str, int]:
    receipt = embed_photos(photos, out, recipe, device="cpu", **options)
    return dict(receipt.notes["statuses"])


def test_every_photo_has_a_row_with_its_status(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    sources = sorted(photos.iterdir())
    good = sources[0].read_bytes()
    (photos / "cut.png").write_bytes(good[: len(good) // 2])
    (photos / "text.jpg").write_text("no picture")
    (photos / "empty.webp").touch()
    (photos / "line\nbreak.png").write_bytes(good)
    (photos / "Case.png").write_bytes(good)
    (photos / "case.png").write_bytes(good)
    images.write(photos / "grey.png", np.full((300, 300, 3), 128, np.uint8))
    images.write(photos / "one.png", np.zeros((1, 1, 3), np.uint8))
    images.write(photos / "strip.png", np.zeros((4, 5000, 3), np.uint8))
    images.write(photos / "small.png", images.resize(images.read(sources[1]), 30, 30))
    (photos / "bomb.png").write_bytes(_header_of_20000())
    locked = photos / "gone.png"
    locked.symlink_to(tmp_path / "nowhere.png")  # a link to nothing is no file: no row
    (tmp_path / "out.txt").write_text(f"{sources[2].name}\n\n")
    out = tmp_path / "out"
    counts = run(photos, out, replace(recipe, exclude=str(tmp_path / "out.txt")))
    found = statuses(out)
    assert {name: status for name, (status, _) in found.items() if status != "ok"} == {
        "cut.png": "unreadable", "text.jpg": "unreadable", "empty.webp": "unreadable",
        "line\nbreak.png": "bad_name", "case.png": "bad_name",
        "grey.png": "no_face", "one.png": "too_small", "strip.png": "too_small", "small.png": "too_small",
        "bomb.png": "too_large", sources[2].name: "excluded",
    }  # fmt: skip
    assert all(bool(reason) == (status != "ok") for status, reason in found.values())
    assert counts == {
        "bad_name": 2, "excluded": 1, "no_face": 1, "ok": 12, "too_large": 1, "too_small": 3, "unreadable": 3,
    }  # fmt: skip
    assert sources[2].name not in asked and "case.png" not in asked, "what is left out is not read"
    table = rows_of(out)
    assert table["image"].to_pylist() == sorted(found)
    embeddings = tables.load_embeddings(out)
    assert len(embeddings.names) == 12
    assert np.abs(np.linalg.norm(embeddings.vectors.astype(np.float64), axis=1) - 1).max() < 1e-6
    for row in table.select(["image", "status", "width", "height", "embedding"]).to_pylist():
        assert (row["embedding"] is not None) == (row["status"] == "ok")
        if row["status"] == "ok":
            assert (row["height"], row["width"]) == images.read(photos / row["image"]).shape[:2]


def _header_of_20000() -> bytes:
    from tests.core.test_images import png_claiming

    return png_claiming(20_000, 20_000)


def test_the_digest_of_pixels_tells_shapes_apart() -> None:
    rows = [EmbeddingRow("a.png"), EmbeddingRow("b.png")]
    for row, shape in zip(rows, ((20, 30, 3), (30, 20, 3)), strict=True):
        embed._note_picture(row, np.zeros(shape, np.uint8))
    assert rows[0].pixels == hashlib.sha256(b"30x20:" + bytes(1800)).hexdigest()
    assert (rows[0].width, rows[0].height) == (30, 20)
    assert rows[1].pixels == hashlib.sha256(b"20x30:" + bytes(1800)).hexdigest()


def test_a_side_of_sixteen_pixels_is_enough(recipe: Recipe, tmp_path: Path) -> None:
    for width, height in ((16, 16), (16, 40), (15, 40), (40, 15)):
        images.write(tmp_path / "photos" / f"{width}x{height}.png", np.zeros((height, width, 3), np.uint8))
    run(tmp_path / "photos", tmp_path / "out", replace(recipe, align="crop", detector=None))
    found = {name: status for name, (status, _) in statuses(tmp_path / "out").items()}
    assert found == {"16x16.png": "ok", "16x40.png": "ok", "15x40.png": "too_small", "40x15.png": "too_small"}


def test_a_changed_exclude_list_and_a_photo_of_equal_size_are_noticed(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    out, listed = tmp_path / "out", tmp_path / "x.txt"
    names = sorted(path.name for path in photos.iterdir())
    chosen = replace(recipe, exclude=str(listed))
    listed.write_text(names[0] + "\n")
    run(photos, out, chosen)
    asked.clear()
    listed.write_text(names[1] + "\n")  # the same option, another content
    assert run(photos, out, chosen) == {"excluded": 1, "ok": 11}
    assert asked == [names[0]] and statuses(out)[names[1]][0] == "excluded"
    asked.clear()
    old = (photos / names[2]).stat()
    os.utime(photos / names[2], ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    run(photos, out, chosen)
    assert asked == [names[2]], "its size is what it was, its time is not"


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (4, 7), (2, 64)])
def test_workers_and_batches_change_no_byte(
    drawn: Path, built: Path, recipe: Recipe, tmp_path: Path, workers: int, batch: int
) -> None:
    """40 photographs as the session's dataset (2 workers, batches of 16) has them."""
    run(drawn / "photos", tmp_path / "out", replace(recipe, limit=40), workers=workers, batch_size=batch)
    assert rows_of(tmp_path / "out").equals(rows_of(built).slice(0, 40))


def test_shards_divide_and_nothing_else_changes(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, tmp_path / "one", recipe)
    monkeypatch.setattr(shards, "SHARD", 5)
    run(photos, tmp_path / "three", recipe)
    assert len(list(tables.embeddings_folder(tmp_path / "three").iterdir())) == 3
    assert rows_of(tmp_path / "three").equals(rows_of(tmp_path / "one"))


def test_a_second_run_reads_nothing_and_a_touched_photo_alone_is_embedded_again(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    run(photos, out, recipe)
    before, names = rows_of(out), sorted(path.name for path in photos.iterdir())
    assert sorted(asked) == names
    asked.clear()
    run(photos, out, recipe)
    assert asked == []
    changed = photos / names[4]
    os.utime(changed, ns=(1, changed.stat().st_mtime_ns + 1))
    run(photos, out, recipe)
    assert asked == [names[4]]
    assert rows_of(out).equals(before)
    asked.clear()
    shutil.copy(photos / names[5], changed)
    run(photos, out, recipe)
    assert asked == [names[4]]
    assert rows_of(out)["embedding"][4].equals(before["embedding"][5])


def test_photos_that_come_and_go_leave_the_others_alone(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 5)
    out, first = tmp_path / "out", sorted(photos.iterdir())[0]
    run(photos, out, recipe)
    asked.clear()
    shutil.copy(first, photos / "!front.png")  # every later photo moves on by one row, over shards
    counts = run(photos, out, recipe)
    assert asked == ["!front.png"] and counts == {"ok": 13}
    run(photos, tmp_path / "anew", recipe)
    assert rows_of(out).equals(rows_of(tmp_path / "anew"))
    asked.clear()
    for path in sorted(photos.iterdir())[:4]:
        path.unlink()
    assert run(photos, out, recipe) == {"ok": 9}
    assert asked == []
    assert len(list(tables.embeddings_folder(out).iterdir())) == 2, "the third shard is gone"


def test_exclude_and_limit(photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]) -> None:
    out, names = tmp_path / "out", sorted(path.name for path in photos.iterdir())
    assert run(photos, out, replace(recipe, limit=5)) == {"ok": 5}
    assert sorted(asked) == names[:5]
    asked.clear()
    (tmp_path / "x.txt").write_text(f"{names[1]}\r\n{names[9]}\n")
    chosen = replace(recipe, exclude=str(tmp_path / "x.txt"))
    assert run(photos, out, chosen) == {"excluded": 2, "ok": 10}
    assert sorted(asked) == [name for name in names[5:] if name != names[9]]
    assert statuses(out)[names[1]][0] == "excluded"
    asked.clear()
    assert run(photos, out, recipe) == {"ok": 12}
    assert sorted(asked) == [names[1], names[9]]


def test_a_trial_of_a_few_does_not_cost_the_rest(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    whole = run(photos, out, recipe)
    before = rows_of(out)
    asked.clear()
    assert run(photos, out, replace(recipe, limit=3)) == {"ok": 3}
    assert len(tables.load_embeddings(out).names) == 3, "only what was asked for is read"
    assert run(photos, out, recipe) == whole
    assert asked == [], "not even the rest of a shard is done again"
    assert rows_of(out).equals(before)


def test_another_network_or_another_filter_redoes_the_work(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    run(photos, out, recipe)
    other = write_embedder(tmp_path / "other.onnx")
    for changed in (replace(recipe, embedder=str(other)), replace(recipe, min_face=50)):
        asked.clear()
        run(photos, out, changed)
        assert len(asked) == 12
    asked.clear()
    run(photos, out, replace(recipe, min_face=50, distance=0.3, seed=9))
    assert asked == [], "what embedding does not use does not redo it"


@pytest.mark.parametrize("damage", ["cut", "gone", "text", "other columns", "one bit"])
def test_a_damaged_shard_is_made_again(
    photos: Path, recipe: Recipe, tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD", 6)
    out, chosen = tmp_path / "out", replace(recipe, limit=8)
    run(photos, out, chosen)
    before = rows_of(out)
    shard = tables.embeddings_folder(out) / "shard-00001.parquet"
    makes: dict[str, Callable[[], object]] = {
        "cut": lambda: shard.write_bytes(shard.read_bytes()[:-20]),
        "gone": shard.unlink,
        "text": lambda: shard.write_text("text"),
        "other columns": lambda: pq.write_table(pa.table({"a": [1]}), shard),
        "one bit": lambda: _flip_a_bit(shard),
    }
    makes[damage]()
    run(photos, out, chosen)
    assert rows_of(out).equals(before)


def _flip_a_bit(path: Path) -> None:
    """In the vectors, which make most of the file: its footer stays as it is."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_a_run_has_finished_is_kept(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the only shard: the next run does what is left, to the same bytes."""
    monkeypatch.setattr(embed, "KEEP", 8)
    monkeypatch.setattr(embed, "KEEP_SECONDS", 1e-9)  # a photo at a time
    run(photos, tmp_path / "whole", recipe)
    asked.clear()
    embed_batch = Embedder.embed

    def interrupted(self: Embedder, faces: Array) -> Array:
        if len(asked) > 6:
            raise KeyboardInterrupt
        return embed_batch(self, faces)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Embedder, "embed", interrupted)
        run(photos, tmp_path / "out", recipe)
    assert store.read_receipt(tmp_path / "out", "embed") is None
    asked.clear()
    run(photos, tmp_path / "out", recipe)
    assert len(asked) == 6
    whole, out = (tables.embeddings_folder(tmp_path / name) for name in ("whole", "out"))
    assert [p.name for p in out.iterdir()] == [p.name for p in whole.iterdir()] == ["shard-00000.parquet"]
    assert (out / "shard-00000.parquet").read_bytes() == (whole / "shard-00000.parquet").read_bytes()


def test_ctrl_c_is_answered_at_once(
    photos: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt), embed._threads(1) as pool:
        waiting = [pool.submit(time.sleep, 0.01) for _ in range(1000)]
        raise KeyboardInterrupt
    assert "Stopping" in capsys.readouterr().err
    assert sum(future.cancelled() for future in waiting) > 900, "what has not begun is not waited for"


@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_kill_while_shards_move_costs_no_row(
    photos: Path,
    recipe: Recipe,
    tmp_path: Path,
    asked: list[str],
    moment: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A photo in front of all moves every row to another place: shards are replaced before the receipt is."""
    monkeypatch.setattr(shards, "SHARD", 4)
    out = tmp_path / "out"
    run(photos, out, recipe)
    shutil.copy(sorted(photos.iterdir())[0], photos / "!front.png")
    write, written = tables.write, []

    def killed(path: Path, *rest: Any) -> None:
        if path.name.startswith("shard-"):
            written.append(path.name)
            if len(written) == (2 if moment == "first" else 4):
                raise KeyboardInterrupt
        write(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tables, "write", killed)
        run(photos, out, recipe)
    asked.clear()
    run(photos, out, recipe)
    assert asked == []
    run(photos, tmp_path / "anew", recipe)
    assert rows_of(out).equals(rows_of(tmp_path / "anew"))


def test_what_could_not_be_read_for_now_is_tried_again(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, names = tmp_path / "out", sorted(path.name for path in photos.iterdir())
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == names[3]:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        assert run(photos, out, recipe) == {"not_read": 1, "ok": 11}
        assert run(photos, out, recipe) == {"not_read": 1, "ok": 11}
        assert "Input/output error" in statuses(out)[names[3]][1]
    assert run(photos, out, recipe) == {"ok": 12}
    run(photos, tmp_path / "anew", recipe)
    assert rows_of(out).equals(rows_of(tmp_path / "anew"))


def test_one_row_of_landmarks_redoes_one_photo(
    drawn: Path, photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    names = sorted(path.name for path in photos.iterdir())
    lines = (drawn / "landmarks.csv").read_text().splitlines()
    mine = [lines[0], *(line for line in lines[1:] if line.split(",")[0] in names)]
    given = tmp_path / "points.csv"
    chosen = replace(recipe, align="landmarks", landmarks=str(given))
    given.write_text("\n".join(mine[:-1]) + "\n")
    assert run(photos, tmp_path / "out", chosen) == {"no_landmarks": 1, "ok": 11}
    asked.clear()
    given.write_text("\n".join(mine) + "\n")
    assert run(photos, tmp_path / "out", chosen) == {"ok": 12}
    assert asked == [mine[-1].split(",")[0]]


def test_photographs_that_moved_are_found_where_they_are(
    photos: Path, recipe: Recipe, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    run(photos, out, recipe)
    photos.rename(tmp_path / "elsewhere")
    asked.clear()
    run(tmp_path / "elsewhere", out, recipe)
    assert asked == []
    assert store.recorded_images(out) == tmp_path / "elsewhere"


@pytest.mark.parametrize("written", ["a.jpeg", "a.jpg", "a.PNG"])
def test_a_newcomer_does_not_take_the_place_of_a_photo(
    photos: Path, recipe: Recipe, tmp_path: Path, written: str
) -> None:
    """`a.png` and `a.jpg` would be one low-quality image: the one that was there first stays."""
    out, first = tmp_path / "out", sorted(photos.iterdir())
    for name in {"a.jpeg", "a.jpg", "a.PNG"} - {written}:
        shutil.copy(first[0], photos / name)
        run(photos, out, recipe)
        before = {name for name, (status, _) in statuses(out).items() if status == "ok"}
        shutil.copy(first[1], photos / written)
        run(photos, out, recipe)
        found = statuses(out)
        assert {name for name, (status, _) in found.items() if status == "ok"} == before
        assert found[written][0] == "bad_name" and name in found[written][1]
        (photos / name).unlink()
        (photos / written).unlink()
        run(photos, out, recipe)


def test_a_dataset_among_the_photographs_is_passed_over(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    inside = photos / "mine"
    run(photos, inside, recipe)
    images.write(inside / "sheet.png", images.read(sorted(photos.glob("*.png"))[0]))
    receipt = embed_photos(photos, tmp_path / "out", recipe, device="cpu")
    assert receipt.notes["statuses"] == {"ok": 12}
    assert receipt.notes["passed_over"] == [str(inside)]


@pytest.mark.parametrize("wrong", ["jpg", "dot", "stem", "bare"])
def test_an_exclude_list_that_misses_is_an_error(
    photos: Path, recipe: Recipe, tmp_path: Path, wrong: str
) -> None:
    name = sorted(path.name for path in photos.iterdir())[0]
    (photos / "sub").mkdir()
    (photos / name).rename(photos / "sub" / name)
    stem = name.removesuffix(".png")
    missing = {"jpg": f"sub/{stem}.jpg", "dot": f"./sub/{name}", "stem": f"sub/{stem}", "bare": name}[wrong]
    (tmp_path / "x.txt").write_text(missing + "\n")
    chosen = replace(recipe, exclude=str(tmp_path / "x.txt"))
    with pytest.raises(UserError, match="--exclude-unmatched ignore") as caught:
        run(photos, tmp_path / "out", chosen)
    assert missing in str(caught.value) and not (tmp_path / "out").exists()
    assert run(photos, tmp_path / "out", replace(chosen, exclude_unmatched="ignore")) == {"ok": 12}


def test_all_faces_of_a_photo_become_photos(
    photographs: list[Known], real_detector: Path, real_embedder: Path, recipe: Recipe, tmp_path: Path,
    asked: list[str],
) -> None:  # fmt: skip
    from tests.faces.test_networks import collage

    recipe = replace(recipe, detector=str(real_detector), embedder=str(real_embedder))
    canvas, _ = collage(photographs, 256, 3, 1)
    images.write(tmp_path / "photos" / "group.png", canvas)
    images.write(tmp_path / "photos" / "z.png", canvas[:, :256].copy())
    out, every = tmp_path / "out", replace(recipe, faces="all")
    assert run(tmp_path / "photos", out, every) == {"ok": 4}
    embeddings = tables.load_embeddings(out)
    assert embeddings.names == [*(f"group.png/00{number}.png" for number in (1, 2, 3)), "z.png/001.png"]
    similar = embeddings.vectors @ embeddings.vectors.T
    assert similar[0, 3] > 0.9 and similar[1, 3] < 0.4 and similar[2, 3] < 0.4, "from left to right"
    root = out / "faces"
    for name in embeddings.names:
        picture = images.read(root / name)
        assert picture.shape == (512, 512, 3)
    # a cut-out face is framed so that its own embedding is that of the face in the group
    assert run(root / "group.png", tmp_path / "again", recipe) == {"ok": 3}
    again = tables.load_embeddings(tmp_path / "again")
    assert (again.vectors * embeddings.vectors[:3]).sum(1).min() > 0.8
    asked.clear()
    assert run(tmp_path / "photos", out, every) == {"ok": 4}
    assert asked == []
    first = root / "z.png" / "001.png"
    for damage in (first.unlink, lambda: _flip_a_bit(first)):
        before = first.read_bytes()
        damage()
        assert run(tmp_path / "photos", out, every) == {"ok": 4}
        assert asked == ["z.png"] and first.read_bytes() == before
        asked.clear()
    taken = sum(path.stat().st_size for path in root.rglob("*.png"))
    (tmp_path / "photos" / "z.png").rename(tmp_path / "z.png")
    assert run(tmp_path / "photos", out, every) == {"ok": 3}
    assert not first.exists(), "a face of a photo that is gone is removed"
    (tmp_path / "z.png").rename(tmp_path / "photos" / "z.png")
    trial = estimate(tmp_path / "photos", tmp_path / "trial", every, device="cpu", workers=2)
    assert trial.photos == trial.to_embed == 2 and not (tmp_path / "trial").exists()
    assert taken / 2 < trial.bytes < taken * 3, "the cut-out faces are most of the space"


def test_the_dataset_may_lie_below_the_photographs_but_not_be_their_folder(
    photos: Path, recipe: Recipe
) -> None:
    every = replace(recipe, faces="all", limit=2)
    first = run(photos, photos / "mine", every)
    assert list((photos / "mine" / "faces").iterdir())
    assert run(photos, photos / "mine", every) == first, "cut-out faces are no photographs"
    with pytest.raises(UserError, match="another folder"):
        run(photos, photos, recipe)


def test_landmarks_and_crop_need_no_detector(
    known: list[Known], embedder: Path, drawn: Path, tmp_path: Path
) -> None:
    lines = (drawn / "landmarks.csv").read_text().splitlines()
    (tmp_path / "five.csv").write_text("\n".join(lines[:6]))
    given = load_recipe(
        "photos", embedder=str(embedder), align="landmarks", landmarks=str(tmp_path / "five.csv"), limit=6
    )
    assert run(drawn / "photos", tmp_path / "given", given) == {"no_landmarks": 1, "ok": 5}
    found = tables.load_embeddings(tmp_path / "given").vectors
    faces = [align(images.read(photo.path), photo.landmarks) for photo in known[:5]]
    assert (found * Embedder(embedder, "cpu").embed(np.stack(faces))).sum(1).min() > 0.9999
    cropped = replace(given, align="crop", landmarks=None)
    assert run(drawn / "photos", tmp_path / "crop", cropped) == {"ok": 6}
    row = rows_of(tmp_path / "crop").slice(0, 1).to_pylist()[0]
    assert row["landmarks"] is None and row["det_score"] == 1.0


def test_what_is_missing_is_named(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for changed, words in (
        (replace(recipe, embedder=None), "give --embedder"),
        (replace(recipe, detector=None), "give --detector"),
        (replace(recipe, detector=str(tmp_path / "no.onnx")), r"no\.onnx"),
        (replace(recipe, align="landmarks"), "give --landmarks"),
        (replace(recipe, align="crop", faces="all"), "--align detect"),
        (replace(recipe, exclude=str(tmp_path / "no.txt")), r"no\.txt"),
    ):
        with pytest.raises(UserError, match=words):
            run(photos, out, changed)
    assert not out.exists(), "nothing is written before the input is known to be good"
