"""The restorer against golden arrays of the published code (tests/golden/README.md says what each is).

Another set of the same structure is tested by FFHQREF_GOLDEN=FOLDER: all sizes, counts and settings are
read from its config.json and from the arrays' names.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ffhqref.refldm.model import checkpoint, schedule
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.unet import ReferenceCache, UNet, UNetSize, sinusoid
from ffhqref.refldm.restorer import Restorer, SamplingOptions
from tests.golden_cases import CASES, SPEC, write_checkpoints

SINGLE, CHAIN = 1e-4, 3e-4  # of the largest absolute value: one pass, a whole chain
Arrays = dict[str, Any]


def load(name: str) -> Arrays:
    """A case's arrays as tensors; text stays text."""
    with np.load(CASES / f"{name}.npz") as file:
        return {
            key: str(file[key]) if file[key].dtype.kind == "U" else torch.from_numpy(file[key])
            for key in file.files
        }


def settings(keys: Any, pattern: str) -> list[tuple[str, ...]]:
    found = [re.fullmatch(pattern, key) for key in keys]
    chosen = [match.groups() for match in found if match]
    assert chosen, f"no array is named {pattern}"
    return chosen


def close(ours: Any, theirs: Any, tolerance: float = SINGLE) -> None:
    assert ours.shape == theirs.shape
    worst = float((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max())
    assert worst <= tolerance, f"differs by {worst:.1e} of the largest value"


def names(case: str) -> list[str]:
    with np.load(CASES / f"{case}.npz") as file:
        return list(file.files)


REFERENCE_COUNTS = sorted(int(path.stem[len("unet_ref") :]) for path in CASES.glob("unet_ref*.npz"))
WIDE_COUNTS = [int(n) for (n,) in settings(names("vqgan_refs"), r"wide_latent_(\d+)")]
DDIM_RUNS = settings(names("ddim"), r"latent_(uniform\w*)_S(\d+)_cfg([\d.]+)")


@pytest.fixture(scope="module", autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def architecture() -> checkpoint.Architecture:
    config = json.loads((CASES / "config.json").read_text())
    stage = config["model"]["first_stage_config"]["params"]
    inner, unet = stage["ddconfig"], config["model"]["unet_config"]["params"]
    return checkpoint.Architecture(
        height=config["image_hw"][0],
        width=config["image_hw"][1],
        autoencoder=AutoencoderSize(
            channels=inner["ch"], multipliers=tuple(inner["ch_mult"]), blocks=inner["num_res_blocks"],
            latent=inner["z_channels"], codes=stage["n_embed"],
        ),
        unet=UNetSize(
            in_channels=unet["in_channels"], out_channels=unet["out_channels"],
            channels=unet["model_channels"], multipliers=tuple(unet["channel_mult"]),
            blocks=unet["num_res_blocks"], attention=tuple(unet["attention_resolutions"]),
            head_channels=unet["num_head_channels"],
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """refldm.ckpt (a bare mapping) and vqgan.ckpt (under "state_dict"), as the release lays them out."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_checkpoints(folder)
    return folder


@pytest.fixture(scope="module", params=["plain", "folded"])
def raw(request: pytest.FixtureRequest, checkpoints: Path, architecture: Any) -> tuple[UNet, Autoencoder]:
    """The raw networks, as training uses them and as inference does."""
    if request.param == "folded":
        networks = checkpoint.load_networks(
            checkpoints / "refldm.ckpt", architecture=architecture, weights="raw"
        )  # has a first stage of its own
        return networks.unet, networks.autoencoder
    tensors, _ = checkpoint.read_tensors(checkpoints / "refldm.ckpt")
    unet, stage = UNet(architecture.unet), Autoencoder(architecture.autoencoder)
    unet.load_state_dict(checkpoint.unet_state(tensors, unet, "raw")[0])
    stage.load_state_dict(
        checkpoint.first_stage_state({k: v for k, v in tensors.items() if "first_stage" in k})
    )
    return unet.eval(), stage.eval()


@pytest.fixture(scope="module")
def ema(checkpoints: Path, architecture: Any) -> Restorer:
    networks = checkpoint.load_networks(
        checkpoints / "refldm.ckpt", checkpoints / "vqgan.ckpt", architecture=architecture
    )
    return Restorer(networks)


# The first stage


def test_first_stage_encodes_quantises_and_decodes(raw: tuple[UNet, Autoencoder]) -> None:
    case, stage = load("vqgan"), raw[1]
    close(stage.encode(case["image"].clone()), case["latent"])
    sure = case["index_margin"] > 5e-4
    assert bool((stage.quantize.indices(case["latent"]) == case["indices"])[sure].all())
    quantised, loss = stage.quantize(case["latent"])
    close(quantised, case["quantised"])
    assert float(loss) == pytest.approx(float(case["quant_loss"]), rel=1e-4)
    close(stage.decode(case["latent"]), case["decoded"])
    close(stage.decode(case["latent"], quantize=False), case["decoded_not_quantised"])


@pytest.mark.parametrize("count", WIDE_COUNTS)
def test_references_are_encoded_as_one_wide_picture(count: int, ema: Restorer) -> None:
    case = load("vqgan_refs")
    pictures = list(case["refs_u8"][:count].numpy())
    close(ema.encode_references(pictures, "wide"), case[f"wide_latent_{count}"])
    separate = torch.cat(list(case["separate_latents"][:count]), 2)[None]
    close(ema.encode_references(pictures, "separate"), separate)


@pytest.mark.parametrize("least", [1, 1 << 60])
def test_strips_give_what_whole_pictures_give(
    least: int, raw: tuple[UNet, Autoencoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.refldm.model.layers.STRIP_BYTES", 1)  # strips of 8 rows, the least
    monkeypatch.setattr("ffhqref.refldm.model.winograd.LEAST_PIXELS", least)
    monkeypatch.setattr("ffhqref.refldm.model.winograd.LEAST_CHANNELS", 1)
    case, stage = load("vqgan"), raw[1]
    close(stage.encode(case["image"].clone()), case["latent"])
    close(stage.decode(case["latent"]), case["decoded"])


# The denoiser


def test_denoiser_without_references_block_by_block(raw: tuple[UNet, Autoencoder]) -> None:
    case, unet = load("unet_noref"), raw[0]
    close(sinusoid(case["t"], unet.size.channels), case["sinusoid"])
    close(unet.embed(case["t"]), case["act_time_embed"])
    outputs: dict[str, Any] = {}
    run = unet._run

    def spy(block: Any, *args: Any) -> Any:
        out = run(block, *args)
        outputs[next(name for name, module in unet.named_modules() if module is block)] = out.clone()
        return out

    unet._run = spy  # type: ignore[method-assign]
    try:
        eps = unet(case["x_t"], case["t"], case["lq_latent"])
    finally:
        del unet._run
    close(eps, case["eps"])
    for key in case:
        if key.startswith("act_") and key != "act_time_embed":
            name = re.sub(r"_(\d+)$", r".\1", key[len("act_") :])
            close(outputs[name], case[key])


@pytest.mark.parametrize("count", REFERENCE_COUNTS)
@pytest.mark.parametrize("with_room", [False, True])
def test_denoiser_sees_references(raw: tuple[UNet, Autoencoder], count: int, with_room: bool) -> None:
    case, unet = load(f"unet_ref{count}"), raw[0]
    width = case["x_t"].shape[3]
    assert case["ref_latent"].shape[3] == count * width
    cached = unet.cache_references(case["ref_latent"], width)
    if with_room:
        cached = cached.with_room(unet.own_tokens(*case["x_t"].shape[2:]))
    close(unet(case["x_t"], case["t"], case["lq_latent"], [cached]), case["eps"])
    close(unet(case["x_t_second"], case["t_second"], case["lq_latent"], [cached]), case["eps_second"])
    close(unet(case["x_t"], case["t"], case["lq_latent"]), case["eps_refs_ignored"])


@pytest.mark.parametrize("count", REFERENCE_COUNTS)
def test_both_sides_of_guidance_in_one_batch_with_the_null_reference_kept_once(
    raw: tuple[UNet, Autoencoder], count: int
) -> None:
    case, unet = load(f"unet_ref{count}"), raw[0]
    x, t, lq = (case[key][:1].repeat_interleave(2, 0) for key in ("x_t", "t", "lq_latent"))
    width = x.shape[3]
    references = unet.cache_references(case["ref_latent"][:1], width)
    null = unet.cache_references(torch.zeros_like(case["ref_latent"][:1, :, :, :width]), width)
    once = ReferenceCache(rows=1, layers=null.layers, copies=count)
    for cache in (
        [once, references],
        [s.with_room(unet.own_tokens(*x.shape[2:])) for s in (once, references)],
    ):
        eps = unet(x, t, lq, cache)
        close(eps[:1], case["eps_cfg_uncond"])
        close(eps[1:], case["eps_cfg_cond"])


@pytest.mark.parametrize("count", REFERENCE_COUNTS)
def test_large_latents_are_normalised_as_small_ones(
    raw: tuple[UNet, Autoencoder], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.refldm.model.layers.MOMENTS_BYTES", 1)  # one row at a time
    case, unet = load(f"unet_ref{count}"), raw[0]
    x, t, lq = (case[key][:1] for key in ("x_t", "t", "lq_latent"))
    references = case["ref_latent"][:1]
    null = unet.cache_references(torch.zeros_like(references[:, :, :, : x.shape[3]]), x.shape[3])
    close(unet(x, t, lq, [ReferenceCache(layers=null.layers, copies=count)]), case["eps_cfg_uncond"])
    close(unet(x, t, lq, [unet.cache_references(references, x.shape[3])]), case["eps_cfg_cond"])


def test_cached_keys_and_values(raw: tuple[UNet, Autoencoder]) -> None:
    case, unet = load(f"unet_ref{REFERENCE_COUNTS[-1]}"), raw[0]
    width = case["x_t"].shape[3]
    count = case["ref_latent"].shape[3] // width
    layers = unet.cache_references(case["ref_latent"], width).layers
    narrow = 2 ** (len(unet.size.multipliers) - 1)  # a narrower last piece gives fewer tokens
    uneven = unet.cache_references(case["ref_latent"][:, :, :, : width + narrow], width).layers
    assert uneven[0][0].shape[2] * count * width == layers[0][0].shape[2] * (width + narrow)
    for place, layer in (("first", layers[0]), ("last", layers[-1])):
        for kind, ours in zip("kv", layer, strict=True):
            theirs = case[f"cache_{place}_{kind}"]  # [n, rows * heads, head channels, tokens]
            pieces = torch.stack(torch.chunk(ours, count, 2)).flatten(1, 2).transpose(-1, -2)
            close(pieces, theirs)


# Schedule and sampler


def test_schedule_tables() -> None:
    case = load("schedule")
    np.testing.assert_array_equal(schedule.betas(), case["betas_f64"].numpy())
    np.testing.assert_array_equal(schedule.betas(50), case["betas_f64_T50"].numpy())
    bar = np.cumprod(1 - schedule.betas())
    np.testing.assert_allclose(bar, case["alphas_cumprod_f64"].numpy(), rtol=1e-14)
    ours = schedule.tables(schedule.betas())
    for name in set(case) - {"betas_f64", "alphas_cumprod_f64", "betas_f64_T50", "lvlb_weights"}:
        torch.testing.assert_close(ours[name], case[name], rtol=1e-6, atol=0)


def test_timestep_lists() -> None:
    case = load("ddim_timesteps")
    for key, theirs in case.items():
        kind, steps = re.fullmatch(r"(uniform\w*)_S(\d+)", key).groups()  # type: ignore[union-attr]
        if int(theirs[-1]) == 1000:  # the published sampler crashes there
            with pytest.raises(ValueError, match="asks for timestep 1000"):
                schedule.timesteps(kind, int(steps))  # type: ignore[arg-type]
        else:
            assert schedule.timesteps(kind, int(steps)) == theirs.tolist()  # type: ignore[arg-type]


def test_every_schedule_stays_below_1000_or_is_refused() -> None:
    refused = set()
    for steps in range(1, 1001):
        assert max(schedule.timesteps("uniform_trailing", steps)) == 999
        try:
            assert max(schedule.timesteps("uniform", steps)) < 1000
        except ValueError:
            refused.add(steps)
    published = {3, 9, 27, 36, 37} | set(range(101, 112)) | set(range(251, 334)) | set(range(501, 1001))
    assert refused == published


def test_sigmas() -> None:
    case = load("ddim")
    bar = schedule.tables(schedule.betas())["alphas_cumprod"]
    for kind, steps, eta in settings(case, r"sigmas_(uniform\w*)_S(\d+)_eta([\d.]+)"):
        now, before = schedule.alphas(bar, schedule.timesteps(kind, int(steps)))  # type: ignore[arg-type]
        ours = schedule.sigmas(now, before, float(eta))
        close(ours, case[f"sigmas_{kind}_S{steps}_eta{eta}"], 1e-5)


@pytest.mark.parametrize(("kind", "steps", "scale"), DDIM_RUNS)
def test_ddim(ema: Restorer, kind: Any, steps: str, scale: str) -> None:
    case = load("ddim")
    key = f"{kind}_S{steps}_cfg{scale}"
    chosen = schedule.timesteps(kind, int(steps))
    assert chosen == case[f"timesteps_{key}"].tolist()
    now, before = schedule.alphas(ema.alpha_bar, chosen)
    torch.testing.assert_close(now.double(), case[f"alphas_{key}"], rtol=1e-6, atol=0)
    torch.testing.assert_close(before.double(), case[f"alphas_prev_{key}"], rtol=1e-6, atol=0)
    states: list[Any] = []
    references = [ema.cache_latents(latent[None]) for latent in case["ref_latent"]]
    options = SamplingOptions(steps=int(steps), schedule=kind, guidance=float(scale))
    latent = ema.sample(
        case["x_T"], case["lq_latent"], references, options, watch=lambda x, x0: states.append((x, x0))
    )
    close(latent, case[f"latent_{key}"], CHAIN)
    if f"x_traj_{key}" in case:
        for (x, x0), theirs, theirs_x0 in zip(
            states, case[f"x_traj_{key}"], case[f"pred_x0_traj_{key}"], strict=True
        ):
            close(x, theirs, CHAIN)
            close(x0, theirs_x0, CHAIN)


def _second_scale_first_steps(case: Arrays) -> SamplingOptions:
    runs = [run for run in DDIM_RUNS if run[0] == "uniform_trailing"]
    steps = [int(run[1]) for run in runs]
    scales = list(dict.fromkeys(float(run[2]) for run in runs))
    return SamplingOptions(steps=steps[0], schedule="uniform_trailing", guidance=scales[1])


def test_ddim_with_raw_weights(checkpoints: Path, architecture: Any) -> None:
    case = load("ddim")
    restorer = Restorer(
        checkpoint.load_networks(checkpoints / "refldm.ckpt", architecture=architecture, weights="raw")
    )
    references = [restorer.cache_latents(latent[None]) for latent in case["ref_latent"]]
    latent = restorer.sample(case["x_T"], case["lq_latent"], references, _second_scale_first_steps(case))
    close(latent, case["latent_raw_weights"], CHAIN)


@pytest.mark.parametrize(("kind", "steps", "scale"), DDIM_RUNS)
def test_bfloat16_stays_near(checkpoints: Path, architecture: Any, kind: Any, steps: str, scale: str) -> None:
    case = load("ddim")
    networks = checkpoint.load_networks(checkpoints / "refldm.ckpt", architecture=architecture)
    narrow = Restorer(networks, dtype=torch.bfloat16)
    references = [narrow.cache_latents(latent[None]) for latent in case["ref_latent"]]
    options = SamplingOptions(steps=int(steps), schedule=kind, guidance=float(scale))
    latent = narrow.sample(case["x_T"], case["lq_latent"], references, options)
    theirs = case[f"latent_{kind}_S{steps}_cfg{scale}"]
    # guidance multiplies what is lost: 0.022 to 0.031 of it here and with other networks of these sizes
    assert float((latent - theirs).norm() / theirs.norm()) <= min(0.06, 0.04 * float(scale))


def test_ddim_with_fresh_noise(ema: Restorer) -> None:
    case = load("ddim")
    options = _second_scale_first_steps(case)
    references = [ema.cache_latents(latent[None]) for latent in case["ref_latent"]]
    latent = ema.sample(
        case["x_T"], case["lq_latent"], references, options, eta=1.0, noise=lambda i: case["eta1_noise"][i]
    )
    close(latent, case["eta1_latent"], CHAIN)


# The whole chain


def test_pipeline_from_pictures_to_picture(ema: Restorer) -> None:
    case = load("pipeline")
    references = list(case["refs_u8"].numpy())
    torch.testing.assert_close(ema.noise(int(case["seed"])), case["x_T"], rtol=0, atol=0)
    close(ema.encode(case["lq_u8"].numpy()), case["lq_latent"])
    close(ema.encode_references(references, "wide"), case["ref_latent"])
    options = SamplingOptions(
        steps=int(case["steps"]), schedule=case["schedule"], guidance=float(case["cfg_scale"])
    )  # type: ignore[arg-type]
    cached = ema.cache_references(references)
    latent = ema.sample(case["x_T"], case["lq_latent"], [cached], options)
    close(latent, case["latent"], CHAIN)
    sure = case["index_margin"] > 5e-4
    assert bool((ema.autoencoder.quantize.indices(latent) == case["indices"])[sure].all())
    close(ema.autoencoder.decode(latent), case["image"], CHAIN)
    restored = ema.restore(list(case["lq_u8"].numpy()), [cached], [ema.noise(int(case["seed"]))], options)
    same_picture(restored[0], case["image_u8"].numpy())


def same_picture(ours: Any, theirs: Any) -> None:
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 1 and (difference > 0).mean() <= 0.005


def test_the_plain_way_of_the_benchmark_is_the_published_one(raw: tuple[UNet, Autoencoder]) -> None:
    """What ours is measured against gives the golden numbers too."""
    place = Path(__file__).parent.parent / "benchmarks" / "plain_refldm.py"
    spec = importlib.util.spec_from_file_location("plain_refldm", place)
    assert spec is not None and spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    unet, stage = raw
    if stage.decoder.up[1].upsample.phases is not None:
        pytest.skip("the plain way walks networks that are not folded")
    case = load("vqgan")
    close(plain.encode(stage, case["image"]), case["latent"])
    close(plain.decode(stage, case["latent"]), case["decoded"])
    for count in REFERENCE_COUNTS:
        case, state = load(f"unet_ref{count}"), plain.State()
        for call in ("", "_second"):  # the second uses what the first stored
            x, t = case[f"x_t{call}"], case[f"t{call}"]
            close(plain.eps(unet, x, t, case["lq_latent"], case["ref_latent"], state), case[f"eps{call}"])


# Checkpoints and full-size tables


def table(name: str) -> dict[str, list[int]]:
    rows = (SPEC / name).read_text().splitlines()[1:]
    parts = [row.split("\t") for row in rows]
    return {part[0]: json.loads(part[1]) for part in parts if part[-1] != "derived_optional"}


def test_full_size_keys_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        unet, stage = UNet(), Autoencoder()
    ours = {name: list(tensor.shape) for name, tensor in unet.state_dict().items()}
    theirs = table("refldm_state_dict.tsv")
    assert ours == {
        key[len(checkpoint.RAW) :]: shape for key, shape in theirs.items() if key.startswith(checkpoint.RAW)
    }
    first = {name: list(tensor.shape) for name, tensor in stage.state_dict().items()}
    assert first == table("vqgan_state_dict.tsv")
    everything = {key: torch.empty(shape, device="meta") for key, shape in theirs.items()}
    named, weights = checkpoint.unet_state(everything, unet, "ema")
    assert weights == "ema" and {name: list(t.shape) for name, t in named.items()} == ours
    used = len(ours) + 2  # and `decay`, `num_updates`
    assert sum(key.startswith(checkpoint.EMA) for key in theirs) == used
    assert set(schedule.tables(schedule.betas())) == {key for key in theirs if "." not in key}


def test_both_layouts_and_safetensors_hold_the_same_networks(
    checkpoints: Path, architecture: Any, tmp_path: Path
) -> None:
    whole = checkpoint.load_networks(checkpoints / "refldm.ckpt", architecture=architecture)
    assert whole.weights == "ema"
    tensors, _ = checkpoint.read_tensors(checkpoints / "refldm.ckpt")
    bare = tmp_path / "bare.ckpt"  # without a first stage: that of the other file is taken
    torch.save({k: v for k, v in tensors.items() if "stage" not in k}, bare)
    joined = checkpoint.load_networks(bare, checkpoints / "vqgan.ckpt", architecture=architecture)
    out = tmp_path / "tiny.safetensors"
    checkpoint.convert(bare, out, checkpoints / "vqgan.ckpt", architecture=architecture)
    converted = checkpoint.load_networks(out)  # it knows its own architecture
    assert converted.architecture == architecture
    for other in (joined, converted):
        for ours, theirs in ((whole.unet, other.unet), (whole.autoencoder, other.autoencoder)):
            for (name, a), (same, b) in zip(
                ours.state_dict().items(), theirs.state_dict().items(), strict=True
            ):
                assert name == same and torch.equal(a, b)


def test_published_parameters_alone_are_in_the_complete_tiny_checkpoint(
    checkpoints: Path, architecture: Any
) -> None:
    keys = [line.split("\t")[0] for line in (CASES / "refldm_tiny_keys.txt").read_text().splitlines()]
    unet, stage = UNet(architecture.unet), Autoencoder(architecture.autoencoder)
    assert [k[len(checkpoint.RAW) :] for k in keys if k.startswith(checkpoint.RAW)] == list(unet.state_dict())
    first = [k[len(checkpoint.FIRST_STAGE) :] for k in keys if k.startswith(checkpoint.FIRST_STAGE)]
    assert first == list(stage.state_dict())
