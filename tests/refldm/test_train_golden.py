"""The losses and schedules against golden arrays of the published code (tests/golden/README.md).

Another set of the same structure is tested by FFHQREF_GOLDEN=FOLDER; sizes come from its files.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.unet import UNet, UNetSize
from ffhqref.refldm.training import optimise
from ffhqref.refldm.training.losses import (
    Diffusion,
    Identity,
    diffusion_loss,
    face_of,
    identity_distance,
    identity_weight,
    keep_masks,
)
from tests.golden_cases import CASES

ARRAY, SCALAR, GRADIENT = 1e-4, 1e-4, 1e-3
RUNS = {"simple": None, "identity": "sqrt_alpha_bar", "identity_unscaled": "none",
        "identity_t500": "t<500", "refdrop": "sqrt_alpha_bar"}  # fmt: skip
Arrays = dict[str, Any]


def load(name: str) -> Arrays:
    with np.load(CASES / f"{name}.npz") as file:
        return {
            key: file[key] if file[key].dtype.kind == "U" else torch.from_numpy(file[key])
            for key in file.files
        }


def close(ours: Any, theirs: Any, tolerance: float = ARRAY) -> None:
    assert ours.shape == theirs.shape
    worst = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    assert worst <= tolerance, f"differs by {worst:.1e} of the largest value"


CONFIG = json.loads((CASES / "config.json").read_text())


@pytest.fixture(scope="module")
def case() -> Arrays:
    return load("train_loss")


@pytest.fixture(scope="module")
def networks() -> tuple[UNet, Autoencoder]:
    stage = CONFIG["model"]["first_stage_config"]["params"]
    inner, unet = stage["ddconfig"], CONFIG["model"]["unet_config"]["params"]
    autoencoder = Autoencoder(
        AutoencoderSize(
            channels=inner["ch"], multipliers=tuple(inner["ch_mult"]), blocks=inner["num_res_blocks"],
            latent=inner["z_channels"], codes=stage["n_embed"],
        )
    )  # fmt: skip
    denoiser = UNet(
        UNetSize(
            in_channels=unet["in_channels"], out_channels=unet["out_channels"],
            channels=unet["model_channels"], multipliers=tuple(unet["channel_mult"]),
            blocks=unet["num_res_blocks"], attention=tuple(unet["attention_resolutions"]),
            head_channels=unet["num_head_channels"],
        )
    )  # fmt: skip
    autoencoder.load_state_dict(checkpoint.first_stage_state(load_file(CASES / "vqgan_tiny.safetensors")))
    raw, _ = checkpoint.unet_state(load_file(CASES / "refldm_tiny.safetensors"), denoiser, "raw")
    denoiser.load_state_dict(raw)
    return denoiser, autoencoder.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def recognise() -> Any:
    """The cases' stand-in for a face recogniser."""
    w = load_file(CASES / "fake_identity.safetensors")

    def network(x: Any) -> Any:
        h = torch.tanh(torch.nn.functional.conv2d(x, w["conv.weight"], w["conv.bias"], stride=2, padding=2))
        h = torch.nn.functional.adaptive_avg_pool2d(h, 4).flatten(1)
        return h @ w["fc.weight"].T + w["fc.bias"]

    return network


def identity_of(case: Arrays, autoencoder: Autoencoder, recognise: Any, scaling: str) -> Identity:
    side = tuple(case["id_preprocessed_pred"].shape[2:])
    return Identity(decode=autoencoder.decode, recognise=recognise, scaling=scaling, side=side)  # type: ignore[arg-type]


def pictures(values: Any) -> Any:
    return values.permute(0, 3, 1, 2).float() / 127.5 - 1


def test_latents_of_a_batch(case: Arrays, networks: tuple[UNet, Autoencoder]) -> None:
    with torch.no_grad():
        for latents, key in (("z", "gt_u8"), ("lq_latent", "lq_u8"), ("ref_latent", "refs_u8")):
            close(networks[1].encode(pictures(case[key])), case[latents])
        close(networks[1].decode(case["z"]), case["gt_reconstruction"])


def predict(case: Arrays, unet: UNet, references: Any) -> tuple[Any, Any]:
    x = Diffusion().noised(case["z"], case["t"], case["noise"])
    cache = [unet.cache_references(references, x.shape[3])]
    return x, unet(x, case["t"], case["lq_latent"], cache)


def test_intermediate_arrays(case: Arrays, networks: tuple[UNet, Autoencoder], recognise: Any) -> None:
    unet, autoencoder = networks
    diffusion, t = Diffusion(), case["t"]
    with torch.no_grad():
        x, eps = predict(case, unet, case["ref_latent"])
        close(x, case["x_noisy"])
        close(eps, case["eps"])
        x0 = diffusion.clean(x, t, eps)
        close(x0, case["x0_pred"])
        sure = case["x0_pred_index_margin"] > 5e-4
        assert bool((autoencoder.quantize.indices(x0) == case["x0_pred_indices"])[sure].all())
        image = autoencoder.decode(x0)
        close(image, case["x0_pred_image"])
        side = tuple(case["id_preprocessed_pred"].shape[2:])
        close(face_of(image, side), case["id_preprocessed_pred"])
        target = identity_of(case, autoencoder, recognise, "none").target(case["z"])
        close(identity_distance(image, target, recognise, side), case["id_loss_per_sample"])
        weights = identity_weight("sqrt_alpha_bar", t, diffusion.tables["sqrt_alphas_cumprod"])
        close(weights, case["id_weight_per_sample"])


def losses(
    run: str, case: Arrays, networks: tuple[UNet, Autoencoder], recognise: Any, references: Any = None
) -> tuple[Any, UNet]:
    """One of the five runs, with gradients in the returned network."""
    unet, autoencoder = networks
    unet.zero_grad()
    if references is None:
        references = case["ref_latent"] * (run != "refdrop")
    x, eps = predict(case, unet, references)
    identity = target = None
    if RUNS[run]:
        identity = identity_of(case, autoencoder, recognise, str(RUNS[run]))
        target = identity.target(case["z"])
    found = diffusion_loss(Diffusion(), eps, case["noise"], x, case["t"], "l2", identity, target)
    found.total.backward()
    return found, unet


@pytest.mark.parametrize("run", RUNS)
def test_losses_and_gradients(
    run: str, case: Arrays, networks: tuple[UNet, Autoencoder], recognise: Any
) -> None:
    found, unet = losses(run, case, networks, recognise)
    assert found.total.item() == pytest.approx(float(case[f"{run}_total"]), rel=SCALAR)
    parts = [key.removeprefix(f"{run}_") for key in case if key.startswith(f"{run}_loss")]
    assert {part: found.parts[part].item() for part in parts} == pytest.approx(
        {part: float(case[f"{run}_{part}"]) for part in parts}, rel=SCALAR
    )
    named = dict(unet.named_parameters())
    ours = [named[str(name)].grad.norm().item() for name in _own_names(case["grad_names"])]
    assert ours == pytest.approx(case[f"{run}_grad_norms"].tolist(), rel=GRADIENT)
    every = sum(float(p.grad.double().square().sum()) for p in unet.parameters()) ** 0.5
    assert every == pytest.approx(float(case[f"{run}_grad_norm_all"]), rel=GRADIENT)


def _own_names(official: Any) -> list[str]:
    return [str(name).split("diffusion_model.")[-1] for name in official]


def test_a_wrong_batch_is_seen(case: Arrays, networks: tuple[UNet, Autoencoder], recognise: Any) -> None:
    """References of another picture, swapped channels, a condition that was to be dropped: other losses."""
    right = float(case["identity_loss"])
    wrong = losses("identity", case, networks, recognise, case["ref_latent"].roll(1, 0))[0].total.item()
    assert wrong != pytest.approx(right, rel=10 * SCALAR)
    with torch.no_grad():
        refs = networks[1].encode(pictures(case["refs_u8"]).flip(1))
        pieces = pictures(case["refs_u8"]).split(case["gt_u8"].shape[2], 3)
        turned = networks[1].encode(torch.cat(pieces[::-1], 3))
    assert losses("identity", case, networks, recognise, refs)[0].total.item() != pytest.approx(
        right, rel=10 * SCALAR
    )
    with pytest.raises(AssertionError):
        close(torch.cat(turned.split(case["z"].shape[3], 3)[::-1], 3), case["ref_latent"], 10 * ARRAY)
    kept = losses("refdrop", case, networks, recognise, case["ref_latent"])[0].total.item()
    assert kept != pytest.approx(float(case["refdrop_loss"]), rel=10 * SCALAR)


def test_dropped_conditions() -> None:
    case = load("cond_drop")
    generator = torch.Generator().manual_seed(int(case["seed"]))
    kept = keep_masks(len(case["keep_lq"]), ("lq", "ref"), generator, float(case["p"]))
    assert torch.equal(kept["lq"], case["keep_lq"]) and torch.equal(kept["ref"], case["keep_ref"])


def test_moving_average() -> None:
    case = load("ema")
    layer = torch.nn.ParameterDict({"w": case["initial"].clone()})
    ema = optimise.Ema.of(layer, float(case["decay"]))
    for weights, shadow in zip(case["weights"], case["shadow"], strict=True):
        ema.update([("w", weights)])
        close(ema.shadow["w"], shadow, 1e-6)
    assert ema.updates == int(case["num_updates"])


def test_learning_rates() -> None:
    case = load("lr")
    steps = [int(step) for step in case["steps"]]

    def same(ours: list[float], name: str) -> None:
        assert ours == pytest.approx(case[name].tolist(), rel=1e-10, abs=1e-10)

    cosine = json.loads(str(case["cosine_args"]))
    same([optimise.warmup_cosine(step, **cosine) for step in steps], "cosine")


def test_the_published_layout(tmp_path: Any) -> None:
    """Every key of the published file of this size, with its shape and kind, and nothing else."""
    from safetensors.torch import save_file

    from ffhqref.refldm.model.publish import publish

    tensors = load_file(CASES / "refldm_tiny.safetensors")
    stage = load_file(CASES / "vqgan_tiny.safetensors")
    unet = CONFIG["model"]["unet_config"]["params"]
    size = UNetSize(
        in_channels=unet["in_channels"], out_channels=unet["out_channels"],
        channels=unet["model_channels"], multipliers=tuple(unet["channel_mult"]),
        blocks=unet["num_res_blocks"], attention=tuple(unet["attention_resolutions"]),
        head_channels=unet["num_head_channels"],
    )  # fmt: skip
    ours = {k: v for k, v in tensors.items() if k.startswith("model")}  # the schedule is ours to write
    save_file(ours | {f"first_stage_model.{k}": v for k, v in stage.items()}, tmp_path / "model.safetensors")
    architecture = checkpoint.Architecture(unet=size, height=1024, width=1024)
    assert publish(tmp_path / "model.safetensors", tmp_path / "out.ckpt", None, architecture).whole
    made = torch.load(tmp_path / "out.ckpt", weights_only=True)
    rows = [line.split("\t") for line in (CASES / "refldm_tiny_keys.txt").read_text().splitlines()]
    assert sorted(made) == sorted(row[0] for row in rows)
    assert {k: list(v.shape) for k, v in made.items()} == {row[0]: json.loads(row[1]) for row in rows}
    assert all(str(made[row[0]].dtype).endswith(row[2].removeprefix("torch.")) for row in rows)
    wanted = {
        **tensors,
        **{f"cond_stage_model.ref_image.{k}": v for k, v in stage.items() if "loss" not in k},
    }
    for name, tensor in wanted.items():
        assert torch.allclose(made[name], tensor, rtol=1e-6, atol=0), name
