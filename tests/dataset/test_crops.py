"""Crops: which photographs are cut, the same bytes every time, what is redone, and who may be a target."""

from __future__ import annotations

import ast
import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ffhqref import build_refs, load_recipe, verify_dataset
from ffhqref.cli import app
from ffhqref.core import images, lists, store, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset import crops, embed
from ffhqref.dataset.embed import embed_photos, estimate
from tests.photographs import Known

CROPS = "images512x512"


@pytest.fixture(scope="module")
def recipe(detector: Path, embedder: Path) -> Recipe:
    return load_recipe("photos", detector=str(detector), embedder=str(embedder), min_distance=0.02)


@pytest.fixture(scope="module")
def wide(known: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn photographs, not square any more, as JPEG and PNG, some in a folder."""
    folder = tmp_path_factory.mktemp("wide")
    for number, photo in enumerate(known[:40]):
        place = "sub/" if number % 5 == 0 else ""
        size = (150, 130) if number % 2 else (180, 156)
        picture = images.resize(images.read(photo.path), *size)
        images.write(folder / f"{place}{number:02d}.{'jpg' if number % 3 else 'png'}", picture)
    return folder


@pytest.fixture
def few(wide: Path, tmp_path: Path) -> Path:
    """Eight of them, copied, so that a test may change them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(wide.glob("*.*"))[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def dataset(wide: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset built of the forty; copy it before writing to it."""
    out = tmp_path_factory.mktemp("cropped") / "mine"
    build_refs(
        wide, out, replace(recipe, val_identities=1, test_identities=2, val=None, test=None), device="cpu"
    )
    return out


def run(photos: Path, out: Path, recipe: Recipe, **options: Any) -> store.Receipt:
    return embed_photos(photos, out, recipe, device="cpu", **options)


def rows_of(out: Path) -> list[dict[str, Any]]:
    shards = sorted(tables.embeddings_folder(out).glob("shard-*.parquet"))
    return pa.concat_tables([pq.read_table(path) for path in shards]).to_pylist()


def files_of(folder: Path) -> dict[str, bytes]:
    """Every picture and shard below a folder."""
    found = [*folder.rglob("*.png"), *folder.rglob("*.webp"), *folder.rglob("shard-*")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def cli(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


def assert_published_shape(out: Path) -> set[str]:
    """What the published loader takes: names of mappings and lists are 512 px PNGs below images512x512."""
    names: set[str] = set()
    for split in ("train", "val", "test"):
        with (out / "reference_mapping" / f"{split}_references.csv").open(newline="") as file:
            for row in csv.DictReader(file):
                names |= {row["gt_image"], *ast.literal_eval(row["ref_image"])}
                if split != "train":
                    assert row["lq_image"] == row["gt_image"], "eval.py asserts one name for both"
        names |= set((out / "id_based_ffhq_split" / f"{split}_image.txt").read_text().split("\n")[:-1])
    for name in names:
        assert name.endswith(".png") and images.read(out / CROPS / name).shape == (512, 512, 3)
    assert {p.relative_to(out / CROPS).as_posix() for p in (out / CROPS).rglob("*.png")} == names
    return names


def test_a_folder_of_wide_photographs_becomes_a_published_dataset(dataset: Path, wide: Path) -> None:
    names = assert_published_shape(dataset)
    assert names == {images.png_name(path.relative_to(wide).as_posix()) for path in wide.rglob("*.*")}
    assert store.recorded_images(dataset) == (dataset / CROPS).resolve()
    for row in rows_of(dataset):
        assert row["photo"] == row["image"] or row["photo"] == row["image"].replace(".png", ".jpg")
        assert (row["width"], row["height"]) == (512, 512)
        left_eye, right_eye = (row["landmarks"][at : at + 2] for at in (0, 2))
        assert 100 < right_eye[0] - left_eye[0] < 160 and 200 < left_eye[1] < 280, "px of the crop"
        assert 30 < row["eyes"] < 60 and row["padding"] < 0.3 and row["blur"] > 0 and abs(row["yaw"]) < 10
        assert row["barred"] == "" and row["det_score"] > 0.5
    measured = store.read_receipt(dataset, "embed").notes["framing"]
    assert (measured["faces"], measured["framed"], measured["crop"]) == (32, 0, True)


def test_what_follows_needs_nothing_else(dataset: Path, tmp_path: Path, wide: Path) -> None:
    out = tmp_path / "mine"
    shutil.copytree(dataset, out)
    receipt = store.read_receipt(out, "embed")
    store.write_receipt(
        out, receipt, [store.below(out, name) for name in receipt.outputs],
        {**receipt.notes, "images": str(out / CROPS)},
    )  # fmt: skip
    assert not verify_dataset(out, load_recipe(str(out / "receipts/recipe.toml"))).violations
    cli("degrade", out, "--level", "severe")
    with (out / "reference_mapping/test_references.csv").open(newline="") as file:
        low = [row["lq_image"] for row in csv.DictReader(file)]
    assert low and all((out / "test_images/severe_degrad" / name).is_file() for name in low)
    cli("export", out, "--for", "folders", "--out", tmp_path / "people")
    cli("sheet", out, "--out", tmp_path / "sheet.png")
    (out / CROPS / low[0]).write_bytes(b"damage")
    told = cli("verify", out, code=1)
    assert low[0] in told and "cut out" in told


def test_square_framed_photographs_are_left_as_they_are(built: Path, drawn: Path) -> None:
    receipt = store.read_receipt(built, "embed")
    assert not receipt.notes["framing"]["crop"] and receipt.notes["framing"]["framed"] == 32
    assert store.recorded_images(built) == drawn / "photos" and not list(built.glob("images*"))
    assert "left as they are" in crops.describe(receipt.notes["framing"])
    row = rows_of(built)[0]
    assert row["padding"] is None and row["blur"] is None and row["crop"] == "" and row["eyes"] > 10


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (3, 7)])
def test_workers_and_batches_change_no_byte(
    few: Path, recipe: Recipe, tmp_path: Path, workers: int, batch: int
) -> None:
    run(few, tmp_path / "one", recipe)
    run(few, tmp_path / "other", recipe, workers=workers, batch_size=batch)
    found = files_of(tmp_path / "one")
    assert found == files_of(tmp_path / "other") and len(found) == 9


def test_what_a_stopped_run_has_cut_is_kept(
    few: Path, recipe: Recipe, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(few, tmp_path / "whole", recipe)
    monkeypatch.setattr(embed, "KEEP", 8)
    monkeypatch.setattr(embed, "KEEP_SECONDS", 1e-9)  # a photo at a time
    asked.clear()
    table = embed._table

    def stopped(rows: Any) -> Any:
        if len(asked) > 4:
            raise KeyboardInterrupt
        return table(rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embed, "_table", stopped)
        run(few, tmp_path / "out", recipe)
    asked.clear()
    run(few, tmp_path / "out", recipe)
    assert len(asked) == 4 and files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_lost_and_stale_crops(few: Path, recipe: Recipe, tmp_path: Path, asked: list[str]) -> None:
    out = tmp_path / "out"
    run(few, out, recipe)
    before, photos = files_of(out), sorted(few.iterdir())
    crop = out / CROPS / images.png_name(photos[2].name)
    for damage in (crop.unlink, lambda: crop.write_bytes(b"damage")):
        damage()
        asked.clear()
        run(few, out, recipe)
        assert asked == [photos[2].name] and files_of(out) == before
    asked.clear()
    run(few, out, recipe)
    assert asked == [], "what did not change is not decoded again"
    photos[2].unlink()
    (out / CROPS / "stale").mkdir()
    (out / CROPS / "stale" / "x.png").touch()
    run(few, out, recipe)
    assert not crop.exists() and not (out / CROPS / "stale").exists() and asked == []
    kept = files_of(out / CROPS)
    assert len(kept) == 7
    run(few, out, replace(recipe, crop_format="webp"))
    assert {Path(name).suffix for name in files_of(out / CROPS)} == {".webp"}
    first = sorted((out / CROPS).glob("*.webp"))[0]
    assert (images.read(first) == images.decode(kept[images.png_name(first.name)])).all()
    run(few, out, replace(recipe, crop="off"))
    assert not (out / CROPS).exists() and store.recorded_images(out) == few.resolve()


def test_nobody_elses_pictures_are_touched(few: Path, recipe: Recipe, tmp_path: Path) -> None:
    theirs = tmp_path / "out" / CROPS / "mine.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UserError, match="give --out another folder"):
        run(few, tmp_path / "out", recipe)
    run(few, tmp_path / "out", replace(recipe, crop="off"))
    assert theirs.read_bytes() == b"theirs"
    run(few, tmp_path / "good", recipe)
    with pytest.raises(UserError, match="holds the crops of"):
        run(tmp_path / "good" / CROPS, tmp_path / "good", recipe)


def test_what_was_settled_stays(few: Path, drawn: Path, recipe: Recipe, tmp_path: Path) -> None:
    """Photographs that come must not turn crops into photos and rename all: `auto` is asked once."""
    out = tmp_path / "out"
    run(few, out, recipe)
    for number, path in enumerate(sorted((drawn / "photos").iterdir())[:40]):
        shutil.copy(path, few / f"square{number}.png")
    for path in sorted(few.glob("*.jpg")):
        path.unlink()
    assert run(few, out, recipe).notes["framing"]["crop"]
    assert not run(few, tmp_path / "anew", recipe).notes["framing"]["crop"]


def test_small_and_cut_faces_are_references_only(
    dataset: Path, wide: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "mine"
    shutil.copytree(dataset, out)
    chosen = load_recipe(str(out / "receipts/recipe.toml"))
    eyes = sorted(row["eyes"] for row in rows_of(out))
    build_refs(wide, out, replace(chosen, min_eyes=eyes[20]), device="cpu")
    assert asked == [], "a crop is judged by its row"
    small = {row["image"] for row in rows_of(out) if row["eyes"] < eyes[20]}
    reasons = crops.barred(out)
    assert set(reasons) == small and all("px between the eyes" in reason for reason in reasons.values())
    targets, references = set(), set()
    for split in ("train", "val", "test"):
        for target, row in lists.read_references(out / f"reference_mapping/{split}_references.csv").items():
            targets.add(target)
            references |= set(row)
    assert targets and not targets & small and references & small
    run(wide, out, replace(chosen, max_padding=0.0))
    padded = {row["image"] for row in rows_of(out) if row["padding"] > 0}
    assert set(crops.barred(out)) == padded and store.read_receipt(out, "embed").notes["barred"] == len(
        padded
    )


def test_people_are_known_by_the_names_of_their_photographs(
    dataset: Path, wide: Path, tmp_path: Path
) -> None:
    out, people = tmp_path / "mine", tmp_path / "people.csv"
    shutil.copytree(dataset, out)
    names = sorted(path.relative_to(wide).as_posix() for path in wide.rglob("*.*"))
    people.write_text("image,identity\n" + "".join(f"{n},p{i % 4}\n" for i, n in enumerate(names)))
    cli("cluster", out, "--identities", people)
    found = tables.read_by_image(tables.path_of(out, "identities"), tables.IDENTITIES, tables.IDENTITY)
    assert found == {images.png_name(name): f"p{at % 4}" for at, name in enumerate(names)}


def test_a_large_face_has_1024_px_and_a_small_one_512(
    few: Path, known: list[Known], recipe: Recipe, tmp_path: Path
) -> None:
    large = images.resize(images.read(known[0].path), 1400, 1300)
    images.write(few / "large.png", large)
    run(few, tmp_path / "out", replace(recipe, crop_size=1024))
    sizes = {row["image"]: row["width"] for row in rows_of(tmp_path / "out")}
    assert sizes.pop("large.png") == 1024 and set(sizes.values()) == {512}
    assert store.recorded_images(tmp_path / "out").name == "images1024x1024"


def test_every_face_can_be_framed(few: Path, recipe: Recipe, tmp_path: Path) -> None:
    run(few, tmp_path / "out", replace(recipe, faces="all", crop="on"))
    first = sorted(few.iterdir())[0].name
    assert images.read(tmp_path / "out" / CROPS / first / "001.png").shape == (512, 512, 3)
    assert rows_of(tmp_path / "out")[0]["photo"] == first


def test_a_dry_run_knows_of_crops_and_writes_nothing(few: Path, recipe: Recipe, tmp_path: Path) -> None:
    plain = estimate(few, tmp_path / "out", replace(recipe, crop="off"), device="cpu", workers=1)
    cut = estimate(few, tmp_path / "out", recipe, device="cpu", workers=1)
    assert cut.photos == plain.photos == 8 and cut.bytes > plain.bytes + 8 * 100_000
    assert not (tmp_path / "out").exists()


def test_options_that_do_not_go_together(few: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--crop on needs"):
        run(few, tmp_path / "out", replace(recipe, align="crop", crop="on"))
    with pytest.raises(ValueError, match="512 or 1024"):
        replace(recipe, crop_size=600)


def test_skipped_files_are_counted_by_suffix(few: Path, recipe: Recipe, tmp_path: Path) -> None:
    for name in ("a.txt", "b.TXT", "clip.mov", "README", ".hidden"):
        (few / name).touch()
    receipt = run(few, tmp_path / "out", recipe)
    assert receipt.notes["skipped"] == {"": 1, ".mov": 1, ".txt": 2}


def test_tight_crops_become_a_published_dataset(
    photographs: list[Known], real_detector: Path, real_embedder: Path, tmp_path: Path
) -> None:
    """Real faces, cut so tightly that half of FFHQ's frame lies outside: JPEGs that are not square."""
    people: dict[str, list[Path]] = {}
    for photo in photographs:
        if photo.set == "facescrub":
            people.setdefault(photo.person, []).append(photo.path)
    for number, paths in enumerate([paths for paths in people.values() if len(paths) >= 4][:4]):
        for path in paths[:4]:
            (tmp_path / "photos" / str(number)).mkdir(parents=True, exist_ok=True)
            os.symlink(path, tmp_path / "photos" / str(number) / path.name)
    chosen = load_recipe(
        "photos",
        detector=str(real_detector),
        embedder=str(real_embedder),
        val_identities=1,
        test_identities=1,
    )
    build_refs(tmp_path / "photos", tmp_path / "mine", chosen, device="cpu")
    assert len(assert_published_shape(tmp_path / "mine")) == 16
    assert all(0.3 < row["padding"] < 0.65 for row in rows_of(tmp_path / "mine"))
