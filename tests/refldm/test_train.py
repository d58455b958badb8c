"""Training: the same weights however often it stopped, the right samples, sentences for bad input."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.store import UserError
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.checkpoint import Architecture
from ffhqref.refldm.model.unet import UNetSize
from ffhqref.refldm.restorer import Restorer
from ffhqref.refldm.training import augment, data, losses, runs, stages
from ffhqref.refldm.training import config as settings
from ffhqref.refldm.training import train as training
from ffhqref.refldm.training.data import ReferenceRow, Sample, Samples
from ffhqref.refldm.training.runs import RunFolder
from tests.refldm import tiny_train as tiny

ROOT = Path(__file__).parent.parent.parent
LATENT = (4, 16, 16)
STATIC: dict[str, Any] = dict(
    jitter=(0.0, 0.0, 0.0, 0.0), rotate=0.0, shift=0.0, zoom=(1.0, 1.0), perspective=0.0, reference_flip=0.0
)  # references as they are
ROUNDING = 1e-3  # relative, of gradients: sums of the same samples in another order


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    tiny.write_photos(folder / "photos")
    tiny.write_initial(folder / "ldm.safetensors")
    return folder


def state(out: Path, step: int) -> dict[str, Any]:
    saved = runs.RunFolder(out).load(step)
    return {**saved.model, **saved.optimizer}


def same(left: Path, right: Path, step: int) -> None:
    ours, theirs = state(left, step), state(right, step)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def program(work: Path, out: Path, what: str) -> list[str]:
    return [sys.executable, "-m", "tests.refldm.tiny_train", str(work), str(out), what]


# ---- resuming ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(work: Path) -> Path:
    """40 steps without a stop."""
    out = work / "straight"
    tiny.run(work, out, tiny.config(steps=40, save_every=10, batch_size=2))
    return out


def test_a_resumed_run_ends_with_the_same_bits(work: Path, straight: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=20, save_every=10, batch_size=2))
    result = tiny.run(work, tmp_path, tiny.config(steps=40, save_every=10, batch_size=2), resume=True)
    assert result.step == 40
    same(straight, tmp_path, 40)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in (straight / "metrics.jsonl").read_text().splitlines()]
    losses_of = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses_of == {line["step"]: line["loss"] for line in wanted if "loss" in line}


def test_a_kill_while_a_checkpoint_is_written(work: Path, straight: Path, tmp_path: Path) -> None:
    run = subprocess.run(program(work, tmp_path, "kill-30"), cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    folder = runs.RunFolder(tmp_path)
    assert list(folder.checkpoints.glob(".step-*.partial/*"))  # the half that it left
    assert folder.steps()[-1] == 20
    same(straight, tmp_path, 20)
    tiny.run(work, tmp_path, tiny.config(steps=40, save_every=10, batch_size=2), resume=True)
    same(straight, tmp_path, 40)
    assert not list(folder.checkpoints.glob(".*"))


@pytest.mark.parametrize("stage", ["autoencoder", "ldm"])
def test_the_other_stages_resume_too(stage: str, work: Path, tmp_path: Path) -> None:
    whole = tiny.config(stage, steps=6, discriminator_start=2, revive_every=4, identity_weight=0.0)
    tiny.run(work, tmp_path / "whole", whole)
    tiny.run(work, tmp_path / "parts", replace(whole, steps=3))
    tiny.run(work, tmp_path / "parts", whole, resume=True)
    same(tmp_path / "whole", tmp_path / "parts", 6)


def test_workers_and_accumulated_parts_do_not_matter(work: Path, tmp_path: Path) -> None:
    base = tiny.config(steps=3)
    tiny.run(work, tmp_path / "one", base)
    tiny.run(work, tmp_path / "workers", base, workers=1)
    same(tmp_path / "one", tmp_path / "workers", 3)
    tiny.run(work, tmp_path / "parts", replace(base, accumulate=2))
    close(tmp_path / "one", tmp_path / "parts", 3)


def close(left: Path, right: Path, step: int) -> None:
    """Both runs saw the same gradients: the optimizer's mean of them, relative.

    Not the weights, since Adam divides by the gradient's size: where that is all rounding, so is the step.
    """
    ours, theirs = runs.RunFolder(left).load(step).optimizer, runs.RunFolder(right).load(step).optimizer
    names = [name for name in ours if name.endswith(".exp_avg")]
    apart = sum(float((ours[n] - theirs[n]).double().square().sum()) for n in names) ** 0.5
    size = sum(float(ours[n].double().square().sum()) for n in names) ** 0.5
    assert apart / size < ROUNDING, apart / size


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(work: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = program(work, tmp_path / "two", "batch-4")[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*launch, *arguments], cwd=ROOT, check=True, capture_output=True, env=environment)
    subprocess.run(program(work, tmp_path / "one", "batch-4"), cwd=ROOT, check=True, capture_output=True)
    subprocess.run(program(work, tmp_path / "half", "batch-2"), cwd=ROOT, check=True, capture_output=True)
    close(tmp_path / "one", tmp_path / "two", 6)
    with pytest.raises(AssertionError):
        close(tmp_path / "one", tmp_path / "half", 6)


# ---- what is learned -----------------------------------------------------------------------------


def test_it_learns_eight_pictures_by_heart(work: Path, tmp_path: Path) -> None:
    """A first stage learns them, then the denoiser on its latents: both losses fall far."""
    first = tiny.config("autoencoder", steps=40, batch_size=8, lr=3e-3, flip=0.0, log_every=1,
                        discriminator_start=1000, revive_every=15)  # fmt: skip
    tiny.run(work, tmp_path / "ae", first)
    start, end = ends(tmp_path / "ae", "loss_l1")
    assert end < 0.45 * start
    second = tiny.config(
        "ldm", steps=40, batch_size=8, lr=2e-3, flip=0.0, log_every=1, identity_weight=0.0, drop=0.0
    )
    tiny.run(work, tmp_path / "ldm", second)
    start, end = ends(tmp_path / "ldm", "loss_simple")
    assert end < 0.2 * start


def ends(out: Path, name: str) -> tuple[float, float]:
    """The first value, and the mean of the last three."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    values = [line[name] for line in lines if name in line]
    return values[0], float(np.mean(values[-3:]))


def test_a_checkpoint_restores_as_it_is(straight: Path) -> None:
    """The published names, the averaged weights, and the sizes in the header."""
    path = runs.RunFolder(straight).of(40) / runs.MODEL
    networks = checkpoint.load_networks(path)
    assert networks.weights == "ema" and networks.architecture == tiny.ARCHITECTURE
    picture = np.full((32, 32, 3), 90, np.uint8)
    assert Restorer(networks).encode(picture[None]).shape == (1, *LATENT)
    tensors, _ = checkpoint.read_tensors(path)
    assert int(tensors["model_ema.num_updates"]) == 40
    assert {"betas", "posterior_mean_coef2", "first_stage_model.quantize.embedding.weight"} <= set(tensors)


def test_only_the_last_and_the_best_are_kept(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=8, save_every=1, keep=2, validate_every=3))
    folder = runs.RunFolder(tmp_path)
    best = json.loads((folder.of(8) / runs.STATE).read_text())["best"][1]
    assert folder.steps() == sorted({best, 7, 8}) and best in (3, 6, 8)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        f"step-{step:08d}.png" for step in (3, 6, 8)
    }
    assert list((tmp_path / "tensorboard").glob("events*"))


# ---- samples -------------------------------------------------------------------------------------

PLAIN = dict(
    flip=0.0, jitter=(0.0, 0.0, 0.0, 0.0), rotate=0.0, shift=0.0, zoom=(1.0, 1.0), perspective=0.0,
    reference_flip=0.0, shuffle=False, references=4,
)  # fmt: skip


def sample(work: Path, number: int, **changes: Any) -> Sample:
    chosen = tiny.config(**{**PLAIN, **changes})
    return Samples(tiny.source(work / "photos"), chosen, LATENT).sample(
        ReferenceRow(tiny.NAMES[0], tuple(tiny.NAMES[1:3])), number
    )


def photo(work: Path, name: str) -> Any:
    return cv2.imread(str(work / "photos" / name))[:, :, ::-1]


def test_a_sample_is_what_the_csv_says(work: Path) -> None:
    made = sample(work, 5)
    assert np.array_equal(made.tensors["target"].numpy(), photo(work, tiny.NAMES[0]))  # RGB
    assert np.array_equal(made.tensors["lq"].numpy(), tiny.coarse(photo(work, tiny.NAMES[0]), "", 5))
    wide = [photo(work, tiny.NAMES[i]) for i in (1, 2, 1, 2)]  # repeated from the start, left to right
    for number in range(5):
        assert np.array_equal(sample(work, number).tensors["references"].numpy(), np.concatenate(wide, 1))
    mirrored = sample(work, 5, flip=1.0)
    for key in ("target", "lq", "references"):
        assert np.array_equal(mirrored.tensors[key].numpy(), made.tensors[key].numpy()[:, ::-1])
    assert mirrored.key == (tiny.NAMES[0], True)
    orders = {
        sample(work, number, shuffle=True).tensors["references"].numpy().tobytes() for number in range(20)
    }
    assert len(orders) == 2


def test_validation_is_as_the_csv_says(work: Path) -> None:
    source = tiny.source(work / "photos")
    (item,) = data.validation_samples(source, tiny.config(references=3), LATENT)
    (row,) = source.validation
    assert np.array_equal(item.tensors["target"].numpy(), photo(work, row.target))
    wide = [photo(work, row.references[i]) for i in (0, 1, 0)]
    assert np.array_equal(item.tensors["references"].numpy(), np.concatenate(wide, 1))
    (two,) = data.validation_samples(source, tiny.config(references=2), LATENT)
    assert np.array_equal(two.tensors["references"].numpy(), np.concatenate(wide[:2], 1))


def test_networks_see_red_green_blue() -> None:
    values = torch.tensor([255, 102, 0], dtype=torch.uint8).expand(1, 2, 4, 3)
    pictures = data.Batch({"target": values}, [("", False)]).pictures("target")
    assert pictures.shape == (1, 3, 2, 4)
    for channel, value in enumerate((1.0, -0.2, -1.0)):
        assert pictures[:, channel].flatten().tolist() == pytest.approx([value] * 8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_conditions_are_dropped_in_this_share(share: float) -> None:
    """Each on its own; 4 standard deviations of 2,000 draws are allowed."""
    chosen = tiny.config(drop=share)
    kept = torch.stack([data.diffusion_draws(chosen, number, (1, 1, 1))["keep"] for number in range(2000)])
    near = 4 * (share * (1 - share) / 2000) ** 0.5
    assert (1 - kept.mean(0)).tolist() == pytest.approx([share, share], abs=near + 1e-6)
    both = float((1 - kept).prod(1).mean())
    assert both == pytest.approx(share**2, abs=4 * (share**2 * (1 - share**2) / 2000) ** 0.5 + 1e-6)


def test_more_low_quality_pictures_are_dropped_and_nothing_else_changes() -> None:
    usual, more = (
        [
            data.diffusion_draws(tiny.config(drop=0.1, lq_drop=share), number, (1, 2, 2))
            for number in range(2000)
        ]
        for share in (0.0, 0.5)
    )
    lost = [1 - float(torch.stack([one["keep"][0] for one in each]).mean()) for each in (usual, more)]
    assert lost == pytest.approx([0.1, 0.55], abs=0.045)
    for a, b in zip(usual, more, strict=True):
        assert torch.equal(a["noise"], b["noise"]) and a["t"] == b["t"] and a["keep"][1] == b["keep"][1]
        assert b["keep"][0] <= a["keep"][0]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_target_can_be_among_its_references(work: Path, share: float) -> None:
    chosen = tiny.config(own=share, flip=0.5, **STATIC)
    samples = Samples(tiny.source(work / "photos"), chosen, LATENT)
    found = []
    for number in range(80):
        one = samples[number]
        found.append(
            any(torch.equal(one.tensors["target"], piece) for piece in one.tensors["references"].split(32, 1))
        )
    near = 4 * (share * (1 - share) / 80) ** 0.5
    assert float(np.mean(found)) == pytest.approx(share, abs=near + 1e-9)


def test_a_sample_depends_on_its_number_alone(work: Path) -> None:
    samples = Samples(tiny.source(work / "photos"), tiny.config(), LATENT)
    first = {number: samples[number] for number in (17, 3, 40)}
    for number in (3, 40, 17):
        again = samples[number]
        assert all(torch.equal(again.tensors[k], v) for k, v in first[number].tensors.items())
    assert not torch.equal(samples[3].tensors["noise"], samples[11].tensors["noise"])
    targets = [samples[number].key[0] for number in range(16)]
    assert len(set(targets[:8])) == len(set(targets[8:])) == 8 and targets[:8] != targets[8:]


def test_processes_and_parts_share_a_step() -> None:
    steps = [iter(data.StepBatchSampler(12, 2, 3, rank, start=5)) for rank in range(3)]
    seen = [number for process in steps for _ in range(2) for number in next(process)]
    assert sorted(seen) == list(range(60, 72)) and len(seen) == 12


@pytest.fixture(scope="module")
def trainee(work: Path) -> stages.DiffusionTrainee:
    from accelerate import Accelerator

    tensors, _ = checkpoint.read_tensors(work / "ldm.safetensors")
    chosen = tiny.config(**PLAIN)
    frozen = stages.first_stage(chosen, None, tensors)
    return stages.DiffusionTrainee(chosen, Accelerator(cpu=True), frozen, tensors, tiny.Faces())


def batch(work: Path, keep: list[float]) -> data.Batch:
    made = data.collate([sample(work, number) for number in (1, 2)])
    made.tensors["keep"][:] = torch.tensor(keep)  # type: ignore[index]
    return made


def test_conditions_are_encoded_in_place_and_dropped_as_zeros(
    work: Path, trainee: stages.DiffusionTrainee
) -> None:
    autoencoder: Autoencoder = trainee.autoencoder
    forget(trainee)
    z, lq, references = trainee.encode(batch(work, [1.0, 1.0]))
    wide = torch.cat([data.collate([sample(work, 1)]).pictures("references")])
    with torch.no_grad():
        close_arrays(references[:1], autoencoder.encode(wide))
        close_arrays(lq, autoencoder.encode(batch(work, [1, 1]).pictures("lq")))
        close_arrays(z, autoencoder.encode(batch(work, [1, 1]).pictures("target")))
    _, lq, references = trainee.encode(batch(work, [0.0, 1.0]))
    assert not lq.any() and references.any()
    _, lq, references = trainee.encode(batch(work, [1.0, 0.0]))
    assert lq.any() and not references.any()


def test_references_encoded_apart_keep_their_order(
    work: Path, trainee: stages.DiffusionTrainee, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainee, "config", replace(trainee.config, reference_encoding="separate"))
    given = batch(work, [1.0, 1.0])
    _, _, references = trainee.encode(given)
    with torch.no_grad():
        apart = [trainee.autoencoder.encode(one) for one in given.pictures("references").split(32, 3)]
    assert len(apart) == 4
    close_arrays(references, torch.cat(apart, 3))


def test_references_that_do_not_move_are_encoded_once(
    work: Path, trainee: stages.DiffusionTrainee, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same latents as those that are encoded anew, mirrored ones on their own."""
    static = tiny.config(reference_encoding="separate", **STATIC)
    samples = Samples(tiny.source(work / "photos"), static, LATENT)
    given = data.collate([samples[number] for number in (1, 2, 3)])
    given.tensors["keep"][:] = 1.0  # type: ignore[index]
    found = {}
    for name, changes in {"moved": {"rotate": 1.0}, "static": {}}.items():
        monkeypatch.setattr(trainee, "config", replace(static, **changes))
        forget(trainee)
        found[name] = trainee.encode(given)[2]
        assert (len(trainee.latents) > 3) is (name == "static")
    close_arrays(found["static"], found["moved"])
    seen: list[int] = []
    encode = trainee.autoencoder.encode
    monkeypatch.setattr(trainee.autoencoder, "encode", lambda x: (seen.append(len(x)), encode(x))[1])
    assert torch.equal(trainee.encode(given)[2], found["static"]) and seen == [3], (
        "the low-quality ones alone"
    )


def test_dropped_low_quality_pictures_are_not_encoded(work: Path, trainee: stages.DiffusionTrainee) -> None:
    both = batch(work, [1.0, 1.0])
    first = trainee.encode(both)[1]
    both.tensors["keep"][0, 0] = 0.0
    lq = trainee.encode(both)[1]
    assert not lq[0].any()
    close_arrays(lq[1], first[1])


def test_the_noise_loss_can_be_weighted_by_snr() -> None:
    """min(SNR, gamma) / SNR: of x_0's error every t below the limit counts alike."""
    torch.manual_seed(3)
    diffusion = losses.Diffusion()
    t = torch.tensor([0, 200, 500, 700, 999])
    z, noise, wrong = (torch.randn(5, 4, 8, 8) for _ in range(3))
    x = diffusion.noised(z, t, noise)
    eps = noise + 0.1 * wrong
    error = (diffusion.clean(x, t, eps) - z).square().flatten(1).mean(1)
    bar = diffusion.tables["alphas_cumprod"][t]
    for gamma in (0.0625, 5.0):
        expected = (torch.clamp(bar / (1 - bar), max=gamma) * error).mean()
        found = losses.diffusion_loss(diffusion, eps, noise, x, t, snr_gamma=gamma)
        assert float(found.total) == pytest.approx(float(expected), rel=1e-4)
    plain = losses.diffusion_loss(diffusion, eps, noise, x, t)
    assert float(plain.total) == pytest.approx(float((eps - noise).square().mean()), rel=1e-6)


def forget(trainee: stages.DiffusionTrainee) -> None:
    """What it kept of pictures."""
    trainee.targets.clear()
    trainee.latents.clear()


def close_arrays(ours: Any, theirs: Any) -> None:
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


def gradient(trainee: stages.DiffusionTrainee, given: data.Batch) -> Any:
    """Of a batch's loss by the denoiser's weights, as one vector; no picture is known beforehand."""
    forget(trainee)
    trainee.unet.zero_grad()
    trainee.loss(given).total.backward()
    found = torch.cat([p.grad.flatten() for p in trainee.unet.parameters()])
    trainee.unet.zero_grad()
    return found


@pytest.mark.parametrize("change", ["order", "channels", "lq", "references"])
def test_what_is_wrong_in_a_batch_is_seen(work: Path, trainee: stages.DiffusionTrainee, change: str) -> None:
    """Turned references, swapped channels, a condition not dropped: other latents, another gradient.

    (The loss alone says little: the tiny network hardly looks at its references.)
    """
    right = batch(work, [1, 1])
    wrong = batch(work, [float(change != "lq"), float(change != "references")])
    tensors, moved = dict(wrong.tensors), {"order": {2}, "channels": {0, 1, 2}, "lq": {1}, "references": {2}}
    if change == "order":
        tensors["references"] = torch.cat(tensors["references"].split(32, 2)[::-1], 2)
    if change == "channels":
        tensors |= {key: tensors[key].flip(3) for key in ("target", "lq", "references")}
    wrong = data.Batch(tensors, wrong.keys)
    forget(trainee)
    latents = trainee.encode(right)
    forget(trainee)
    for i, (a, b) in enumerate(zip(latents, trainee.encode(wrong), strict=True)):
        distance = float((a - b).norm() / a.norm())
        assert distance > 0.5 if i in moved[change] else distance == 0
    expected = gradient(trainee, right)
    assert torch.equal(gradient(trainee, right), expected)  # the same batch gives the same bits
    assert float((gradient(trainee, wrong) - expected).norm()) > 0.1 * float(expected.norm())
    forget(trainee)


def test_the_target_of_the_identity_loss_is_decoded_once(work: Path, trainee: Any, monkeypatch: Any) -> None:
    forget(trainee)
    trainee.loss(batch(work, [1, 1]))
    assert list(trainee.targets) == list(trainee.latents) == [(tiny.NAMES[0], False)]
    known = trainee.encode(batch(work, [1, 1]))[0]
    trainee.latents.clear()
    trainee.room = 0
    assert torch.equal(trainee.encode(batch(work, [1, 1]))[0], known) and not trainee.latents
    trainee.room = 1e9
    monkeypatch.setattr(losses.Identity, "target", None)
    trainee.loss(batch(work, [1, 1]))


def test_recomputing_the_decoder_changes_no_gradient(work: Path, trainee: stages.DiffusionTrainee) -> None:
    from accelerate import Accelerator

    tensors, _ = checkpoint.read_tensors(work / "ldm.safetensors")
    chosen = tiny.config(**PLAIN, recompute=True)
    frozen = stages.first_stage(chosen, None, tensors)
    other = stages.DiffusionTrainee(chosen, Accelerator(cpu=True), frozen, tensors, tiny.Faces())
    grads = []
    for one in (trainee, other):
        one.unet.zero_grad()
        one.loss(batch(work, [1, 1])).total.backward()
        grads.append([p.grad.clone() for p in one.unet.parameters()])
        one.unet.zero_grad()
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*grads, strict=True))


def test_bf16_trains_and_validates(work: Path, tmp_path: Path) -> None:
    result = tiny.run(work, tmp_path, tiny.config(steps=3, precision="bf16", log_every=1))
    full = tiny.run(work, tmp_path / "full", tiny.config(steps=3, log_every=1))
    assert result.losses["loss"] == pytest.approx(full.losses["loss"], rel=0.05)
    assert result.losses["loss"] != full.losses["loss"]


def test_augmented_references_stay_where_they_are_meant_to() -> None:
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(60, 200, (8, 8, 3), np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    static = tiny.config(**PLAIN)
    assert np.array_equal(augment.reference(picture, static, rng), picture)
    mirrored = augment.reference(picture, replace(static, reference_flip=1.0), rng)
    assert np.array_equal(mirrored, picture[:, ::-1])
    for seed in range(20):
        matrix = augment.placement(64, 64, tiny.config(), np.random.default_rng(seed))
        corners = np.array([[0, 0, 1], [63, 0, 1], [63, 63, 1], [0, 63, 1]], float).T
        moved = matrix @ corners
        moved = moved[:2] / moved[2]
        # a corner moves at most by tilt 0.2, shift 0.05, zoom 0.05 and turn 2 degrees, of half widths
        assert np.abs(moved - corners[:2]).max() <= 32 * (0.2 + 0.1 + 0.05 + 0.04) * 1.1
    dark = augment.colours(picture, (0.2, 0.0, 0.0, 0.0), np.random.default_rng(1)).astype(float)
    ratio = (dark.sum() / picture.sum(), 0.8, 1.2)
    assert ratio[1] <= ratio[0] <= ratio[2] and ratio[0] != 1


def test_dead_codes_get_a_latents_place(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path / "revived", tiny.config("autoencoder", steps=1, revive_every=8))
    tiny.run(work, tmp_path / "left", tiny.config("autoencoder", steps=1, revive_every=0))
    spread = {}
    for name in ("revived", "left"):
        codes = state(tmp_path / name, 1)["quantize.embedding.weight"]
        spread[name] = float(codes.std())
    assert spread["revived"] > 3 * spread["left"]  # first codes lie within 1/32 of zero, latents do not


def test_a_perceptual_loss_is_part_of_the_autoencoders(work: Path, tmp_path: Path) -> None:
    """L1 + weight x LPIPS + codebook, of the reconstruction against the picture, both in [-1, 1]."""
    seen = []

    def brightness(made: Any, pictures: Any) -> Any:
        seen.append(
            (made.requires_grad, pictures.requires_grad, float(pictures.min()), float(pictures.max()))
        )
        return (made - pictures).mean((1, 2, 3), keepdim=True).square() + 3

    chosen = tiny.config("autoencoder", steps=1, perceptual_weight=0.5, codebook_weight=2.0, log_every=1)
    given = training.Given(perceptual=brightness)
    found = training.train(chosen, tiny.source(work / "photos"), tmp_path, given, device="cpu").losses
    assert found["loss_lpips"] >= 3
    total = found["loss_l1"] + 0.5 * found["loss_lpips"] + 2 * found["loss_codebook"]
    assert found["loss"] == pytest.approx(total, rel=1e-5)
    (reconstruction_learns, picture_learns, low, high), *more = seen
    assert reconstruction_learns and not picture_learns and not more
    assert -1 <= low < 0 < high <= 1
    without = replace(chosen, perceptual_weight=0.0)
    found = training.train(without, tiny.source(work / "photos"), tmp_path / "no", given, device="cpu").losses
    assert "loss_lpips" not in found and len(seen) == 1


class Metric(torch.nn.Module):
    """Stands for a network of pyiqa; it notes the range of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.ranges: list[tuple[float, float]] = []

    def forward(self, pictures: Any, target: Any) -> Any:
        self.ranges += [(float(x.min()), float(x.max())) for x in (pictures.detach(), target)]
        return self.scale * (pictures - target).abs().mean((1, 2, 3))


def test_lpips_is_pyiqas(work: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its network stays as it is, and gets pictures in [0, 1], as it wants them."""
    metric, asked = Metric(), []

    def create_metric(name: str, **more: Any) -> Metric:
        asked.append((name, more))
        return metric

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    more = ["--unverified", "--set", "perceptual_weight=1.0"]
    done = command(work, dataset, "autoencoder", tmp_path / "run", *more)
    assert done.exit_code == 0, done.output
    assert asked == [("lpips-vgg", {"as_loss": True})]
    assert not metric.scale.requires_grad and float(metric.scale) == 1
    (_, _), (low, high), *_ = metric.ranges  # of the reconstruction, of the picture
    assert 0 <= low < 0.3 and 0.7 < high <= 1
    wide = losses.UnitRange(Metric())
    made = torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3).requires_grad_()
    wide(made, torch.full((1, 1, 1, 3), -1.0)).sum().backward()
    assert wide.metric.ranges == [(0.0, 1.0), (0.0, 0.0)]
    assert made.grad.flatten().tolist() == pytest.approx([0, 1 / 6, 1 / 6])


# ---- bad input -----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_the_run(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=2, save_every=2))
    before = state(tmp_path, 2)
    normal = stages.losses.noise_loss

    def nan(*arguments: Any) -> Any:
        return normal(*arguments) * float("nan")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages.losses, "noise_loss", nan)
        with pytest.raises(UserError, match=r"at step 2.*step-00000002 is the last good checkpoint"):
            tiny.run(work, tmp_path, tiny.config(steps=4, save_every=2), resume=True)
    assert runs.RunFolder(tmp_path).steps() == [2]
    after = state(tmp_path, 2)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_full_disk_keeps_the_old_checkpoint(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))  # writing more fails as on a full disk
    try:
        with pytest.raises(UserError, match="step-00000002 stands; free space.*--resume"):
            tiny.run(work, tmp_path, tiny.config(steps=4), resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    folder = runs.RunFolder(tmp_path)
    assert folder.steps() == [2] and not list(folder.checkpoints.glob(".*"))
    assert tiny.run(work, tmp_path, tiny.config(steps=4), resume=True).step == 4


def test_too_little_space_is_seen_before_anything_is_written(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "SPARE_BYTES", 1 << 62)
    with pytest.raises(UserError, match="it needs .* GB and .* GB are free"):
        tiny.run(work, tmp_path, tiny.config(steps=1))


def test_a_picture_that_cannot_be_read_is_left_out(work: Path, tmp_path: Path) -> None:
    photos = tiny.write_photos(tmp_path / "photos")
    (photos / tiny.NAMES[4]).write_bytes(b"no picture")
    samples = Samples(tiny.source(photos), tiny.config("ldm"), LATENT)
    made = [samples[number] for number in range(8)]
    assert [line for one in made for line in one.skipped if tiny.NAMES[4] in line]
    assert tiny.NAMES[4] not in {one.key[0] for one in made}
    run = tiny.config("ldm", steps=2, batch_size=8, identity_weight=0.0)
    (tmp_path / "ldm.safetensors").symlink_to(work / "ldm.safetensors")
    result = tiny.run(tmp_path, tmp_path / "run", run)
    assert result.skipped == 2  # once an epoch
    assert tiny.NAMES[4] in (tmp_path / "run/left_out.txt").read_text()


def test_missing_pictures_are_named(work: Path, tmp_path: Path) -> None:
    photos = tiny.write_photos(tmp_path / "photos")
    (photos / tiny.NAMES[1]).unlink()
    with pytest.raises(UserError, match=r"1 of 12 pictures are missing .*person0/1.png"):
        tiny.source(photos).check()
    with pytest.raises(UserError, match="not a path below"):
        replace(tiny.source(photos), train=[ReferenceRow("../secret.png")]).check()


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"batchsize": 3}, "unknown key 'batchsize' (did you mean batch_size?)."),
        ({"lr": "fast"}, "lr is 'fast': give a number."),
        ({"steps": 2.5}, "steps is 2.5: give a whole number."),
        ({"steps": True}, "steps is True: give a whole number."),
        ({"loss": "l3"}, "loss is 'l3': give one of l2, l1."),
        ({"jitter": [1]}, "give 4 numbers"),
        ({"drop": 2.0}, "drop must be from 0 to 1."),
        ({"own": -0.1}, "own must be from 0 to 1."),
        ({"lq_drop": 1.1}, "lq_drop must be from 0 to 1."),
        ({"snr_gamma": -5}, "snr_gamma must not be negative."),
        ({"lr": float("nan")}, "lr must be above 0."),
        ({"batch_size": 3, "accumulate": 2}, "a multiple of accumulate."),
        ({"architecture": {"unet": {"width": 3}}}, "unknown key 'width'"),
        ({"architecture": "demo.toml"}, "architecture must be a table."),
    ],
)
def test_configurations_are_checked(table: dict[str, Any], sentence: str) -> None:
    base = {"stage": "ldm", "steps": 1, "batch_size": 1}
    with pytest.raises(UserError) as caught:
        settings.parse({**base, **table}, "my.toml")
    assert sentence in str(caught.value) and "my.toml" in str(caught.value)
    assert settings.parse(json.loads(json.dumps(tiny.config().table())), "it") == tiny.config()


def test_a_configuration_names_the_file_of_its_architecture(tmp_path: Path) -> None:
    from ffhqref.cli.train import configure

    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes/small.toml").write_text("height = 64\nwidth = 64\n[unet]\nchannels = 32\n")
    runs_of = {stage: tmp_path / f"{stage}.toml" for stage in ("autoencoder", "ldm")}
    for stage, path in runs_of.items():
        keys = f'stage = "{stage}"\nsteps = 1\nbatch_size = 1\n'
        path.write_text(f'{keys}architecture = "sizes/small.toml"\n')
    ldm = configure("ldm", str(runs_of["ldm"]), {}, False)
    assert (ldm.architecture.height, ldm.architecture.unet.channels) == (64, 32)
    larger = configure("ldm", str(runs_of["ldm"]), {"architecture": {"height": 128}}, False)
    assert (larger.architecture.height, larger.architecture.unet.channels) == (128, 32)
    first = configure("autoencoder", str(runs_of["autoencoder"]), {}, False)
    assert first.architecture == Architecture(height=64, width=64), "it has no denoiser"
    RunFolder(tmp_path / "run").write_config({"config": ldm.table()})
    (tmp_path / "sizes/small.toml").unlink()
    assert configure("ldm", None, {}, tmp_path / "run") == ldm, "a run keeps its sizes"
    with pytest.raises(UserError, match="Cannot read .*small.toml"):
        configure("ldm", str(runs_of["ldm"]), {}, False)
    for outside in ("../sizes.toml", "/etc/passwd"):
        runs_of["ldm"].write_text(f'{keys}architecture = "{outside}"\n')
        with pytest.raises(UserError, match=f"ldm.toml: architecture '{outside}' must be a file below"):
            configure("ldm", str(runs_of["ldm"]), {}, False)


def test_settings_are_given_one_by_one() -> None:
    from ffhqref.cli.train import parse_settings

    given = ["architecture.unet.blocks=2", "architecture.height=64", "loss=l1", "zoom=[1.0, 1.1]"]
    sizes = {"unet": {"blocks": 2}, "height": 64}
    assert parse_settings(given) == {"architecture": sizes, "loss": "l1", "zoom": [1.0, 1.1]}
    assert parse_settings(["lr=1", "lr.x=2"]) == {"lr": {"x": 2}}, "for `parse` to refuse"
    with pytest.raises(UserError, match="give key=value"):
        parse_settings(["lr"])


def test_the_demos_stages_share_their_networks() -> None:
    from ffhqref.cli.train import configure

    names = {"copy": "refldm", "ldm": "ldm", "refldm": "refldm", "autoencoder": "autoencoder"}
    found = {name: configure(stage, f"demo-{name}", {}, False) for name, stage in names.items()}
    size = AutoencoderSize(channels=32, multipliers=(1, 1, 2), blocks=1, latent=4, codes=4096, groups=8)
    unet = UNetSize(
        in_channels=8, out_channels=4, channels=32, multipliers=(1, 2), blocks=1, attention=(2,), groups=8
    )
    first = Architecture(height=64, width=64, autoencoder=size)
    whole = replace(first, unet=unet)
    assert [found[name].architecture for name in names] == [whole, whole, whole, first]


def test_shipped_configurations_are_the_papers() -> None:
    from ffhqref.cli.train import configure

    found = {name: configure(name, None, {}, False) for name in ("autoencoder", "ldm", "refldm")}
    assert [(c.steps, c.batch_size, c.lr) for c in found.values()] == [
        (200_000, 32, 1e-4), (500_000, 40, 5e-5), (150_000, 8, 5e-5)
    ]  # fmt: skip
    assert found["refldm"].warmup == 10_000 and found["refldm"].references == 5
    assert stages.learning_rate(found["refldm"], 4_999) == pytest.approx(2.5e-5)
    assert [(c.clip, c.snr_gamma, c.own, c.lq_drop) for c in found.values()] == [
        (0.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
    ]  # fmt: skip
    for name, key in (("autoencoder", "revive_every"), ("ldm", "clip"), ("refldm", "clip")):
        text = (ROOT / f"manifests/train/{name}.toml").read_text()
        assert f"\n{key} = " in text and f"Not in the release, whose own value is {key} = 0:" in text
    assert stages.learning_rate(found["autoencoder"], 200_000) == pytest.approx(1e-6)


def test_a_run_that_is_there_is_not_overwritten(work: Path, straight: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already holds a run at step 40: add --resume"):
        tiny.run(work, straight, tiny.config(steps=40))
    with pytest.raises(UserError, match="started with another batch_size, lr, seed"):
        tiny.run(work, straight, tiny.config(steps=50, seed=1, lr=0.5), resume=True)
    with pytest.raises(UserError, match="holds no training run"):
        tiny.run(work, tmp_path, tiny.config(), resume=True)


def test_a_run_goes_on_with_what_it_was_started_with(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.coarse, "level", "severe", raising=False)
        with pytest.raises(UserError, match="on other data or another level"):
            tiny.run(work, tmp_path, tiny.config(steps=2), resume=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny.Faces, "digest", "0" * 64, raising=False)
        with pytest.raises(UserError, match="with another recogniser"):
            tiny.run(work, tmp_path, tiny.config(steps=2), resume=True)


def test_a_damaged_checkpoint_is_named(work: Path, tmp_path: Path) -> None:
    tiny.run(work, tmp_path, tiny.config(steps=1))
    (runs.RunFolder(tmp_path).of(1) / runs.OPTIMIZER).write_bytes(b"\x00" * 9)
    with pytest.raises(UserError, match="step-00000001 is damaged"):
        tiny.run(work, tmp_path, tiny.config(steps=2), resume=True)
    save_file({"denoiser.0.exp_avg": torch.zeros(3)}, runs.RunFolder(tmp_path).of(1) / runs.OPTIMIZER)
    for text in ('{"step": 1}', "[]", "5", "null", "[" * 100_000, "9" * 5000, '{"best": [[], {}]}'):
        (runs.RunFolder(tmp_path).of(1) / runs.STATE).write_text(text)
        with pytest.raises(UserError, match="step-00000001 is damaged"):
            tiny.run(work, tmp_path, tiny.config(steps=2), resume=True)
    for text in ("[]", "[" * 100_000, "5"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="holds no training run"):
            tiny.run(work, tmp_path, tiny.config(steps=2), resume=True)


def test_files_of_a_run_have_the_mode_that_the_umask_gives(work: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        tiny.run(work, tmp_path, tiny.config(steps=1))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in runs.RunFolder(tmp_path).of(1).iterdir()}
    assert modes == dict.fromkeys((runs.MODEL, runs.OPTIMIZER, runs.STATE), 0o640)


def test_metrics_have_no_file_before_they_have_a_line(tmp_path: Path) -> None:
    log = runs.Log(tmp_path, 0)
    assert not log.path.exists()
    for step in (1, 2, 3):
        log.write(step, {"loss": 1.0})
    log.close()
    runs.Log(tmp_path, 1).close()
    assert log.path.read_text() == '{"step": 1, "loss": 1.0}\n'


def test_on_a_gpu_training_asks_for_deterministic_kernels() -> None:
    class There:
        device = torch.device("cuda")

    before = torch.backends.cudnn.benchmark
    with training.numerics(There(), tiny.config()):  # type: ignore[arg-type]
        assert torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled() and torch.backends.cudnn.benchmark == before


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(work: Path) -> Path:
    """A built tree that no `build-refs` has made: verify does not pass it."""
    out = work / "dataset"
    (out / "reference_mapping").mkdir(parents=True)
    (out / "id_based_ffhq_split").mkdir()
    rows = tiny.source(work / "photos")
    for split, chosen in (("train", rows.train), ("val", rows.validation)):
        lines = [f'{row.target},"{list(row.references)!r}"' for row in chosen]
        header = "gt_image,ref_image" if split == "train" else "gt_image,lq_image,ref_image"
        if split == "val":
            lines = [line.replace(",", f",{row.target},", 1) for line, row in zip(lines, chosen, strict=True)]
        text = "\n".join([header, *lines]) + "\n"
        (out / "reference_mapping" / f"{split}_references.csv").write_text(text)
    names = "\n".join(row.target for row in rows.train)
    (out / "id_based_ffhq_split" / "train_image.txt").write_text(names + "\n")
    return out


def arguments(work: Path, dataset: Path, stage: str, out: Path, *more: str) -> list[str]:
    """Of the command, for two steps with tiny networks."""
    chosen = tiny.config(stage, steps=2, identity_weight=0.0)
    return [*tiny.arguments(chosen, dataset, work / "photos", out), *more]


def command(work: Path, dataset: Path, stage: str, out: Path, *more: str) -> Any:
    return CliRunner().invoke(app, arguments(work, dataset, stage, out, *more))


def test_sigterm_saves_and_the_run_goes_on(work: Path, dataset: Path, tmp_path: Path) -> None:
    """The command as a process of its own; what was stopped and resumed ends with a straight run's bits."""
    out = tmp_path / "stopped"
    more = ["--unverified", "--init", str(work / "ldm.safetensors"), "--set", "save_every=100000",
            "--set", "log_every=1"]  # fmt: skip
    program = [sys.executable, "-m", "ffhqref", *arguments(work, dataset, "refldm", out, *more)]
    run = subprocess.Popen(
        [*program, "--steps", "100000"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    metrics = out / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    said, warned = run.communicate(timeout=120)
    assert re.search(r"Stopping: step [\d,]+ is being finished .* loses all that was trained", warned), warned
    assert run.returncode == 130 and said.strip().endswith("--resume") and str(out) in said
    assert "--init" in said, "without it the command would not run"
    (step,) = runs.RunFolder(out).steps()
    more += ["--steps", str(step + 3)]
    resumed = command(work, dataset, "refldm", out, *more, "--resume")
    assert resumed.exit_code == 0 and f"{step + 3} of {step + 3} steps" in resumed.output, resumed.output
    assert command(work, dataset, "refldm", tmp_path / "straight", *more).exit_code == 0
    same(tmp_path / "straight", out, step + 3)


def runs_as_printed(said: str, work: Path) -> None:
    """The command that the last line names, for a step of a small batch: its networks are the same."""
    words = shlex.split(said.strip().splitlines()[-1].partition("Next: ffhqref ")[2])
    small = ["--steps", "1", "--batch-size", "2", "--workers", "0", "--set", "validation_pictures=0"]
    done = CliRunner().invoke(app, [*words, *small])
    assert done.exit_code == 0 and "1 of 1 steps" in done.output, (words, done.output)
    assert Path(words[words.index("--out") + 1]).parent == work
    shutil.rmtree(words[words.index("--out") + 1])


def test_the_three_stages_one_after_another(work: Path, dataset: Path, tmp_path: Path) -> None:
    first = command(work, dataset, "autoencoder", tmp_path / "ae", "--unverified")
    assert first.exit_code == 0, first.output
    assert "2 of 2 steps" in first.output and "Next: ffhqref train ldm" in first.output
    runs_as_printed(first.output, tmp_path)
    model = tmp_path / "ae/checkpoints/step-00000002/model.safetensors"
    second = command(work, dataset, "ldm", tmp_path / "ldm", "--unverified", "--autoencoder", str(model))
    assert second.exit_code == 0, second.output
    runs_as_printed(second.output, tmp_path)
    model = tmp_path / "ldm/checkpoints/step-00000002/model.safetensors"
    third = command(work, dataset, "refldm", tmp_path / "refldm", "--unverified", "--init", str(model),
                    "--set", "references=3", "--steps", "3")  # fmt: skip
    assert third.exit_code == 0, third.output
    assert "3 of 3 steps" in third.output and "Next: ffhqref degrade" in third.output
    (dataset / "test_images" / "severe_degrad").mkdir(parents=True)
    again = command(work, dataset, "refldm", tmp_path / "refldm", "--unverified", "--resume",
                    "--set", "references=3", "--steps", "3")  # fmt: skip
    shutil.rmtree(dataset / "test_images")
    for said, name in ((third.output, "degrade"), (again.output, "restore")):
        words = shlex.split(said.strip().splitlines()[-1].partition("Next: ffhqref ")[2])
        assert words[0] == name, said
        group: Any = typer.main.get_command(app)
        group.commands[name].make_context(name, words[1:])
    more = ["train", "refldm", "--data", str(dataset), "--images", str(work / "photos"), "--unverified",
            "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "refldm"), "--resume"]  # fmt: skip
    half = tmp_path / "refldm/checkpoints/.step-00000009.partial"  # as a killed run leaves it
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    fourth = CliRunner().invoke(app, [*more, "--steps", "4"])
    assert fourth.exit_code == 0 and "4 of 4 steps" in fourth.output, fourth.output
    assert not half.exists()
    published = tmp_path / "mine.ckpt"
    last = tmp_path / "refldm/checkpoints/step-00000004/model.safetensors"
    fifth = CliRunner().invoke(app, ["convert", "--checkpoint", str(last), "--out", str(published)])
    assert fifth.exit_code == 0 and "laid out as the published refldm.ckpt" in fifth.output, fifth.output
    found = checkpoint.load_networks(published, architecture=tiny.ARCHITECTURE)
    ours = checkpoint.load_networks(last)
    assert all(torch.equal(a, b) for a, b in zip(*(n.unet.state_dict().values() for n in (found, ours)),
                                                 strict=True))  # fmt: skip
    stage = tmp_path / "ae/checkpoints/step-00000002/model.safetensors"
    alone = CliRunner().invoke(app, ["convert", "--checkpoint", str(stage), "--out", str(published)])
    assert alone.exit_code == 0 and "published vqgan.ckpt" in alone.output, alone.output
    assert checkpoint.first_stage_state(checkpoint.read_tensors(published)[0])


@pytest.mark.parametrize(
    ("stage", "more", "sentence"),
    [
        ("ldm", [], "add --unverified"),
        ("ldm", ["--unverified"], "No first stage was given: add --autoencoder"),
        ("refldm", ["--unverified"], "give --init with a checkpoint of `ffhqref train ldm`"),
        ("ldm", ["--unverified", "--set", "nonsense=1"], "unknown key 'nonsense'"),
        ("ldm", ["--unverified", "--set", "nonsense"], "give key=value"),
        ("ldm", ["--unverified", "--set", "identity_weight=0.1"], "needs a recogniser: give --identity"),
        ("ldm", ["--unverified", "--identity", "none.onnx"], "There is no network none.onnx"),
        ("ldm", ["--unverified", "--autoencoder", "none.ckpt"], "There is no checkpoint none.ckpt"),
        ("ldm", ["--unverified", "--level", "none"], "There is no level 'none'"),
        ("autoencoder", ["--unverified", "--set", "perceptual_weight=1"], "pip install pyiqa"),
    ],
)
def test_bad_input_is_one_sentence(
    stage: str, more: list[str], sentence: str, work: Path, dataset: Path, tmp_path: Path
) -> None:
    if "pyiqa" in sentence:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "pyiqa", None)
            result = command(work, dataset, stage, tmp_path / "run", *more)
    else:
        result = command(work, dataset, stage, tmp_path / "run", *more)
    assert result.exit_code == 1, result.output
    assert sentence in result.output.replace("\n", " ")
    assert "Traceback" not in result.output and not (tmp_path / "run/checkpoints").exists()


# ---- pictures as a photograph has them -----------------------------------------------------------


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:, :24] = 220  # light on the left
    turned = Image.fromarray(np.rot90(upright).copy())  # as the camera was held
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    turned.save(tmp_path / "photo.jpg", exif=exif, quality=95)
    read = data.Pictures(tmp_path, 32, 48).read("photo.jpg")
    np.testing.assert_allclose(read.astype(int), upright, atol=12)


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    cv2.imwrite(str(tmp_path / "ramp.png"), ramp)
    read = data.Pictures(tmp_path, 256, 256).read("ramp.png")
    assert abs(float(read.mean()) - 127.5) < 1 and read[0, 128].max() in (127, 128, 129)
