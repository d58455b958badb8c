"""ffhqref degrade: the core's properties, the stage's files, bad input, kills."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from threadpoolctl import threadpool_limits
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, journal, lists, store, tables
from ffhqref.core.store import UserError
from ffhqref.degrade import draws, operators, stage
from ffhqref.degrade.levels import Level, load_level
from ffhqref.degrade.operators import Degradation
from tests.degrade import plain

SHIPPED = ("moderate", "severe", "train", "gfpgan", "codeformer", "faceme")


def picture(seed: int, height: int = 64, width: int = 64) -> images.Rgb:
    """Smooth patches with grain: something that every stage changes."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(0, 255, (4, 4, 3)).astype(np.float32)
    smooth = cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(8):
        images.write(folder / "some" / f"{number}.png", picture(number))
    return folder


def contents(out: Path) -> dict[str, str]:
    """Digest of every file that must be the same however it was made."""
    files = [
        path for path in out.rglob("*") if path.is_file() and path.suffix in (".png", ".webp", ".parquet")
    ]
    return {path.relative_to(out).as_posix(): store.digest_file(path) for path in sorted(files)}


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tables.read(out / stage.TABLE, tables.DEGRADATIONS).to_pylist()
    return found


def cli(*arguments: object) -> str:
    """Run the command; its output, after a check that it went well."""
    result = CliRunner().invoke(app, ["degrade", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    """Run the command; the one sentence with which it refuses."""
    result = CliRunner().invoke(app, ["degrade", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    return result.output.strip()


# ---- the core ------------------------------------------------------------------------------------


def published(image: images.Rgb, drawn: Degradation, unit: operators.Noise | None = None) -> images.Rgb:
    """The published procedure, a line a step."""
    height, width = image.shape[:2]
    bgr = cv2.filter2D(image[:, :, ::-1] / 255.0, -1, operators.kernel_of(drawn))
    small_height, small_width = operators.small_size(height, width, drawn.scale)
    bgr = cv2.resize(bgr, (small_width, small_height), interpolation=cv2.INTER_LINEAR)
    unit = operators.draw_noise(drawn.seed, bgr.shape) if unit is None else unit
    bgr = np.clip(bgr + unit * drawn.noise / 255.0, 0, 1)
    flags = [cv2.IMWRITE_JPEG_QUALITY, drawn.quality]
    _, data = cv2.imencode(".jpg", (bgr * 255.0).round().astype(np.uint8), flags)
    back = np.float32(cv2.imdecode(data, cv2.IMREAD_COLOR)) / 255.0
    back = cv2.resize(back, (width, height), interpolation=cv2.INTER_LINEAR)
    rgb = cv2.cvtColor(back, cv2.COLOR_BGR2RGB)
    return np.clip((rgb * 255.0).round(), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("level", SHIPPED)
@pytest.mark.parametrize(("height", "width"), [(96, 96), (70, 131)])
def test_the_short_cut_changes_no_byte(level: str, height: int, width: int) -> None:
    for number in range(12):
        image = picture(number, height, width)
        drawn = operators.draw_degradation(load_level(level), 0, str(number))
        np.testing.assert_array_equal(operators.apply(image, drawn), published(image, drawn))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (5, 3), (22, 40)])
def test_pictures_smaller_than_the_kernel(height: int, width: int) -> None:
    for number in range(6):
        drawn = operators.draw_degradation(load_level("faceme"), 1, str(number))
        image = picture(number, height, width)
        short = plain.ours(image, drawn)
        blurred = plain.blur(plain.to_bgr(image), operators.kernel_of(drawn))
        np.testing.assert_allclose(short, plain.downscale(blurred, drawn.scale), rtol=0, atol=1e-9)
        assert operators.apply(image, drawn).shape == image.shape


def test_no_blur_and_scale_one_leave_the_picture_to_the_jpeg() -> None:
    image = picture(1)
    for kernel in ("iso", "aniso"):
        drawn = Degradation(kernel=kernel, sigma_x=0, sigma_y=0, theta=1, scale=1, noise=0, quality=100)
        np.testing.assert_array_equal(plain.ours(image, drawn), image[:, :, ::-1] / 255.0)
        kernel_sum = operators.kernel_of(drawn)
        assert kernel_sum.sum() == 1 and kernel_sum[20, 20] == 1


def test_results_do_not_depend_on_threads() -> None:
    """The levels before the JPEG, which might hide one, and the finished picture: the same bytes.

    That is all that is promised. The float sums before are not compared: a library may add in another
    order with other threads, and what is near the middle of two levels is decided in float64.
    """
    image, level, made = picture(3, 512, 512), load_level("train"), []
    drawn = [operators.draw_degradation(level, 2, str(n)) for n in range(12)]
    sizes = [operators.small_size(512, 512, one.scale) for one in drawn]
    noise = [operators.draw_noise(one.seed, (*size, 3)) for one, size in zip(drawn, sizes, strict=True)]
    before = cv2.getNumThreads()
    for blas, opencv in [(1, 1), (2, 4), (4, 0)]:
        cv2.setNumThreads(opencv)
        with threadpool_limits(blas, user_api="blas"):
            made.append([operators.apply(image, one).tobytes() for one in drawn])
            levels = [operators.small_levels(image, *both) for both in zip(drawn, noise, strict=True)]
            made[-1] += [one.tobytes() for one in levels]
    cv2.setNumThreads(before)
    assert made[0] == made[1] == made[2]


def test_a_sample_depends_on_its_four_and_lies_in_its_ranges() -> None:
    level = load_level("gfpgan")
    drawn = [operators.draw_degradation(level, 7, f"{n}.png") for n in range(600)]
    assert drawn == [operators.draw_degradation(level, 7, f"{n}.png") for n in range(600)]
    for key in ("sigma_x", "sigma_y"):
        values = [getattr(one, key) for one in drawn]
        assert 0.1 <= min(values) < 0.4 and 9.6 < max(values) <= 10
    assert 0.8 <= min(one.scale for one in drawn) < 1 and max(one.scale for one in drawn) > 7.8
    assert {one.quality for one in drawn} == set(range(60, 100))
    assert 240 < sum(one.kernel == "iso" for one in drawn) < 360  # 5 standard deviations about a half
    assert all(one.sigma_x == one.sigma_y and one.theta == 0 for one in drawn if one.kernel == "iso")
    turned = [one.theta for one in drawn if one.kernel == "aniso"]
    assert -np.pi <= min(turned) < -3 and 3 < max(turned) <= np.pi
    others = [
        operators.draw_degradation(level, 8, "0.png"), operators.draw_degradation(level, 7, "0.jpg"),
        operators.draw_degradation(level, 7, "0.png", copy=1),
        operators.draw_degradation(replace(level, name="b"), 7, "0.png"),
    ]  # fmt: skip
    assert len({one.seed for one in [*drawn, *others]}) == 604
    assert len({one.scale for one in [drawn[0], *others]}) == 5


def test_the_draw_of_a_name_stays_what_it_is() -> None:
    """Frozen: a dataset that was degraded once must come out the same with every later version."""
    drawn = operators.draw_degradation(load_level("severe"), 0, "00001.png")
    low = operators.apply(picture(0), drawn)
    seen = json.dumps(
        [drawn.kernel, round(drawn.sigma_x, 9), round(drawn.scale, 9), drawn.quality, drawn.seed]
    )
    assert seen == FROZEN_DRAW
    assert np.round(low.reshape(-1, 3).mean(0)).tolist() == FROZEN_MEAN


FROZEN_DRAW = '["iso", 15.435324556, 23.046192403, 55, 3982011297770747509]'
FROZEN_MEAN = [127.0, 146.0, 118.0]


def test_the_sampler_is_for_worker_processes() -> None:
    sampler = pickle.loads(pickle.dumps(operators.sampler("train", seed=3)))
    image = picture(5)
    low = sampler(image, "a.png", 4)
    drawn = operators.draw_degradation(load_level("train"), 3, "a.png", 4)
    np.testing.assert_array_equal(low, published(image, drawn))  # as whole pictures, in float64
    assert low.dtype == np.uint8 and low.shape == image.shape
    assert (low != sampler(image, "a.png", 5)).any() and (low != sampler(image, "b.png", 4)).any()


def test_a_picture_of_another_kind_is_refused() -> None:
    drawn = operators.draw_degradation(load_level("train"), 0, "a")
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((8, 0, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 picture"):
            operators.apply(wrong, drawn)  # type: ignore[arg-type]


def test_replay_is_the_published_loop_over_the_rows() -> None:
    """The oracle: both global generators seeded once, one picture after another."""
    level, pictures = load_level("severe"), [picture(n) for n in range(9)]
    random.seed(2024)
    np.random.seed(2024)
    for image, step in zip(pictures, operators.replay(level, 64, 64), strict=False):
        kind = random.choices(["iso", "aniso"], [0.5, 0.5])[0]
        sigma_x = np.random.uniform(*level.sigma)
        sigma_y, theta = sigma_x, 0.0
        if kind == "aniso":
            sigma_y, theta = np.random.uniform(*level.sigma), np.random.uniform(-np.pi, np.pi)
        scale, noise = np.random.uniform(*level.scale), np.random.uniform(*level.noise)
        np.random.uniform()
        unit = np.float32(np.random.randn(int(64 // scale), int(64 // scale), 3))
        quality = int(np.random.uniform(*level.quality))
        drawn = Degradation(
            kernel=kind, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, scale=scale, noise=noise,
            quality=quality, seed=2024,
        )  # fmt: skip
        assert step.degradation == drawn
        np.testing.assert_array_equal(
            operators.apply(image, drawn, step.noise()), published(image, drawn, unit)
        )


# ---- levels --------------------------------------------------------------------------------------


def test_the_shipped_levels_are_the_published_ranges() -> None:
    moderate, severe, train = (load_level(name) for name in ("moderate", "severe", "train"))
    assert (moderate.sigma, moderate.scale, moderate.noise, moderate.quality) == (
        (0, 8),
        (1, 8),
        (0, 15),
        (60, 100),
    )
    assert (severe.sigma, severe.scale, severe.noise, severe.quality) == (
        (8, 16),
        (8, 32),
        (0, 20),
        (30, 100),
    )
    assert (train.sigma, train.scale, train.noise, train.quality) == ((0, 16), (1, 32), (0, 20), (30, 100))
    assert {load_level(name).isotropic for name in SHIPPED} == {0.5}
    assert load_level("gfpgan").scale == (0.8, 8)


GOOD = {"sigma": "[0, 2]", "scale": "[1, 2]", "noise": "[0, 5]", "quality": "[50, 90]"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sigma": "[-1, 2]"}, "sigma is [-1, 2]: it must lie from 0 to 1000"),
        ({"sigma": "[3, 2]"}, "sigma is [3, 2], which is reversed"),
        ({"sigma": "[0, nan]"}, "sigma"),
        ({"sigma": "[0, inf]"}, "sigma"),
        ({"scale": "[0.5, 2]"}, "enlarge = true"),
        ({"scale": "[0.1, 2]", "enlarge": "true"}, "from 0.25"),
        ({"noise": "[0, 300]"}, "noise is [0, 300]: it must lie from 0 to 255"),
        ({"quality": "[50, 101]"}, "quality is [50, 101]: it must lie from 1 to 100"),
        ({"quality": "[0, 50]"}, "quality"),
        ({"quality": "50"}, "quality is 50"),
        ({"isotropic": "1.5"}, "isotropic must be a share"),
        ({"blurriness": "3"}, "unknown key 'blurriness'"),
        ({"name": '"../x"'}, "may have only letters"),
        ({"sigma": None}, "missing"),
    ],
)
def test_a_level_that_makes_no_sense_is_refused(
    change: dict[str, str | None], said: str, photos: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    keys = {key: value for key, value in (GOOD | change).items() if value is not None}
    file.write_text("".join(f"{key} = {value}\n" for key, value in keys.items()))
    sentence = refused("--level", file, "--images", photos, "--out", tmp_path / "lq")
    assert sentence.startswith("Error: ") and str(file) in sentence and said in sentence
    assert "\n" not in sentence
    assert not (tmp_path / "lq").exists()


def test_levels_of_ones_own(tmp_path: Path) -> None:
    body = "".join(f"{key} = {value}\n" for key, value in GOOD.items())
    (tmp_path / "mild.toml").write_text(body)
    (tmp_path / "one.toml").write_text(f"[soft]\n{body}")
    (tmp_path / "two.toml").write_text(f"[soft]\n{body}isotropic = 1\n[hard]\n{body}")
    mild = load_level(str(tmp_path / "mild.toml"))
    assert mild == Level(name="mild", sigma=(0, 2), scale=(1, 2), noise=(0, 5), quality=(50, 90))
    assert load_level(str(tmp_path / "one.toml")).name == "soft"
    assert load_level(f"{tmp_path / 'two.toml'}:soft").isotropic == 1
    with pytest.raises(UserError, match="holds the levels soft, hard"):
        load_level(str(tmp_path / "two.toml"))
    with pytest.raises(UserError, match="no level 'none'"):
        load_level("none")


# ---- a plain folder ------------------------------------------------------------------------------


def test_a_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "lq"
    said = cli("--level", "severe", "--images", photos, "--out", out, "--size", 48, "--seed", 5)
    assert said.startswith(f"8 severe images are in {out}") and "Next: ffhqref restore" in said
    found = rows(out)
    assert [row["image"] for row in found] == [f"some/{n}.png" for n in range(8)]
    for row in found:
        low = images.read(out / row["lq_image"])
        clean = draws_fit(photos / row["image"], 48)
        drawn = operators.draw_degradation(load_level("severe"), 5, row["image"])
        np.testing.assert_array_equal(low, operators.apply(clean, drawn))
        assert (row["kernel"], row["sigma_x"], row["quality"]) == (drawn.kernel, drawn.sigma_x, drawn.quality)
        assert (row["level"], row["status"], row["width"], row["height"]) == ("severe", "ok", 48, 48)


def draws_fit(path: Path, size: int) -> images.Rgb:
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


def test_workers_subsets_and_order_change_no_byte(photos: Path, tmp_path: Path) -> None:
    for name, options in [("one", {"workers": 1}), ("four", {"workers": 4})]:
        stage.degrade_folder(
            load_level("train"), photos, tmp_path / name, options=draws.DegradeOptions(size=48, **options)
        )
    assert contents(tmp_path / "one") == contents(tmp_path / "four")
    some = ["some/6.png", "some/2.png"]
    stage.degrade_folder(
        load_level("train"), photos, tmp_path / "some", names=some, options=draws.DegradeOptions(size=48)
    )
    for name in some:
        assert (tmp_path / "some" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(rows(tmp_path / "some")) == 2


def test_a_second_run_makes_nothing_and_a_damaged_file_again(photos: Path, tmp_path: Path) -> None:
    out, level = tmp_path / "lq", load_level("moderate")
    first = stage.degrade_folder(level, photos, out, options=draws.DegradeOptions(size=48))
    before = contents(out)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    again = stage.degrade_folder(level, photos, out, options=draws.DegradeOptions(size=48, workers=3))
    assert again.outputs == first.outputs and {path: path.stat().st_mtime_ns for path in times} == times
    (out / "some" / "3.png").write_bytes(b"gone")
    (out / "some" / "4.png").unlink()
    stage.degrade_folder(level, photos, out, options=draws.DegradeOptions(size=48))
    assert contents(out) == before
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert changed == {"3.png", "4.png"}


def test_a_changed_target_and_a_changed_seed_are_made_again(photos: Path, tmp_path: Path) -> None:
    out, level, options = tmp_path / "lq", load_level("moderate"), draws.DegradeOptions(size=48)
    stage.degrade_folder(level, photos, out, options=options)
    before = contents(out)
    images.write(photos / "some" / "3.png", picture(77))
    stage.degrade_folder(level, photos, out, options=options)
    after = contents(out)
    assert {name for name in before if before[name] != after[name]} == {"some/3.png"}
    stage.degrade_folder(level, photos, out, options=replace(options, seed=1))
    assert all(contents(out)[name] != digest for name, digest in after.items())


def test_runs_of_lists_add_up_and_a_new_level_replaces(photos: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "lq", draws.DegradeOptions(size=48)
    for names in (["some/1.png"], ["some/2.png", "some/0.png"]):
        stage.degrade_folder(load_level("moderate"), photos, out, names=names, options=options)
    assert [row["image"] for row in rows(out)] == [f"some/{n}.png" for n in range(3)]
    stage.degrade_folder(load_level("severe"), photos, out, names=["some/2.png"], options=options)
    assert [row["level"] for row in rows(out)] == ["moderate", "moderate", "severe"]


def test_a_run_of_another_list_does_not_forget_the_first(photos: Path, tmp_path: Path) -> None:
    out, level, options = tmp_path / "lq", load_level("train"), draws.DegradeOptions(size=32)
    first, second = [f"some/{n}.png" for n in range(3)], [f"some/{n}.png" for n in range(3, 6)]
    stage.degrade_folder(level, photos, out, names=first, options=options)
    times = {name: (out / name).stat().st_mtime_ns for name in first}
    stage.degrade_folder(level, photos, out, names=second, options=options)
    stage.degrade_folder(level, photos, out, names=first, options=options)
    assert {name: (out / name).stat().st_mtime_ns for name in first} == times


def test_lists(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some/1.png\n\nsome/0.png\nsome/1.png\n")
    (tmp_path / "b.csv").write_text("gt_image,ref_image\nsome/5.png,[]\n")
    (tmp_path / "c.csv").write_text("image,x\nsome/4.png,1\n")
    assert [draws.read_names(tmp_path / name) for name in ("a.txt", "b.csv", "c.csv")] == [
        ["some/1.png", "some/0.png"], ["some/5.png"], ["some/4.png"],
    ]  # fmt: skip
    (tmp_path / "empty.txt").write_text("\n")
    assert "names no image" in refused(
        "--level", "train", "--images", photos, "--out", tmp_path / "lq", "--list", tmp_path / "empty.txt"
    )


def test_copies_webp_and_filters(photos: Path, tmp_path: Path) -> None:
    common = ["--level", "moderate", "--images", photos, "--size", 48]
    cli(*common, "--out", tmp_path / "png", "--copies", 2)
    cli(*common, "--out", tmp_path / "webp", "--copies", 2, "--format", "webp")
    assert len(rows(tmp_path / "png")) == 16 and {row["copy"] for row in rows(tmp_path / "png")} == {0, 1}
    first, second = (images.read(tmp_path / f"png/copy-{n}/some/0.png") for n in (0, 1))
    assert (first != second).any()
    np.testing.assert_array_equal(images.read(tmp_path / "webp/copy-1/some/0.webp"), second)
    made = {}
    for name in ("bicubic", "lanczos", "area", "bilinear"):
        cli(*common, "--out", tmp_path / name, "--filter", name)
        made[name] = (tmp_path / name / "some/0.png").read_bytes()
    assert len(set(made.values())) == 4
    assert (images.read(tmp_path / "bicubic/some/0.png") == first).all()  # copy 0 is the only one
    for options, wanted in ((["--filter", "area"], "area"), ([], "bicubic")):
        cli(*common, "--out", tmp_path / "lanczos", *options)
        assert (tmp_path / "lanczos/some/0.png").read_bytes() == made[wanted], (
            "another filter is another file"
        )


@pytest.mark.parametrize("copies", [1, 3])
def test_from_table_makes_the_same_again(copies: int, photos: Path, tmp_path: Path) -> None:
    common = ["--level", "train", "--images", photos, "--size", 48]
    cli(*common, "--out", tmp_path / "a", "--seed", 9, "--copies", copies)
    table = tmp_path / "a" / stage.TABLE
    if copies == 1:
        cli(*common, "--out", tmp_path / "b", "--from-table", table)
        assert contents(tmp_path / "b") == contents(tmp_path / "a")
    else:
        cli(*common, "--out", tmp_path / "b", "--from-table", table)
        for copy in range(copies):
            name = f"copy-{copy}/some/3.png"
            there = tmp_path / "b" / (name if copy else "some/3.png")
            assert there.read_bytes() == (tmp_path / "a" / name).read_bytes()
    assert "--size 48" in refused(
        "--level", "train", "--images", photos, "--out", tmp_path / "c", "--from-table", table
    )
    assert "no severe row" in refused(
        "--level", "severe", "--images", photos, "--out", tmp_path / "c", "--from-table", table
    )


def test_a_damaged_table_is_refused(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a"
    stage.degrade_folder(load_level("train"), photos, out, options=draws.DegradeOptions(size=48))
    good = rows(out)
    for key, value in [("scale", 1e-9), ("quality", 700), ("sigma_x", float("nan")), ("draw", 2**31 - 1)]:
        bad = [good[0] | {key: value}, *good[1:]]
        tables.write(
            tmp_path / "bad.parquet",
            tables.DEGRADATIONS,
            tables.pa.Table.from_pylist(bad, tables.DEGRADATIONS),
        )
        options = draws.DegradeOptions(size=48, table=tmp_path / "bad.parquet")
        with pytest.raises(UserError, match="bad.parquet is damaged at some/0.png"):
            stage.degrade_folder(load_level("train"), photos, tmp_path / "b", options=options)


# ---- a built dataset -----------------------------------------------------------------------------


def dataset(out: Path, photos: Path, **splits: Sequence[str]) -> Path:
    """The parts of a built dataset that are needed: mappings, and where the photographs are."""
    for split, names in splits.items():
        text = lists.reference_csv([(name, ["some/0.png"]) for name in names], with_lq=True)
        store.write_text(out / "reference_mapping" / f"{split}_references.csv", text)
    receipt = store.Receipt(stage="embed", revision=1, parameters={}, inputs={})
    store.write_receipt(out, receipt, [], {"images": str(photos.resolve())})
    return out


def test_a_file_has_the_name_that_the_mapping_gives_it(photos: Path, tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", photos, test=["some/1.png", "some/3.png"])
    plain = dataset(tmp_path / "plain", photos, test=["some/1.png", "some/3.png"])
    mapping = out / "reference_mapping" / "test_references.csv"
    mapping.write_text(mapping.read_text().replace("some/1.png,some/1.png", "some/1.png,a_lq.png"))
    for place in (out, plain):
        cli(place, "--level", "severe", "--size", 48)
    low, same = (place / "test_images" / "severe_degrad" for place in (out, plain))
    assert {path.relative_to(low).as_posix() for path in low.rglob("*.png")} == {"a_lq.png", "some/3.png"}
    assert (low / "a_lq.png").read_bytes() == (same / "some" / "1.png").read_bytes()
    mapping.write_text(mapping.read_text().replace("a_lq.png", "some/3.png"))
    assert "two targets have one lq_image" in refused(out, "--level", "severe", "--size", 48)
    mapping.write_text(mapping.read_text().replace("some/1.png,some/3.png", "some/1.png,../../a.png"))
    assert "names must be relative" in refused(out, "--level", "severe", "--size", 48)


def test_a_dataset(photos: Path, tmp_path: Path) -> None:
    names = [f"some/{n}.png" for n in (5, 1, 3)]
    out = dataset(tmp_path / "out", photos, test=names, val=["some/7.png"])
    sheet = tmp_path / "look.png"
    said = cli(out, "--level", "severe", "--level", "moderate", "--size", 48, "--sheet", sheet)
    assert f"3 severe images are in {out}/test_images/severe_degrad" in said
    assert f"Next: ffhqref restore {out} --level moderate" in said
    for level in ("severe", "moderate"):
        there = sorted(path.name for path in (out / "test_images" / f"{level}_degrad").rglob("*.png"))
        assert there == ["1.png", "3.png", "5.png"]
    cli(out, "--level", "severe", "--split", "val", "--size", 48)
    assert (out / "val_images" / "severe_degrad" / "some" / "7.png").is_file()
    assert len(rows(out)) == 7
    assert [row["image"] for row in rows(out)] == sorted(row["image"] for row in rows(out))
    height, width, _ = images.read(sheet).shape
    assert width > 3 * 320 and height > 3 * 320


def test_a_target_that_left_the_mapping_takes_its_file_along(photos: Path, tmp_path: Path) -> None:
    out = dataset(tmp_path / "out", photos, test=["some/1.png", "some/2.png", "some/3.png"])
    cli(out, "--level", "severe", "--size", 48)
    folder = out / "test_images" / "severe_degrad" / "some"
    (folder / "2.png").write_bytes(b"somebody's own")
    dataset(out, photos, test=["some/1.png"])
    cli(out, "--level", "severe", "--size", 48)
    assert sorted(path.name for path in folder.iterdir()) == ["1.png", "2.png"]  # not ours any more: kept
    assert [row["image"] for row in rows(out)] == ["some/1.png"]


def test_replay_follows_the_rows_and_can_be_made_again_from_the_table(photos: Path, tmp_path: Path) -> None:
    names = [f"some/{n}.png" for n in (6, 2, 4, 0)]
    out = dataset(tmp_path / "out", photos, test=names)
    cli(out, "--level", "severe", "--level", "moderate", "--size", 64, "--replay-published")
    for level in ("severe", "moderate"):
        steps = operators.replay(load_level(level), 64, 64)
        for name, step in zip(names, steps, strict=False):
            low = images.read(out / f"test_images/{level}_degrad" / name)
            np.testing.assert_array_equal(
                low, published(images.read(photos / name), step.degradation, step.noise())
            )
    table = tmp_path / "kept.parquet"
    table.write_bytes((out / stage.TABLE).read_bytes())
    again = dataset(tmp_path / "again", photos, test=names)
    for level in ("severe", "moderate"):
        cli(again, "--level", level, "--size", 64, "--from-table", table)
    assert contents(again) == contents(out)
    (tmp_path / "severe.toml").write_text("[severe]\n" + "".join(f"{k} = {v}\n" for k, v in GOOD.items()))
    said = refused(again, "--level", tmp_path / "severe.toml", "--size", 64, "--from-table", table)
    assert "other ranges" in said


# ---- bad input -----------------------------------------------------------------------------------


def test_bad_pictures_are_recorded_and_the_run_goes_on(photos: Path, tmp_path: Path) -> None:
    (photos / "text.png").write_text("no picture")
    (photos / "cut.png").write_bytes((photos / "some" / "0.png").read_bytes()[:900])
    header = b"IHDR" + (20000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    chunk = b"\0\0\0\r" + header + zlib.crc32(header).to_bytes(4, "big")
    (photos / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    images.write(photos / "same.png", picture(1))
    images.write(photos / "same.jpg", picture(2))
    images.write(photos / "wide.png", picture(3, 40, 90))
    images.write(photos / "dot.png", picture(3, 1, 1))
    Image.fromarray(picture(4)).convert("L").save(photos / "grey one, 'quoted'.png")
    Image.fromarray(picture(4)).convert("CMYK").save(photos / "cmyk ü.jpg")
    out = tmp_path / "lq"
    base = ("--level", "severe", "--images", photos, "--out", out, "--size", 48)
    assert "wide.png has 90x40 px" in refused(*base)
    said = cli(*base, "--squeeze")
    statuses = {row["image"]: row["status"] for row in rows(out) if row["status"] != "ok"}
    assert statuses == {
        "cut.png": "unreadable", "huge.png": "too_large", "same.jpg": "bad_name",
        "text.png": "unreadable",
    }  # fmt: skip
    assert all(row["reason"] for row in rows(out) if row["status"] != "ok")
    assert "13 severe images" in said and "2 unreadable" in said and "1 not square" in said
    made = {path.relative_to(out).as_posix() for path in out.rglob("*.png")}
    assert made == {row["lq_image"] for row in rows(out) if row["status"] == "ok"}
    assert cli("--level", "severe", "--images", photos, "--out", out, "--size", 48) == said


def test_a_target_that_became_bad_takes_its_file_along(photos: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "lq", draws.DegradeOptions(size=48)
    stage.degrade_folder(load_level("severe"), photos, out, options=options)
    (photos / "some" / "3.png").write_text("no picture")
    stage.degrade_folder(load_level("severe"), photos, out, options=options)
    assert not (out / "some" / "3.png").exists()
    assert [row["status"] for row in rows(out)].count("unreadable") == 1


def test_names_that_are_missing_clash_or_leave_the_folder(photos: Path, tmp_path: Path) -> None:
    images.write(photos / "a.jpg", picture(1))
    images.write(photos / "a.png", picture(2))
    out, options, level = tmp_path / "lq", draws.DegradeOptions(size=48), load_level("train")
    names = ["some/1.png", "gone.png", "a.jpg", "a.png"]
    stage.degrade_folder(level, photos, out, names=names, options=options)
    assert {row["image"]: row["status"] for row in rows(out)} == {
        "some/1.png": "ok", "gone.png": "missing", "a.jpg": "bad_name", "a.png": "bad_name",
    }  # fmt: skip
    for name in ("../photos/a.png", "/etc/passwd"):
        with pytest.raises(UserError, match="is not a path below"):
            stage.degrade_folder(level, photos, out, names=[name], options=options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--level", "severe"], "Give a built dataset, or --images and --out"),
        (["--level", "severe", "--out", "{tmp}/o"], "Give --images"),
        (["--images", "{photos}", "--out", "{tmp}/o"], "Give --level"),
        (["--level", "nothing", "--images", "{photos}", "--out", "{tmp}/o"], "no level 'nothing'"),
        (["--level", "severe", "--images", "{tmp}/no", "--out", "{tmp}/o"], "is not a folder"),
        (["--level", "severe", "--images", "{tmp}/empty", "--out", "{tmp}/o"], "holds no PNG"),
        (["--level", "severe", "--images", "{photos}", "--out", "{photos}"], "lies in the folder"),
        (["--level", "severe", "--images", "{photos}", "--out", "{photos}/lq"], "lies in the folder"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/file"], "is a file"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/o", "--size", "0"], "--size"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/o", "--copies", "0"], "--copies"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/o", "--workers", "0"], "--workers"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/o", "--sheet", "a.gif"], "in .png"),
        (["--level", "severe", "--images", "{photos}", "--out", "{tmp}/o", "--from-table", "no"], "table no"),
        (["{tmp}/empty", "--level", "severe"], "test_references.csv: give a built dataset"),
        (["{tmp}/empty", "--level", "severe", "--out", "{tmp}/o"], "not both"),
        (["{tmp}/set", "--level", "severe"], "give --images with their folder"),
        (["{tmp}/set", "--level", "severe", "--images", "{photos}", "--copies", "2"], "one PNG a target"),
        (["{tmp}/set", "--level", "severe", "--images", "{tmp}/empty"], "No image could be degraded"),
        (["--level", "severe", "--level", "severe", "--images", "{photos}", "--out", "{tmp}/o"], "one name"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    arguments: list[str], said: str, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    text = lists.reference_csv([("some/1.png", [])], with_lq=True)
    store.write_text(tmp_path / "set" / "reference_mapping" / "test_references.csv", text)
    sentence = refused(*(part.format(tmp=tmp_path, photos=photos) for part in arguments))
    assert sentence.startswith("Error: ") and said in sentence and "\n" not in sentence
    assert sorted(path.name for path in (photos / "some").iterdir()) == [f"{n}.png" for n in range(8)]


def test_a_folder_that_another_process_writes_is_refused(photos: Path, tmp_path: Path) -> None:
    with store.lock(tmp_path / "lq", "degrade elsewhere"), ThreadPoolExecutor(1) as other:
        said = other.submit(
            refused, "--level", "severe", "--images", photos, "--out", tmp_path / "lq"
        ).result()
    assert "is being written by `ffhqref degrade elsewhere`" in said


# ---- kills ---------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9 at a chosen write: nothing may clean up after it."""


def test_a_stop_at_every_write_leaves_nothing_false(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop at each rename of a run in turn; what lies there then must be true, and the end the same."""
    names, level = [f"some/{n}.png" for n in range(4)], load_level("train")
    options = draws.DegradeOptions(size=32, workers=1)
    straight = tmp_path / "straight"
    stage.degrade_folder(load_level("moderate"), photos, straight, names=names, options=options)
    renames = counting(monkeypatch, None)
    stage.degrade_folder(level, photos, straight, names=names, options=options)
    assert renames[0] >= 7
    for stop in range(renames[0]):
        out = tmp_path / f"stopped-{stop}"
        monkeypatch.undo()
        stage.degrade_folder(load_level("moderate"), photos, out, names=names, options=options)
        counting(monkeypatch, stop)
        with pytest.raises(Killed):
            stage.degrade_folder(level, photos, out, names=names, options=options)
        monkeypatch.undo()
        for row in rows(out):  # a row that is there tells the truth of its file
            drawn = operators.draw_degradation(load_level(row["level"]), 0, row["image"])
            wanted = operators.apply(draws_fit(photos / row["image"], 32), drawn)
            np.testing.assert_array_equal(images.read(out / row["lq_image"]), wanted)
        stage.degrade_folder(level, photos, out, names=names, options=options)
        assert contents(out) == contents(straight)


def counting(monkeypatch: pytest.MonkeyPatch, stop: int | None) -> list[int]:
    """Count the renames of finished files; at number `stop`, die in its place."""
    count, rename = [0], os.replace

    def counted(source: Any, target: Any) -> None:
        if count[0] == stop:
            raise Killed
        count[0] += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", counted)
    return count


def test_a_line_that_a_kill_cut_off_counts_for_nothing(photos: Path, tmp_path: Path) -> None:
    out, level, options = tmp_path / "lq", load_level("train"), draws.DegradeOptions(size=32)
    stage.degrade_folder(level, photos, out, options=options)
    before, path = contents(out), out / "receipts" / "degrade.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])
    (out / "receipts" / "degrade.json").unlink()
    assert len(journal.read(path)) == 3
    times = {name: (out / name).stat().st_mtime_ns for name in before if name.endswith(".png")}
    stage.degrade_folder(level, photos, out, options=options)
    kept = [name for name, when in times.items() if (out / name).stat().st_mtime_ns == when]
    assert contents(out) == before and len(kept) == 3 and len(journal.read(path)) == 8


def killed_run(command: list[str], after: float) -> bool:
    """Start a command and kill -9 it after some seconds; whether it was still at work."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(after)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return running


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_857_images_at_two_levels_killed_at_any_moment(tmp_path: Path) -> None:
    names = [f"{n:05d}.png" for n in range(857)]
    for number, name in enumerate(names):
        images.write(tmp_path / "photos" / name, picture(number, 128, 128))
    for name in ("straight", "killed"):
        dataset(tmp_path / name, tmp_path / "photos", test=names)
    command = [sys.executable, "-m", "ffhqref", "degrade", "--level", "moderate", "--level", "severe"]
    command += ["--size", "128"]
    start = time.monotonic()
    subprocess.run([*command, str(tmp_path / "straight")], check=True, capture_output=True)
    took = time.monotonic() - start
    rng = random.Random(1)
    killed = sum(
        killed_run([*command, str(tmp_path / "killed")], rng.uniform(0.2, took / 3)) for _ in range(9)
    )
    assert killed >= 3
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    assert len(contents(tmp_path / "killed")) == 2 * 857 + 1


DYING = """
import os, sys
from ffhqref.core import store
left, write = [int(sys.argv[1])], store.write_bytes
def dying(path, data):
    if path.suffix == ".png" and left[0] == 0:
        os.kill(os.getpid(), 9)
    left[0] -= path.suffix == ".png"
    write(path, data)
store.write_bytes = dying
from ffhqref.cli import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def test_killed_twice_and_run_again(photos: Path, tmp_path: Path) -> None:
    """kill -9 from within as the 11th picture is to be written, and at the 21st of the rest."""
    for number in range(8, 60):
        images.write(photos / "more" / f"{number}.png", picture(number, 64, 64))
    out, kept = tmp_path / "lq", {}
    command = ["degrade", "--level", "train", "--images", str(photos), "--size", "64", "--workers", "1"]
    for after, there in ((10, 10), (20, 30)):
        dying = [sys.executable, "-c", DYING, str(after), *command, "--out", str(out)]
        assert subprocess.run(dying, capture_output=True).returncode == -signal.SIGKILL
        assert len(list(out.rglob("*.png"))) == there
        said = journal.read(out / "receipts" / "degrade.jsonl")
        noted = [file for file, made in said.items() if made.sha256]  # the others are claimed, not made
        assert there - 4 <= len(noted) <= there, "at most those in flight are not noted yet"
        kept |= {file: (out / file).stat().st_mtime_ns for file in noted if file not in kept}
    done = CliRunner().invoke(app, [*command, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert {file: (out / file).stat().st_mtime_ns for file in kept} == kept, "what was noted is not redone"
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "straight")])
    assert done.exit_code == 0 and contents(out) == contents(tmp_path / "straight")
    assert len(contents(out)) == 60 + 1


# ---- what others degrade with --------------------------------------------------------------------


@pytest.fixture(scope="session")
def basicsr() -> Any:
    """BasicSR's degradations, with the torchvision name that it looks for and newer versions lack."""
    name = "torchvision.transforms.functional_tensor"
    try:
        __import__(name)
    except ImportError:
        import types

        stub = types.ModuleType(name)
        stub.rgb_to_grayscale = None  # type: ignore[attr-defined]
        sys.modules[name] = stub
    return pytest.importorskip(
        "basicsr.data.degradations", reason="basicsr is not installed (extra `parity`)", exc_type=ImportError
    )


def test_kernels_equal_basicsr(basicsr: Any) -> None:
    for number in range(40):
        drawn = operators.draw_degradation(load_level("train"), 0, str(number))
        theirs = basicsr.bivariate_Gaussian(
            41, drawn.sigma_x, drawn.sigma_y, drawn.theta, isotropic=drawn.kernel == "iso"
        )
        np.testing.assert_allclose(operators.kernel_of(drawn), theirs, rtol=0, atol=1e-10)


def test_noise_equals_basicsr(basicsr: Any) -> None:
    small = plain.to_bgr(picture(1))
    for seed in range(10):
        np.random.seed(seed)
        theirs = basicsr.random_add_gaussian_noise(
            small, sigma_range=(0, 20), clip=True, rounds=False, gray_prob=0
        )
        np.random.seed(seed)
        noise, _ = np.random.uniform(0, 20), np.random.uniform()
        unit = np.float32(np.random.randn(*small.shape))
        np.testing.assert_allclose(operators.add_noise(small, noise, unit), theirs, rtol=0, atol=1e-6)


def test_jpeg_equals_basicsr(basicsr: Any) -> None:
    small = plain.to_bgr(picture(2))
    for quality in (30, 61, 100):
        theirs = basicsr.random_add_jpg_compression(small, (quality, quality))
        np.testing.assert_array_equal(plain.jpeg(small, quality), np.round(theirs * 255))


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="either --replay-published or --from-table"):
        draws.DegradeOptions(replay=True, table=Path("a"))
    with pytest.raises(UserError, match="leave out --copies"):
        draws.DegradeOptions(replay=True, copies=2)
