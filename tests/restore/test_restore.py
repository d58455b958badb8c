"""`ffhqref restore` and `convert`, with tiny networks of the golden weights."""

from __future__ import annotations

import collections
import functools
import json
import os
import pickle
import resource
import shlex
import shutil
import subprocess
import sys
import threading
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.cli.options import _known_checkpoint
from ffhqref.cli.restore import _warn_of_demo
from ffhqref.cli.sampling import FAST as FAST_PRESET
from ffhqref.cli.sampling import Sampling
from ffhqref.core import images, lists, store
from ffhqref.core.store import UserError
from ffhqref.demo import RESTORER
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import Autoencoder
from ffhqref.refldm.model.unet import ReferenceCache, UNet
from ffhqref.refldm.restorer import Restorer, SamplingOptions, explained, resize_bicubic
from ffhqref.restore.align import paste
from ffhqref.restore.reading import READERS
from tests.golden_cases import CASES, config, write_checkpoints
from tests.photographs import Known

FAST = ("--steps", "2")

CONFIG = config()
HEIGHT, WIDTH = CONFIG["image_hw"]


def run(*words: object, code: int = 0) -> str:
    """The command's output; it must end with `code`, and never with a traceback."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def draw(path: Path, seed: int, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A smooth random picture."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    images.write(path, images.resize(small, width, height))
    return path


def toml() -> str:
    stage = CONFIG["model"]["first_stage_config"]["params"]
    inner, unet = stage["ddconfig"], CONFIG["model"]["unet_config"]["params"]
    return f"""
height = {HEIGHT}
width = {WIDTH}
[autoencoder]
channels = {inner["ch"]}
multipliers = {inner["ch_mult"]}
blocks = {inner["num_res_blocks"]}
codes = {stage["n_embed"]}
[unet]
channels = {unet["model_channels"]}
multipliers = {unet["channel_mult"]}
blocks = {unet["num_res_blocks"]}
attention = {unet["attention_resolutions"]}
head_channels = {unet["num_head_channels"]}
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """refldm.ckpt, vqgan.ckpt, tiny.toml, and tiny.safetensors as `convert` writes it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoints(folder)
    (folder / "tiny.toml").write_text(toml())
    said = run("convert", "--checkpoint", folder / "refldm.ckpt", "--architecture", folder / "tiny.toml",
               "--out", folder / "tiny.safetensors")  # fmt: skip
    assert "ema weights and first stage" in said
    return folder


@pytest.fixture(scope="module")
def restorer(tiny: Path) -> Restorer:
    return Restorer(checkpoint.load_networks(tiny / "tiny.safetensors"))


def same(a: Path, b: Path) -> bool:
    """Within 1 level on 0.5 % of the values."""
    difference = np.abs(images.read(a).astype(int) - images.read(b).astype(int))
    return bool(difference.max() <= 1 and (difference > 0).mean() <= 0.005)


# What can be given


def test_one_picture_with_references(tiny: Path, tmp_path: Path) -> None:
    lq, refs = draw(tmp_path / "old.jpg", 1), [draw(tmp_path / f"r{i}.png", 10 + i) for i in range(3)]
    out = tmp_path / "out"
    said = run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--refs", *refs,
               "--out", out, "--sheet", *FAST)  # fmt: skip
    assert "1 restored, 0 kept, 0 failed" in said
    assert images.read(out / "old.png").shape == (HEIGHT, WIDTH, 3)
    assert images.read(out / "sheets" / "old.png").shape[1] == 5 * 256 + 6 * 8  # LQ, three, restored
    record = json.loads((out / "run.json").read_text())
    assert record["settings"]["checkpoint"] == store.digest_file(tiny / "tiny.safetensors")
    assert record["settings"]["options"]["steps"] == 2 and list(record["finished"]) == ["old.png"]
    assert record["versions"]["torch"] == torch.__version__
    published = tmp_path / "published"  # the same from the published layout
    run("restore", "--checkpoint", tiny / "refldm.ckpt", "--autoencoder", tiny / "vqgan.ckpt",
        "--architecture", tiny / "tiny.toml", "--lq", lq, "--refs", refs[0], "--refs", refs[1],
        "--refs", refs[2], "--out", published, *FAST)  # fmt: skip
    assert same(out / "old.png", published / "old.png")
    alone = tmp_path / "alone"  # without references it is another result
    run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--out", alone, *FAST)
    assert not same(out / "old.png", alone / "old.png")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lq/ of five pictures (one in a sub-folder, one cut off), refs/NAME/ for all but one of them."""
    place = tmp_path_factory.mktemp("folder")
    for i, name in enumerate(["a", "b", "sub/c", "d"]):
        draw(place / "lq" / f"{name}.png", i)
        if name != "d":
            draw(place / "refs" / name / "1.png", 20 + i)
            draw(place / "refs" / name / "2.jpg", 30 + i)
    whole = draw(place / "lq" / "cut.png", 7).read_bytes()
    (place / "lq" / "cut.png").write_bytes(whole[: len(whole) // 2])
    draw(place / "refs" / "cut" / "1.png", 27)
    return place


def test_a_folder_with_a_folder_of_references_per_name(tiny: Path, folder: Path, tmp_path: Path) -> None:
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", folder / "lq",
            "--refs-dir", folder / "refs", *FAST)  # fmt: skip
    said = run(*base, "--out", tmp_path / "one")
    assert "3 restored, 0 kept, 2 failed" in said
    assert "d.png has no references in" in said and "cut.png" in said
    failed = json.loads((tmp_path / "one" / "run.json").read_text())["failed"]
    assert sorted(failed) == ["cut.png", "d.png"]
    run(*base, "--out", tmp_path / "batch", "--batch-size", "3")
    run(*base, "--out", tmp_path / "parts", "--shard", "2/2")
    run(*base, "--out", tmp_path / "parts", "--shard", "1/2")
    for name in ("a.png", "b.png", "sub/c.png"):
        assert same(tmp_path / "one" / name, tmp_path / "batch" / name)
        assert same(tmp_path / "one" / name, tmp_path / "parts" / name)
    whole = {path.name for path in (tmp_path / "parts").glob("run*.json")}
    assert whole == {"run-1of2.json", "run-2of2.json"}
    assert "0 restored, 3 kept" in run(*base, "--out", tmp_path / "parts")


def test_running_again_keeps_what_is_finished_and_redoes_what_changed(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    out, lq = tmp_path / "out", tmp_path / "lq"
    draw(lq / "a.png", 1), draw(lq / "b.png", 2)
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--out", out,
            "--refs", folder / "refs" / "a" / "1.png", "--steps")  # fmt: skip
    run(*base, 2)
    written = {name: (out / name).stat().st_mtime_ns for name in ("a.png", "b.png")}
    assert "0 restored, 2 kept" in run(*base, 2)
    assert written == {name: (out / name).stat().st_mtime_ns for name in written}
    (out / "a.png").unlink()
    assert "1 restored, 1 kept" in run(*base, 2)
    draw(lq / "b.png", 3)  # another picture under the old name
    assert "1 restored, 1 kept" in run(*base, 2)
    assert "2 restored, 0 kept" in run(*base, 1)
    assert "0 restored, 2 kept" in run(*base, 1)


def test_a_killed_run_goes_on(tiny: Path, folder: Path, tmp_path: Path) -> None:
    lq, out = tmp_path / "lq", tmp_path / "out"
    for i in range(3):
        draw(lq / f"{i}.png", i)
    words = ["--checkpoint", tiny / "tiny.safetensors", "--lq", lq, *FAST]
    program = (
        "import os, sys; from ffhqref.restore import run as r; save = r.Record.save\n"
        "def die(self, *a):\n save(self, *a); self.mine and os.kill(os.getpid(), 9)\n"
        "r.Record.save = die\n"
        "from ffhqref.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "restore", *map(str, words), "--out", str(out)]
    assert subprocess.run(command, capture_output=True).returncode == -9
    first = (out / "0.png").read_bytes()
    assert "2 restored, 1 kept" in run("restore", *words, "--out", out)
    assert (out / "0.png").read_bytes() == first
    run("restore", *words, "--out", tmp_path / "at-once")
    assert all(same(out / f"{i}.png", tmp_path / "at-once" / f"{i}.png") for i in range(3))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built dataset of two test targets, and photos/ beside it."""
    place = tmp_path_factory.mktemp("dataset")
    for i, name in enumerate(["x1", "x2", "y1", "y2"]):
        draw(place / "photos" / f"{name}.jpg", 40 + i, 2 * HEIGHT, 2 * WIDTH)
    rows = [("x1.jpg", ["x2.jpg"]), ("y1.jpg", ["y2.jpg", "x2.jpg"])]
    store.write_text(
        place / "built" / "reference_mapping" / "test_references.csv", lists.reference_csv(rows, True)
    )
    for name in ("x1", "y1"):
        draw(place / "built" / "test_images" / "severe_degrad" / f"{name}.png", 50)
    return place


def test_a_built_dataset(tiny: Path, dataset: Path) -> None:
    said = run("restore", dataset / "built", "--level", "severe", "--images", dataset / "photos",
               "--checkpoint", tiny / "tiny.safetensors", "--sheet", *FAST)  # fmt: skip
    out = dataset / "built" / "restored" / "severe"
    assert "2 restored" in said and (out / "x1.png").is_file()
    assert images.read(out / "sheets" / "x1.png").shape[1] == 4 * 256 + 5 * 8  # and the truth
    csv = dataset / "built" / "reference_mapping" / "test_references.csv"
    lq = dataset / "built" / "test_images" / "severe_degrad"
    other = dataset / "csv"
    run("restore", "--lq", lq, "--references", csv, "--images", dataset / "photos",
        "--checkpoint", tiny / "tiny.safetensors", "--out", other, *FAST)  # fmt: skip
    assert all(same(out / name, other / name) for name in ("x1.png", "y1.png"))
    one = dataset / "one"
    run("restore", "--lq", lq, "--references", csv, "--images", dataset / "photos", "--max-references", "1",
        "--checkpoint", tiny / "tiny.safetensors", "--out", one, *FAST)  # fmt: skip
    assert same(out / "x1.png", one / "x1.png") and not same(out / "y1.png", one / "y1.png")


def test_the_low_quality_picture_is_the_one_that_its_line_names(tiny: Path, dataset: Path) -> None:
    """As the published loader reads it; results and truth go by the target's name."""
    built, photos = dataset / "named", dataset / "photos"
    text = "gt_image,lq_image,ref_image\nx1.jpg,deep/a_lq.png,['x2.jpg']\ny1.jpg,,\"['y2.jpg', 'x2.jpg']\"\n"
    store.write_text(built / "reference_mapping" / "test_references.csv", text)
    for name in ("deep/a_lq.png", "y1.png", "x1.png"):  # the last would be taken by name
        draw(built / "test_images" / "severe_degrad" / name, 60 if name == "x1.png" else 50)
    words = ("--images", photos, "--checkpoint", tiny / "tiny.safetensors", *FAST)
    said = run("restore", built, "--level", "severe", *words)
    assert "2 restored, 0 kept, 0 failed" in said
    run("restore", dataset / "built", "--level", "severe", *words, "--out", dataset / "plain")
    for name in ("x1.png", "y1.png"):
        assert same(built / "restored" / "severe" / name, dataset / "plain" / name)
    (built / "test_images" / "severe_degrad" / "deep" / "a_lq.png").unlink()
    said = run("restore", built, "--level", "severe", *words, "--out", dataset / "less")
    assert "x1.png has no low-quality picture deep/a_lq.png" in said.replace("\n", " ")


def test_noise_by_name_or_for_all(tiny: Path, tmp_path: Path) -> None:
    lq = tmp_path / "lq"
    draw(lq / "a.png", 1), draw(lq / "b.png", 1)  # the same picture twice
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, *FAST)
    run(*base, "--out", tmp_path / "shared")
    assert same(tmp_path / "shared" / "a.png", tmp_path / "shared" / "b.png")
    run(*base, "--out", tmp_path / "own", "--noise", "per-image")
    assert not same(tmp_path / "own" / "a.png", tmp_path / "own" / "b.png")
    single = tmp_path / "single"
    run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq / "b.png", *FAST, "--out", single,
        "--noise", "per-image")  # fmt: skip
    assert same(tmp_path / "own" / "b.png", single / "b.png")
    run(*base, "--out", tmp_path / "seed", "--seed", "1")
    assert not same(tmp_path / "seed" / "a.png", tmp_path / "shared" / "a.png")


# The core


def _jobs(restorer: Restorer) -> tuple[list[Any], list[ReferenceCache], list[Any]]:
    generator = np.random.default_rng(5)
    drawn = generator.integers(0, 256, (9, HEIGHT, WIDTH, 3), np.uint8)
    cached = [restorer.cache_references(list(drawn[4 : 4 + n])) for n in (0, 1, 3)]
    return (
        list(drawn[:4]),
        [cached[1], cached[0], cached[2], cached[2]],
        [restorer.noise(i) for i in range(4)],
    )


def test_a_result_does_not_depend_on_its_batch(restorer: Restorer) -> None:
    pictures, cached, noises = _jobs(restorer)
    options = SamplingOptions(steps=3)
    together = restorer.restore(pictures, cached, noises, options)
    reversed_ = restorer.restore(pictures[::-1], cached[::-1], noises[::-1], options)[::-1]
    for i, batch, other in zip(range(4), together, reversed_, strict=True):
        (alone,) = restorer.restore(pictures[i : i + 1], cached[i : i + 1], noises[i : i + 1], options)
        for one in (batch, other):
            difference = np.abs(one.astype(int) - alone.astype(int))
            assert difference.max() <= 1 and (difference > 0).mean() <= 0.005


def test_threads_share_a_model_and_an_error_leaves_it_as_it_was(restorer: Restorer) -> None:
    pictures, cached, noises = _jobs(restorer)
    options = SamplingOptions(steps=3)

    def one(i: int) -> Any:
        return restorer.restore(pictures[i : i + 1], cached[i : i + 1], noises[i : i + 1], options)[0]

    before = [one(i) for i in range(4)]

    def stop(x: Any, x0: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restorer.restore(pictures[:1], cached[:1], noises[:1], options, watch=stop)
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: one(i)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert np.abs(found[i].astype(int) - before[i].astype(int)).max() <= 1


def test_default_noise_is_the_published_one(restorer: Restorer) -> None:
    torch.manual_seed(2024)
    torch.testing.assert_close(restorer.noise(2024), torch.randn(1, *restorer.latent), rtol=0, atol=0)


def test_pictures_are_resized_as_published() -> None:
    with np.load(CASES / "image_io.npz") as case:
        width, height = case["size_wh"]
        for kind in ("small", "big"):
            ours = resize_bicubic(case[f"{kind}_u8"], int(height), int(width))
            np.testing.assert_array_equal(ours, case[f"{kind}_resized_u8"])


# The compiled denoiser


@pytest.mark.slow
def test_one_program_serves_any_number_of_references(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced whole, without a break; anew for a single reference, which needs no `copies`."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()  # runs what was traced as it is
    backend = functools.partial(torch.compile, backend=counter, fullgraph=True)
    monkeypatch.setattr(torch, "compile", backend)
    plain, compiled = (
        Restorer(checkpoint.load_networks(tiny / "tiny.safetensors"), compiled=compiled)
        for compiled in (False, True)
    )
    generator, options, programs = np.random.default_rng(8), SamplingOptions(steps=2), []
    for count in (3, 2, 5, 1):
        lq, *references = generator.integers(0, 256, (count + 1, HEIGHT, WIDTH, 3), np.uint8)
        a, b = (
            one.restore([lq], [one.cache_references(references)], [one.noise(1)], options)[0]
            for one in (plain, compiled)
        )
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
        programs.append(counter.frame_count)
    assert programs == [1, 1, 1, 2]


def compiled_run(tiny: Path, lq: Path, refs: list[Path], out: Path, **environment: str) -> tuple[int, str]:
    """Exit code and output of the command in a process of its own, whose compiler starts from nothing."""
    command = [sys.executable, "-m", "ffhqref", "restore", "--compile", "--checkpoint",
               str(tiny / "tiny.safetensors"), "--lq", str(lq), "--refs", *map(str, refs), "--out", str(out),
               *FAST]  # fmt: skip
    of_torch = {"TORCHINDUCTOR_CACHE_DIR": str(out.parent / "cache"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **of_torch, **environment},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="there is no C++ compiler")
def test_compiled_it_gives_the_same_picture(tiny: Path, tmp_path: Path) -> None:
    lq, refs = draw(tmp_path / "a.png", 1), [draw(tmp_path / f"r{i}.png", 10 + i) for i in range(2)]
    code, said = compiled_run(tiny, lq, refs, tmp_path / "compiled")
    assert code == 0 and "1 restored" in said, said
    run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--refs", *refs,
        "--out", tmp_path / "plain", *FAST)  # fmt: skip
    assert same(tmp_path / "compiled" / "a.png", tmp_path / "plain" / "a.png")


@pytest.mark.slow
def test_without_a_compiler_it_says_so(tiny: Path, tmp_path: Path) -> None:
    lq = draw(tmp_path / "a.png", 1)
    code, said = compiled_run(tiny, lq, [lq], tmp_path / "out", CXX=str(tmp_path / "absent"))
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert code == 1 and "Traceback" not in said
    assert "--compile needs a C++ compiler" in sentence and "leave --compile out" in sentence


# Hostile and broken checkpoints


def fails(tiny: Path, file: Path, lq: Path, *more: object) -> str:
    words = ("--architecture", tiny / "tiny.toml") if file.suffix == ".ckpt" else ()
    out = file.parent / "never"
    said = run("restore", "--checkpoint", file, *words, "--lq", lq, "--out", out, *FAST, *more, code=1)
    assert said.startswith("Error: ") and said.count("\n") == 1 and str(file) in said
    assert not list(out.glob("*.png"))
    return said


class Hostile:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Evaluated(Hostile):
    def __reduce__(self) -> Any:
        return eval, (f"__import__('os').mkdir({str(self.mark)!r})",)


@pytest.mark.parametrize("kind", [Hostile, Evaluated])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_runs_nothing(tiny: Path, tmp_path: Path, kind: Any, zipped: bool) -> None:
    tensors, _ = checkpoint.read_tensors(tiny / "refldm.ckpt")
    file, mark = tmp_path / "evil.ckpt", tmp_path / "it-ran"
    content = {**tensors, "callbacks": kind(mark)}
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    said = fails(tiny, file, draw(tmp_path / "lq.png", 1))
    assert not mark.exists()
    assert "could run code; nothing was run" in said if zipped else "no checkpoint" in said
    assert "weights_only" not in said and "Do not use this file" in said


def test_a_bare_hostile_pickle_runs_nothing(tiny: Path, tmp_path: Path) -> None:
    for protocol in (0, 2, 5):
        file = tmp_path / f"p{protocol}.ckpt"
        file.write_bytes(pickle.dumps(Hostile(tmp_path / "it-ran"), protocol))
        said = fails(tiny, file, draw(tmp_path / "lq.png", 1))
        assert "no checkpoint" in said and "weights_only" not in said
        assert not (tmp_path / "it-ran").exists()


def test_classes_of_lightning_are_skipped(tiny: Path, tmp_path: Path) -> None:
    """Classes as keys, objects with state, dicts of a class of their own, enums: none is imported."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "omegaconf"]
    modules = {name: types.ModuleType(name) for name in names}
    ran: list[str] = []

    def make(module: str, name: str, *bases: type, **members: Any) -> Any:
        kind = type(name, bases or (object,), {"__module__": module, **members})
        setattr(modules[module], name, kind)
        return kind

    callback = make("pytorch_lightning.callbacks", "ModelCheckpoint")
    attributes = make("pytorch_lightning", "AttributeDict", dict)
    settings = make("omegaconf", "DictConfig", __setstate__=lambda self, state: ran.append("ran"))
    config = settings()
    config.content = {"lr": 1}
    sys.modules.update(modules)
    try:
        tensors = {k: v for k, v in load_file(CASES / "vqgan_tiny.safetensors").items()}
        content = {
            "epoch": 3,
            "callbacks": {callback: {"best": torch.zeros(())}},
            "hyper_parameters": attributes(lr=1.0, config=config),
            "loops": collections.defaultdict(dict, {"fit": {1: 2}}),
            "path": Path("x.ckpt"),
            "state_dict": tensors,
        }
        torch.save(content, tmp_path / "vqgan.ckpt")
    finally:
        for name in names:
            del sys.modules[name]
    read, _ = checkpoint.read_tensors(tmp_path / "vqgan.ckpt")
    assert set(read) == set(tensors) and all(torch.equal(read[k], tensors[k]) for k in tensors)
    assert not ran


def _changed(tiny: Path, file: Path, change: Any) -> Path:
    tensors = load_file(tiny / "tiny.safetensors")
    with checkpoint.safe_open(tiny / "tiny.safetensors", framework="pt") as source:
        metadata = source.metadata()
    change(tensors)
    save_file(tensors, file, metadata)
    return file


def test_broken_checkpoints_each_have_their_sentence(tiny: Path, tmp_path: Path) -> None:
    lq = draw(tmp_path / "lq.png", 1)
    key = "model_ema.diffusion_modeltime_embed0weight"
    dropped = _changed(tiny, tmp_path / "missing.safetensors", lambda t: t.pop(key))
    assert "lacks" in (said := fails(tiny, dropped, lq)) and "time_embed.0.weight" in said
    shaped = _changed(
        tiny, tmp_path / "shape.safetensors", lambda t: t.update({key: t[key][:-1].contiguous()})
    )
    assert "has the shape" in (said := fails(tiny, shaped, lq)) and "another network" in said

    def poison(tensors: dict[str, Any]) -> None:
        tensors[key][0, 0] = float("nan")

    assert "not finite" in fails(tiny, _changed(tiny, tmp_path / "nan.safetensors", poison), lq)
    for name in ("tiny.safetensors", "refldm.ckpt"):
        whole = (tiny / name).read_bytes()
        for part in (0, 100, len(whole) // 2, len(whole) - 10):
            cut = tmp_path / f"cut{part}-{name}"
            cut.write_bytes(whole[:part])
            said = fails(tiny, cut, lq)
            assert "make it again" in said if name.endswith("safetensors") else "get it again" in said
    only_unet = tmp_path / "unet.ckpt"
    tensors, _ = checkpoint.read_tensors(tiny / "refldm.ckpt")
    torch.save({k: v for k, v in tensors.items() if "stage" not in k}, only_unet)
    assert "add --autoencoder" in fails(tiny, only_unet, lq)
    assert "no denoiser" in fails(tiny, tiny / "vqgan.ckpt", lq)
    assert "There is no checkpoint" in fails(tiny, tmp_path / "absent.ckpt", lq)
    said = run("restore", "--checkpoint", tiny / "refldm.ckpt", "--lq", lq, "--out", tmp_path / "o", code=1)
    assert "another network" in said and "--architecture" in said  # it is not of the published size


def test_a_broken_first_stage_is_named(tiny: Path, tmp_path: Path) -> None:
    """In the checkpoint and in a file of its own."""
    lq, key = draw(tmp_path / "lq.png", 1), "decoder.conv_in.weight"
    own = checkpoint.FIRST_STAGE + key

    def not_finite(value: float) -> Any:
        return lambda tensors: tensors[own].view(-1)[:1].fill_(value)

    dropped = _changed(tiny, tmp_path / "missing.safetensors", lambda tensors: tensors.pop(own))
    assert f"lacks {own}" in fails(tiny, dropped, lq)
    for value in (float("nan"), float("inf")):
        file = _changed(tiny, tmp_path / f"{value}.safetensors", not_finite(value))
        assert f"{own} holds values that are not finite" in fails(tiny, file, lq)

    def without(tensors: dict[str, Any]) -> None:
        for name in [name for name in tensors if name.startswith(checkpoint.FIRST_STAGE)]:
            del tensors[name]

    alone, stage = _changed(tiny, tmp_path / "unet.safetensors", without), tmp_path / "stage.ckpt"
    tensors = load_file(CASES / "vqgan_tiny.safetensors")
    torch.save({"state_dict": {**tensors, key: tensors[key][:1]}}, stage)
    whole = (tiny / "vqgan.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    for file, sentence in ((stage, f"{key} has the shape"), (tmp_path / "cut.ckpt", "get it again"),
                           (tmp_path / "absent.ckpt", "There is no checkpoint")):  # fmt: skip
        said = run("restore", "--checkpoint", alone, "--autoencoder", file, "--lq", lq,
                   "--out", tmp_path / "never", *FAST, code=1)  # fmt: skip
        assert said.startswith(f"Error: {file}" if file.exists() else "Error: ") and sentence in said
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    assert "holds no mapping" in fails(tiny, tmp_path / "list.ckpt", lq)


def test_weights_that_overflow_are_one_sentence(tiny: Path, tmp_path: Path) -> None:
    """Finite, but what comes of them is not."""
    lq, key = draw(tmp_path / "lq.png", 1), "model_ema.diffusion_modelout2weight"
    file = _changed(tiny, tmp_path / "huge.safetensors", lambda tensors: tensors[key].mul_(1e38))
    said = run("restore", "--checkpoint", file, "--lq", lq, "--out", tmp_path / "out", *FAST, code=1)
    assert "left the range of finite numbers" in said and "another checkpoint" in said
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_header_with_a_mad_architecture_takes_no_memory(tiny: Path, tmp_path: Path) -> None:
    for sizes in ({"channels": 65536, "multipliers": [65536] * 8}, {"channels": 10**9}, {"blocks": "x"}):
        file = tmp_path / "mad.safetensors"
        metadata = {"ffhqref": json.dumps({"architecture": {"unet": sizes}})}
        save_file(load_file(tiny / "tiny.safetensors"), file, metadata)
        fails(tiny, file, draw(tmp_path / "lq.png", 1))


# What is there is kept, and what is said runs


def next_command(said: str) -> list[str]:
    """The words of the command that the last line names."""
    words = shlex.split(said.strip().splitlines()[-1].partition("Next: ")[2])
    assert words[0] == "ffhqref", said
    return words[1:]


def test_of_two_pictures_with_one_result_one_is_restored_and_the_other_named(
    tiny: Path, tmp_path: Path
) -> None:
    lq = tmp_path / "lq"
    draw(lq / "a.png", 1), draw(lq / "a.jpg", 2)
    base = (
        "restore",
        "--checkpoint",
        tiny / "tiny.safetensors",
        "--lq",
        lq,
        "--out",
        tmp_path / "out",
        *FAST,
    )
    said = run(*base)
    assert "1 restored, 0 kept, 1 failed" in said and "Not restored: a.jpg is left out" in said
    result = tmp_path / "out" / "a.png"
    whole = result.read_bytes()
    result.write_bytes(whole[: len(whole) // 2])
    assert "1 restored, 0 kept, 1 failed" in run(*base)
    assert result.read_bytes() == whole


def test_restore_overwrites_nothing_that_it_did_not_make(tiny: Path, tmp_path: Path) -> None:
    lq, out = tmp_path / "lq", tmp_path / "out"
    draw(lq / "z.png", 1), draw(lq / "sheets" / "z.png", 2)
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--out", out, *FAST)
    assert "would overwrite the result sheets/z.png" in run(*base, "--sheet", code=1)
    assert not list(out.rglob("*.png"))
    photo = draw(out / "z.png", 3).read_bytes()
    assert "move it away or give another --out" in run(*base, code=1)
    assert (out / "z.png").read_bytes() == photo
    (out / "z.png").unlink()
    run(*base)
    result = (out / "sheets" / "z.png").read_bytes()
    assert "made it as a sheet" in run(*base[:4], lq / "z.png", *base[5:], "--sheet", code=1)
    assert (out / "sheets" / "z.png").read_bytes() == result


def test_the_command_that_restore_ends_with_draws_the_sheets(tiny: Path, tmp_path: Path) -> None:
    lq, out = tmp_path / "low quality", tmp_path / "out"
    draw(lq / "a.png", 1)
    refs = [draw(tmp_path / f"{name}.png", number) for number, name in enumerate("bcd")]
    said = run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--refs", *refs,
               "--guidance", "1.25", "--out", out, *FAST)  # fmt: skip
    before = (out / "a.png").read_bytes()
    again = run(*next_command(said))
    assert "0 restored, 1 kept" in again and "Next:" not in again and f"Look at {out}/sheets." in again
    assert (out / "a.png").read_bytes() == before
    assert images.read(out / "sheets" / "a.png").shape[1] == 5 * 256 + 6 * 8


def test_convert_says_its_size_and_what_to_run(tiny: Path, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        said = run("convert", "--checkpoint", tiny / "tiny.safetensors", "--out", tmp_path / "x.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640
    assert "0.00" not in said and " MB)" in said
    assert "Usage" in run(*next_command(said))
    said = run("convert", "--checkpoint", tiny / "tiny.safetensors", "--out", tmp_path / "x.ckpt",
               "--architecture", tiny / "tiny.toml")  # fmt: skip
    assert "Usage" in run(*next_command(said))
    file = tmp_path / "x.safetensors"
    assert "would overwrite" in run("convert", "--checkpoint", file, "--out", file, code=1)


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_convert_on_a_full_disk_is_one_sentence(tiny: Path, tmp_path: Path, suffix: str) -> None:
    """Here a file may not grow above 50 kB, which the libraries meet as they meet a full disk."""
    out, limits = tmp_path / f"x.{suffix}", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        said = run("convert", "--checkpoint", tiny / "refldm.ckpt", "--architecture", tiny / "tiny.toml",
                   "--out", out, code=1)  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said.startswith("Error: ") and str(out) in said
    assert not list(tmp_path.glob(f"*.{suffix}")) and not list(tmp_path.glob(".*part"))


def test_like_and_fast_stand_for_defaults_and_options_go_before_them(tiny: Path, tmp_path: Path) -> None:
    lq = draw(tmp_path / "a.png", 1)
    cases: list[tuple[tuple[object, ...], tuple[object, ...]]] = [
        (("--like", "inference", "--steps", 2), ("uniform_trailing", 2, "ddim")),
        (("--like", "dataset", "--steps", 4), ("uniform", 4, "ddim")),
        (
            ("--like", "dataset", "--steps", 2, "--schedule", "uniform_trailing"),
            ("uniform_trailing", 2, "ddim"),
        ),
        (("--fast",), ("log_snr", FAST_PRESET.steps, FAST_PRESET.solver)),
        (("--fast", "--solver", "dpmpp2m", "--steps", 3), ("log_snr", 3, "dpmpp2m")),
        (("--solver", "unipc", "--steps", 2, "--schedule", "uniform"), ("uniform", 2, "unipc")),
    ]
    for at, (words, wanted) in enumerate(cases):
        out = tmp_path / str(at)
        run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--out", out, *words)
        options = json.loads((out / "run.json").read_text())["settings"]["options"]
        assert (options["schedule"], options["steps"], options["solver"]) == wanted
    defaults = Sampling(), Sampling(like="dataset")
    found = [(one.options().steps, one.options().schedule) for one in defaults]
    assert found == [(50, "uniform_trailing"), (100, "uniform")]
    assert "Give one of --fast and --like" in run(
        "restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--out", tmp_path / "x", "--fast",
        "--like", "dataset", code=1
    )  # fmt: skip


def test_guidance_in_an_interval_passes_the_null_condition_there_alone(restorer: Restorer) -> None:
    pictures, cached, noises = _jobs(restorer)
    seen: list[int] = []
    inner = restorer.prepared.denoise
    prepared = replace(restorer.prepared, denoise=lambda x, *more: seen.append(len(x)) or inner(x, *more))
    restorer._prepared, whole = prepared, restorer._prepared
    try:
        options = SamplingOptions(steps=10, guidance_from=300, guidance_to=699)
        guided = restorer.restore(pictures[:2], cached[:2], noises[:2], options)
    finally:
        restorer._prepared = whole
    assert seen == [2] * 3 + [3] * 4 + [2] * 3, "timesteps 99, 199 ... 999; one of the two has references"
    plain = [restorer.restore(pictures[:2], cached[:2], noises[:2], SamplingOptions(steps=10, guidance=g))
             for g in (1.0, 1.5)]  # fmt: skip
    assert (guided[1] == plain[0][1]).all() and (guided[0] != plain[0][0]).any()
    assert (guided[0] != plain[1][0]).any()
    everywhere = SamplingOptions(steps=10, guidance_from=99, guidance_to=999)
    again = restorer.restore(pictures[:2], cached[:2], noises[:2], everywhere)
    assert all((a == b).all() for a, b in zip(again, plain[1], strict=True))


def test_the_demos_restorer_warns_of_photographs(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(RESTORER, tmp_path / "copy.safetensors")
    drawn = tmp_path / "demo"
    store.write_receipt(drawn, store.Receipt(stage="draw", revision=1, parameters={}, inputs={}), [], {})
    real = draw(tmp_path / "real" / "a.png", 1)
    for path, file, warned in (
        (real, Path("demo"), True), (real.parent, copy, True), (drawn / "dataset" / "x.png", copy, False),
        (real, tiny / "tiny.safetensors", False),
    ):  # fmt: skip
        _warn_of_demo(_known_checkpoint(Path(file)), path)
        assert ("knows drawn people only" in capsys.readouterr().err) is warned, (path, file)


def test_pictures_are_read_whole_or_as_published(tiny: Path, tmp_path: Path) -> None:
    picture = images.read(draw(tmp_path / "plain.png", 1))
    exif = Image.Exif()
    exif[0x0112] = 3  # held upside down
    turned = tmp_path / "a.png"
    Image.fromarray(picture).save(turned, exif=exif)
    assert (READERS["published"](turned) == picture).all() and (READERS["whole"](turned) != picture).any()
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert abs(READERS["whole"](tmp_path / "deep.png").mean() - 127.5) < 1
    theirs = np.array(Image.open(tmp_path / "deep.png").convert("RGB"))  # what the published code calls
    assert (READERS["published"](tmp_path / "deep.png") == theirs).all()
    cut = tmp_path / "cut.png"
    cut.write_bytes(turned.read_bytes()[:-40])
    Image.new("1", (12_001, 10_000)).save(tmp_path / "large.png")  # 120.01 million pixels
    for read in READERS.values():
        for file, status in ((cut, "unreadable"), (tmp_path / "large.png", "too_large")):
            with pytest.raises(images.BadImage) as caught:
                read(file)
            assert caught.value.status == status
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", turned, *FAST, "--out")
    run(*base, tmp_path / "whole")
    run(*base, tmp_path / "published", "--read", "published")
    run(*base[:4], tmp_path / "plain.png", *base[5:], tmp_path / "plain")
    assert same(tmp_path / "published" / "a.png", tmp_path / "plain" / "plain.png")
    assert not same(tmp_path / "whole" / "a.png", tmp_path / "published" / "a.png")


@pytest.mark.filterwarnings("ignore")  # newer versions of torch prefer other names
def test_fp32_is_fp32_while_it_restores_and_the_process_is_left_as_it_was(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[tuple[str, bool]] = set()
    forward = UNet.forward

    def spy(self: UNet, *words: Any, **more: Any) -> Any:
        seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return forward(self, *words, **more)

    monkeypatch.setattr(UNet, "forward", spy)
    run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", draw(tmp_path / "a.png", 1),
        "--out", tmp_path / "out", *FAST)  # fmt: skip
    assert seen == {("highest", False)} and torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_passively_before_torch_is_loaded(given: dict[str, str], kept: str) -> None:
    program = (
        "import os, sys; from ffhqref.restore.run import need_torch; need_torch(); "
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    clean = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=clean | given)
    assert done.stdout.strip() == kept, done.stderr


# Bad input


def test_out_of_memory_says_which_option_lowers_it() -> None:
    with pytest.raises(UserError, match="--batch-size.*--reference-encoding separate"):
        with explained():
            torch.empty(1 << 50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="something else"), explained():
        raise RuntimeError("something else")


@pytest.mark.parametrize("place", ["encode", "decode", "to", "unet"])
@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory."), MemoryError()])
def test_out_of_memory_anywhere_is_one_sentence(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise error

    part = UNet if place == "unet" else Autoencoder
    monkeypatch.setattr(part, "forward" if place == "unet" else place, full)
    lq = draw(tmp_path / "lq.png", 1)
    said = run("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, "--refs", lq,
               "--out", tmp_path / "out", *FAST, code=1)  # fmt: skip
    (sentence,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert "Out of memory: lower --batch-size or --max-references" in sentence


def test_bad_input_is_one_sentence(tiny: Path, folder: Path, tmp_path: Path) -> None:
    lq = draw(tmp_path / "lq.png", 1)
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--out", tmp_path / "out", *FAST)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    cases: list[tuple[tuple[object, ...], str]] = [
        ((), "Give --lq"),
        (("--lq", tmp_path / "absent.png"), "There is no low-quality picture"),
        (("--lq", bad), "not a PNG"),
        (("--lq", lq, "--refs", bad), "its reference"),
        (("--lq", lq, "--refs", tmp_path / "absent.png"), "There is no reference"),
        (("--lq", lq, "--refs-dir", tmp_path / "absent"), "There is no folder"),
        (("--lq", lq, "--refs-dir", folder / "refs"), "has no references in"),
        (("--lq", lq, "--refs", lq, "--refs-dir", folder / "refs"), "not several"),
        (("--lq", lq, "--shard", "3/2"), "--shard 3/2"),
        (("--lq", lq, "--steps", "3", "--schedule", "uniform"), "asks for timestep 1000"),
        (("--lq", lq, "--device", "cuda:7"), "no such device"),
        (("--lq", lq, "--device", "cuda:x"), "no such device"),
        (("--lq", lq, "--device", "cpu:1"), "no such device"),
        (("--lq", lq, "--precision", "tf32"), "for GPUs"),
        (("--lq", lq, "--guidance-from", "9", "--guidance-to", "8"), "--guidance-from 9 is above"),
        (("--lq", lq, "--precision", "fp16"), "for GPUs"),
        (("--lq", lq, "--align"), "--detector"),
        ((tmp_path, "--images", tmp_path), "--level"),
    ]
    for words, sentence in cases:
        said = run(*base, *words, code=1)
        assert sentence in said and "Error: " in said
    assert not list((tmp_path / "out").glob("*.png"))


def test_a_picture_that_is_not_square_is_resized_with_a_warning(tiny: Path, tmp_path: Path) -> None:
    lq = draw(tmp_path / "tall.png", 1, 3 * HEIGHT, WIDTH)
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", lq, *FAST, "--out")
    assert "tall.png has" in run(*base, tmp_path / "refused", code=1)
    assert "tall.png is not square" in run(*base, tmp_path / "out", "--squeeze")
    assert images.read(tmp_path / "out" / "tall.png").shape == (HEIGHT, WIDTH, 3)
    before = lq.read_bytes()
    assert "would overwrite" in run(*base, tmp_path, code=1)  # the results' folder is the picture's own
    assert lq.read_bytes() == before


def test_convert_writes_the_same_bytes_each_time(tiny: Path, tmp_path: Path) -> None:
    digests = set()
    for time in range(8):  # two keys in the header would change places in half of them
        out = tmp_path / f"{time}.safetensors"
        checkpoint.convert(tiny / "tiny.safetensors", out, notes={"checkpoint": "a digest"})
        digests.add(store.digest_file(out))
    assert len(digests) == 1


def test_convert_writes_what_inference_needs_and_no_more(tiny: Path, tmp_path: Path) -> None:
    whole, ours = checkpoint.read_tensors(tiny / "refldm.ckpt")[0], load_file(tiny / "tiny.safetensors")
    assert set(ours) < set(whole) and all(torch.equal(ours[key], whole[key]) for key in ours)
    assert {key.split(".")[0] for key in ours} == {"model_ema", "first_stage_model"}
    said = run("convert", "--checkpoint", tiny / "vqgan.ckpt", "--out", tmp_path / "x.safetensors", code=1)
    assert "no denoiser" in said and not (tmp_path / "x.safetensors").exists()
    said = run("convert", "--checkpoint", tiny / "refldm.ckpt", "--out", tmp_path / "x.pt", code=1)
    assert ".safetensors" in said


# Faces that are not aligned


LANDMARKS = np.array([[240, 180], [300, 190], [268, 225], [240, 255], [290, 262]], np.float32)


def test_a_pasted_face_lies_where_it_was_cut() -> None:
    from ffhqref.faces.geometry import ffhq_crop

    photo = images.resize(np.random.default_rng(3).integers(0, 256, (24, 32, 3), np.uint8), 640, 480)
    crop = ffhq_crop(photo, LANDMARKS, 512)
    back = paste(photo, crop, LANDMARKS)
    assert back.shape == photo.shape
    assert np.abs(back.astype(int) - photo.astype(int)).max() <= 12  # resampled twice
    assert (back[:20] == photo[:20]).all()  # nothing changes far from the face
    green = paste(photo, np.full_like(crop, (0, 255, 0)), LANDMARKS)
    assert tuple(green[215, 268]) == (0, 255, 0)


def test_align_finds_restores_and_pastes_back(
    tiny: Path, tmp_path: Path, known: list[Known], detector: Path
) -> None:
    if HEIGHT != WIDTH:
        pytest.skip("faces are framed as squares, this network's pictures are not")
    photo = known[0].path
    base = ("restore", "--checkpoint", tiny / "tiny.safetensors", "--lq", photo, "--refs", photo,
            "--align", "--detector", detector, *FAST)  # fmt: skip
    run(*base, "--out", tmp_path / "face")
    assert images.read(tmp_path / "face" / f"{photo.stem}.png").shape == (HEIGHT, WIDTH, 3)
    run(*base, "--paste-back", "--out", tmp_path / "whole")
    whole = images.read(tmp_path / "whole" / f"{photo.stem}.png")
    assert whole.shape == images.read(photo).shape
    flat = tmp_path / "flat.png"
    images.write(flat, np.full((200, 200, 3), 128, np.uint8))
    words = [flat if word is photo else word for word in base]
    assert "shows no face" in run(*words, "--out", tmp_path / "none", code=1)
