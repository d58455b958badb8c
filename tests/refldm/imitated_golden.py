"""Golden cases like those of tests/golden, of other sizes (see the README there).

The published code is not here: the numbers come from the plain way (benchmarks/plain_refldm.py) in float64,
with names and shapes of the weights as SPEC.md gives them. What has nothing to do with the networks' sizes
is copied from the published cases.

    python -m tests.refldm.imitated_golden FOLDER [SEED]
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ffhqref.refldm.model.autoencoder import Autoencoder
from ffhqref.refldm.model.checkpoint import parse_architecture
from ffhqref.refldm.model.unet import AttentionBlock, UNet
from tests.benchmarks import plain_refldm as plain
from tests.golden_cases import GOLDEN
from tests.refldm.published_names import (
    EMA,
    RAW,
    averaged,
    drawn,
    key_table,
    moved,
    stage_shapes,
    unet_shapes,
)

COPIED = ["schedule.npz", "cond_drop.npz", "ema.npz", "lr.npz", "blur_kernels.npz", "degrade_*.npz",
          "fake_identity.safetensors"]  # fmt: skip
HEIGHT, WIDTH = 64, 96  # px
STAGE = {"ch": 32, "ch_mult": [1, 2, 1, 2], "num_res_blocks": 1, "z_channels": 8}
CODES = 96
UNET = {"in_channels": 16, "out_channels": 8, "model_channels": 32, "channel_mult": [1, 2, 2],
        "attention_resolutions": [2, 4], "num_res_blocks": 1, "num_head_channels": 32}  # fmt: skip
REFERENCES = (2, 4)
STEPS, SCALES = (7,), (1.0, 2.0)
FACE = (28, 42)  # px of what the stand-in recogniser sees: not square either
LISTED = (1, 3, 7, 9, 50, 64, 100)  # numbers of steps whose timesteps are listed
RUNS = {"simple": None, "identity": "sqrt", "identity_unscaled": "none", "identity_t500": "t<500",
        "refdrop": "sqrt"}  # fmt: skip
Arrays = dict[str, Any]


def config() -> dict[str, Any]:
    """As config.json of the published cases, as far as the tests read it."""
    first = {"embed_dim": STAGE["z_channels"], "n_embed": CODES, "ddconfig": STAGE}
    return {
        "model": {"first_stage_config": {"params": first}, "unet_config": {"params": UNET}},
        "image_hw": [HEIGHT, WIDTH],
        "latent_hw": [HEIGHT // 8, WIDTH // 8],
        "fake_identity": {"center_crop": True, "resize_hw": list(FACE)},
    }


class Oracle:
    """The networks in float64, of weights that float32 holds."""

    def __init__(self, seed: int) -> None:
        self.random, self.rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        self.shapes, self.first = unet_shapes(UNET), stage_shapes(STAGE, CODES)
        self.architecture = parse_architecture(
            {
                "height": HEIGHT, "width": WIDTH,
                "autoencoder": {"channels": STAGE["ch"], "multipliers": STAGE["ch_mult"],
                                "blocks": STAGE["num_res_blocks"], "codes": CODES},
                "unet": {"channels": UNET["model_channels"], "multipliers": UNET["channel_mult"],
                         "blocks": UNET["num_res_blocks"], "attention": UNET["attention_resolutions"],
                         "head_channels": UNET["num_head_channels"]},
            }, "the imitated cases",
        )  # fmt: skip
        self.stage = Autoencoder(self.architecture.autoencoder).double().requires_grad_(False)
        self.stage.load_state_dict(drawn(self.first, self.random))
        raw = drawn(self.shapes, self.random)
        self.raw, self.ema = self._unet(raw), self._unet(moved(raw, self.random))
        with np.load(GOLDEN / "schedule.npz") as file:
            self.tables = {name: torch.from_numpy(file[name]) for name in file.files}
        known = self.encode(self.pictures(8))
        for unet in (self.raw, self.ema):
            self._fit(unet, known)

    def _unet(self, weights: Mapping[str, Tensor]) -> UNet:
        unet = UNet(self.architecture.unet).double()
        unet.load_state_dict(dict(weights))
        for layer in unet.modules():
            if isinstance(layer, AttentionBlock):
                assert layer.heads == layer.norm.num_channels // UNET["num_head_channels"]
        return unet

    def pictures(self, count: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
        """[count, H, W, 3] uint8: smooth, with a little noise."""
        small = self.rng.uniform(0, 255, (count, 8, 12, 3))
        large = [cv2.resize(one, (width, height), interpolation=cv2.INTER_CUBIC) for one in small]
        return np.clip(np.stack(large) + self.rng.normal(0, 8, large[0].shape), 0, 255).astype(np.uint8)

    def encode(self, pictures: np.ndarray) -> Tensor:
        return plain.encode(self.stage, normalised(pictures))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random).double()

    def noised(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        a, b = (
            self.tables[f"sqrt_{name}alphas_cumprod"][t][:, None, None, None] for name in ("", "one_minus_")
        )
        return a.double() * z + b.double() * noise

    @torch.no_grad()
    def _fit(self, unet: UNet, known: Tensor) -> None:
        """The last convolution by least squares, so that the noise in known latents is found a little."""
        rows, wanted = [], []
        for t in torch.linspace(0, 999, 12).long():
            z, lq = known[torch.randperm(len(known), generator=self.random)].chunk(2)
            noise, times, state = self.normal(*z.shape), t.expand(4), plain.State()
            state.outputs = {}
            plain.eps(unet, self.noised(z, times, noise), times, lq, torch.cat([z, lq], 3), state)
            found = plain.features(unet, state.outputs[unet.output_blocks[-1]])
            rows.append(F.unfold(found, 3, padding=1).transpose(1, 2).flatten(0, 1))
            wanted.append(noise.flatten(2).transpose(1, 2).flatten(0, 1))
        x = torch.cat(rows)
        x = torch.cat([x, torch.ones(len(x), 1)], 1)
        ridge = 1e-2 * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
        solved = torch.linalg.solve(x.T @ x + ridge, x.T @ torch.cat(wanted)).T.float()
        last = unet.out[2]
        last.weight.copy_(solved[:, :-1].reshape(last.weight.shape))
        last.bias.copy_(solved[:, -1])

    def place_codes(self, latents: Sequence[Tensor]) -> None:
        """Codes of which none is nearly as near to a latent vector as another.

        Those that are meet another draw, as long as it leaves fewer of them.
        """
        vectors = torch.cat([z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]) for z in latents])
        least = 2e-3 + 5e-5 * vectors.norm(dim=1)
        near = vectors[vectors.norm(dim=1) < 2 * vectors.norm(dim=1).median()]

        def draw(count: int) -> Tensor:
            spread = near.mean(0) + near.std(0) * self.normal(count, vectors.shape[1])
            return spread.float().double()

        def doubtful(codes: Tensor) -> Tensor:
            return (margins(codes, vectors[:, :, None, None])[1][:, 0, 0] < least).nonzero()[:, 0]

        codes = draw(CODES)
        left = doubtful(codes)
        while len(left):
            trial, vector = codes.clone(), vectors[left[0]][None]
            trial[plain.distances(codes, vector[:, :, None, None]).topk(2, largest=False).indices[0]] = draw(
                2
            )
            if len(after := doubtful(trial)) < len(left):
                codes, left = trial, after
        self.stage.quantize.embedding.weight.copy_(codes)

    def nearest(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return margins(self.stage.quantize.embedding.weight, z)


def margins(codes: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest codes [B, h, w], and by how much the second ones are farther."""
    squares, indices = plain.distances(codes, z).topk(2, largest=False)
    roots = squares.clamp(min=0).sqrt()
    shape = (z.shape[0], *z.shape[2:])
    return indices[:, 0].reshape(shape), (roots[:, 1] - roots[:, 0]).reshape(shape)


def normalised(pictures: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 -> [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).double() / 127.5 - 1


def wide(pictures: np.ndarray) -> np.ndarray:
    """[n, H, W, 3] -> [1, H, n * W, 3]."""
    return np.concatenate(list(pictures), 1)[None]


# The cases


def denoiser_cases(oracle: Oracle) -> Iterator[tuple[str, Arrays]]:
    unet, z = oracle.raw, oracle.encode(oracle.pictures(5))
    t, state = torch.tensor([0, 377, 999]), plain.State()
    state.outputs = {}
    noisy, lq = oracle.noised(z[:3], t, oracle.normal(*z[:3].shape)), z[2:]
    eps = plain.eps(unet, noisy, t, lq, z[:3, :, :, :0], state)
    yield "unet_noref", {
        "x_t": noisy, "t": t, "lq_latent": lq, "eps": eps,
        "sinusoid": plain.sinusoid(t, UNET["model_channels"]), "act_time_embed": plain.embed(unet, t),
        **{f"act_{name.replace('.', '_')}": state.outputs[part] for name, part in unet.named_modules()
           if part in state.outputs},
    }  # fmt: skip
    for count in REFERENCES:
        yield f"unet_ref{count}", _with_references(oracle, count)


def _with_references(oracle: Oracle, count: int) -> Arrays:
    unet, state = oracle.raw, plain.State()
    lq = oracle.encode(oracle.pictures(2))
    references = torch.cat([oracle.encode(wide(oracle.pictures(count))) for _ in range(2)])
    arrays: Arrays = {"lq_latent": lq, "ref_latent": references}
    for call, times in (("", [871, 12]), ("_second", [431, 555])):
        t = torch.tensor(times)
        x = oracle.noised(oracle.encode(oracle.pictures(2)), t, oracle.normal(*lq.shape))
        eps = plain.eps(unet, x, t, lq, references, state)
        arrays |= {f"x_t{call}": x, f"t{call}": t, f"eps{call}": eps}
    x, t = arrays["x_t"], arrays["t"]
    arrays["eps_refs_ignored"] = plain.eps(unet, x, t, lq, references[:, :, :, :0], plain.State())
    first = [value[:1].repeat_interleave(2, 0) for value in (x, t, lq, references)]
    first[3] = first[3] * torch.tensor([0.0, 1.0])[:, None, None, None]
    both = plain.eps(unet, *first, plain.State())
    arrays |= {"eps_cfg_uncond": both[:1], "eps_cfg_cond": both[1:]}
    layers = [name.removesuffix(".qkv.weight") for name in oracle.shapes if name.endswith("qkv.weight")]
    for place, i in (("first", 0), ("last", -1)):
        arrays[f"{place}_attention"] = RAW + layers[i]
        if count == max(REFERENCES):
            kept = list(state.stored.values())[i]  # in the order in which the layers ran
            arrays |= {
                f"cache_{place}_{kv}": torch.stack([one[j] for one in kept]) for j, kv in enumerate("kv")
            }
    return arrays


def timesteps(kind: str, steps: int) -> list[int]:
    """SPEC.md, section 6.2."""
    stride = 1000 // steps
    if kind == "uniform":
        return [t + 1 for t in range(0, 1000, stride)]
    return sorted(t - 1 for t in range(1000, 0, -stride))


def timestep_lists() -> Arrays:
    lists = {f"{k}_S{s}": timesteps(k, s) for s in LISTED for k in ("uniform", "uniform_trailing")}
    return {key: np.array(chosen) for key, chosen in lists.items()}


Denoise = Callable[[Tensor, int], Tensor]


def ddim(
    oracle: Oracle, denoise: Denoise, x: Tensor, chosen: Sequence[int], eta: float = 0.0, noise: Any = None
) -> list[tuple[Tensor, Tensor]]:
    """x and the predicted x_0 after each step (section 6.1)."""
    states = []
    bar = oracle.tables["alphas_cumprod"].double()
    for step, i in enumerate(reversed(range(len(chosen)))):
        a, before = bar[chosen[i]], bar[chosen[i - 1] if i else 0]
        sigma = eta * torch.sqrt((1 - before) / (1 - a) * (1 - a / before))
        eps = denoise(x, chosen[i])
        x0 = (x - torch.sqrt(1 - a) * eps) / torch.sqrt(a)
        x = torch.sqrt(before) * x0 + torch.sqrt(1 - before - sigma**2) * eps
        if noise is not None:
            x = x + sigma * noise[step]
        states.append((x, x0))
    return states


def ddim_case(oracle: Oracle) -> Arrays:
    count, bar = max(REFERENCES), oracle.tables["alphas_cumprod"]
    lq = oracle.encode(oracle.pictures(2))
    references = torch.cat([oracle.encode(wide(oracle.pictures(count))) for _ in range(2)])
    x = oracle.normal(*lq.shape)
    arrays: Arrays = {"x_T": x, "lq_latent": lq, "ref_latent": references}

    def latents(unet: UNet, scale: float, chosen: list[int], *fresh: Any) -> list[tuple[Tensor, Tensor]]:
        return ddim(oracle, plain.sampler(unet, lq, references, scale), x, chosen, *fresh)

    for kind in ("uniform", "uniform_trailing"):
        for steps in STEPS:
            chosen = timesteps(kind, steps)
            for scale in SCALES:
                key, states = f"{kind}_S{steps}_cfg{scale}", latents(oracle.ema, scale, chosen)
                arrays |= {
                    f"latent_{key}": states[-1][0],
                    f"timesteps_{key}": np.array(chosen),
                    f"alphas_{key}": bar[chosen].double().numpy(),
                    f"alphas_prev_{key}": bar[[0, *chosen[:-1]]].double().numpy(),
                }
                if steps == STEPS[0] and scale == SCALES[1]:
                    arrays[f"x_traj_{key}"], arrays[f"pred_x0_traj_{key}"] = map(
                        torch.stack, zip(*states, strict=True)
                    )
    chosen = timesteps("uniform_trailing", STEPS[0])
    arrays["latent_raw_weights"] = latents(oracle.raw, SCALES[1], chosen)[-1][0]
    now, before = bar[chosen].double(), bar[[0, *chosen[:-1]]].double()
    for eta in (0.5, 1.0):
        sigmas = eta * torch.sqrt((1 - before) / (1 - now) * (1 - now / before))
        arrays[f"sigmas_uniform_trailing_S{STEPS[0]}_eta{eta}"] = sigmas
    noise = oracle.normal(len(chosen), *x.shape)
    arrays |= {"eta1_noise": noise, "eta1_latent": latents(oracle.ema, SCALES[1], chosen, 1.0, noise)[-1][0]}
    return arrays


def pipeline_case(oracle: Oracle, seed: int) -> Arrays:
    """Up to the latent, which is decoded once there are codes."""
    lq, references = oracle.pictures(1), oracle.pictures(max(REFERENCES))
    known, seen = oracle.encode(lq), oracle.encode(wide(references))
    x = torch.randn(known.shape, generator=torch.Generator().manual_seed(seed)).double()
    denoise = plain.sampler(oracle.ema, known, seen, SCALES[1])
    latent = ddim(oracle, denoise, x, timesteps("uniform_trailing", STEPS[0]))[-1][0]
    return {
        "lq_u8": lq, "refs_u8": references, "x_T": x, "steps": np.array(STEPS[0]),
        "cfg_scale": np.array(SCALES[1]), "schedule": "uniform_trailing", "seed": np.array(seed),
        "lq_latent": known, "ref_latent": seen, "latent": latent,
    }  # fmt: skip


def decode_pipeline(oracle: Oracle, case: Arrays) -> None:
    image = plain.decode(oracle.stage, case["latent"])
    indices, margin = oracle.nearest(case["latent"])
    levels = ((image[0] + 1) / 2).clamp(0, 1) * 255
    case |= {"image": image, "indices": indices, "index_margin": margin,
             "image_u8": levels.byte().permute(1, 2, 0).numpy()}  # fmt: skip


def stage_cases(oracle: Oracle) -> tuple[Arrays, Arrays]:
    """vqgan, whose latent is decoded once there are codes, and vqgan_refs."""
    pictures, references = oracle.pictures(2), oracle.pictures(max(REFERENCES))
    separate = oracle.encode(references)
    of_references: Arrays = {"refs_u8": references, "separate_latents": separate}
    for count in REFERENCES:
        whole = oracle.encode(wide(references[:count]))
        apart = (whole - torch.cat(list(separate[:count]), 2)).abs().max()
        of_references |= {f"wide_latent_{count}": whole, f"max_abs_wide_minus_separate_{count}": apart}
    latent = oracle.encode(pictures)
    return {"image_u8": pictures, "image": normalised(pictures), "latent": latent}, of_references


def decode_stage(oracle: Oracle, case: Arrays) -> None:
    z = case["latent"]
    indices, margin = oracle.nearest(z)
    quantised = plain.quantise(oracle.stage, z)
    case |= {
        "indices": indices, "index_margin": margin, "quantised": quantised,
        "quant_loss": 1.25 * (quantised - z).square().mean(), "decoded": plain.decode(oracle.stage, z),
        "decoded_not_quantised": plain.decode(oracle.stage, z, quantised=False),
    }  # fmt: skip


class Recogniser:
    """The stand-in for a face recogniser (section 8 and the cases' README)."""

    def __init__(self) -> None:
        weights = load_file(GOLDEN / "fake_identity.safetensors")
        self.weights = {name: w.double() for name, w in weights.items()}

    @staticmethod
    def face(pictures: Tensor) -> Tensor:
        rows, columns = (slice(int(0.0625 * side), int(0.9375 * side)) for side in pictures.shape[2:])
        return F.adaptive_avg_pool2d(pictures[:, :, rows, columns], FACE)

    def __call__(self, pictures: Tensor) -> Tensor:
        w = self.weights
        h = torch.tanh(F.conv2d(self.face(pictures), w["conv.weight"], w["conv.bias"], 2, 2))
        return F.adaptive_avg_pool2d(h, 4).flatten(1) @ w["fc.weight"].T + w["fc.bias"]


def train_case(oracle: Oracle) -> Arrays:
    """A batch up to the predicted clean latents, which are decoded once there are codes."""
    t = torch.tensor([0, 37, 640, 999])
    target, lq = oracle.pictures(4), oracle.pictures(4)
    references = np.concatenate([wide(oracle.pictures(REFERENCES[0])) for _ in t])
    z, known, seen = (oracle.encode(pictures) for pictures in (target, lq, references))
    noise = oracle.normal(*z.shape)
    case = {"gt_u8": target, "lq_u8": lq, "refs_u8": references, "z": z, "lq_latent": known,
            "ref_latent": seen, "t": t, "noise": noise, "x_noisy": oracle.noised(z, t, noise)}  # fmt: skip
    with torch.no_grad():
        case["eps"] = _predicted(oracle, case, seen)
        case["x0_pred"] = _clean(oracle, case, case["eps"])
    return case


def _predicted(oracle: Oracle, case: Arrays, references: Tensor) -> Tensor:
    return plain.eps(oracle.raw, case["x_noisy"], case["t"], case["lq_latent"], references, plain.State())


def _clean(oracle: Oracle, case: Arrays, eps: Tensor) -> Tensor:
    a, b = (oracle.tables[f"sqrt_{name}_cumprod"][case["t"]].double()[:, None, None, None]
            for name in ("recip_alphas", "recipm1_alphas"))  # fmt: skip
    return a * case["x_noisy"] - b * eps


def finish_training(oracle: Oracle, case: Arrays) -> None:
    recognise, t = Recogniser(), case["t"]
    scales = {"sqrt": oracle.tables["sqrt_alphas_cumprod"][t].double(), "none": torch.ones(len(t)).double(),
              "t<500": (t < 500).double()}  # fmt: skip
    target = plain.decode(oracle.stage, case["z"])
    image = plain.decode(oracle.stage, case["x0_pred"])
    indices, margin = oracle.nearest(case["x0_pred"])
    case |= {
        "gt_reconstruction": target, "x0_pred_image": image, "x0_pred_indices": indices,
        "x0_pred_index_margin": margin, "id_preprocessed_pred": recognise.face(image),
        "id_loss_per_sample": 1 - cosine(recognise(image), recognise(target)),
        "id_weight_per_sample": scales["sqrt"],
    }  # fmt: skip
    qkv = [name for name in oracle.shapes if name.endswith("qkv.weight")]
    names = [
        "time_embed.0.weight", "input_blocks.0.0.weight", "input_blocks.0.0.bias",
        "middle_block.1.qkv.weight", "out.0.weight", "out.2.weight", "out.2.bias", qkv[0], qkv[-1],
        qkv[0].replace("qkv", "proj_out"),
    ]  # fmt: skip
    case["grad_names"] = np.array([RAW + name for name in names])
    for run, scaling in RUNS.items():
        oracle.raw.zero_grad()
        eps = _predicted(oracle, case, case["ref_latent"] * (run != "refdrop"))
        each = (case["noise"] - eps).square().mean((1, 2, 3))
        vlb = (oracle.tables["lvlb_weights"][t].double() * each).mean()
        total, parts = each.mean(), {"loss_simple": each.mean(), "loss_vlb": vlb}
        if scaling is not None:
            made = recognise(plain.decode(oracle.stage, _clean(oracle, case, eps)))
            parts["loss_perceptual"] = (scales[scaling] * (1 - cosine(made, recognise(target)))).mean()
            total = total + 0.1 * parts["loss_perceptual"]
        total.backward()
        norms = {name: p.grad.norm() for name, p in oracle.raw.named_parameters()}
        found = {"total": total, "loss": total, **parts}
        found["grad_norms"] = torch.stack([norms[name] for name in names])
        found["grad_norm_all"] = torch.stack(list(norms.values())).norm()
        case |= {f"{run}_{key}": value.detach().numpy() for key, value in found.items()}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def image_io_case(oracle: Oracle) -> Arrays:
    case: Arrays = {"size_wh": np.array([WIDTH, HEIGHT])}
    for kind, (height, width) in {"small": (40, 84), "big": (200, 260)}.items():
        picture = oracle.pictures(1, width, height)[0]
        case[f"{kind}_u8"] = picture
        case[f"{kind}_resized_u8"] = np.array(Image.fromarray(picture).resize((WIDTH, HEIGHT)))
    case["small_normalised"] = normalised(case["small_resized_u8"][None])[0]
    return case


# The files


def write_case(folder: Path, name: str, arrays: Arrays) -> None:
    """An .npz of it; what torch computed becomes float32."""

    def stored(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().to(torch.float32 if value.is_floating_point() else value.dtype).numpy()
        return value

    np.savez(folder / f"{name}.npz", **{key: stored(value) for key, value in arrays.items()})


def write_weights(folder: Path, oracle: Oracle) -> None:
    buffers = [line.split("\t")[0] for line in (GOLDEN / "refldm_tiny_keys.txt").read_text().splitlines()]
    buffers = [name for name in buffers if "." not in name]
    tensors = {name: oracle.tables[name] for name in buffers}
    tensors |= {RAW + name: w.detach().float() for name, w in oracle.raw.state_dict().items()}
    tensors |= {averaged(name): w.detach().float() for name, w in oracle.ema.state_dict().items()}
    tensors |= {f"{EMA}decay": torch.tensor(0.9999),
                f"{EMA}num_updates": torch.tensor(1234, dtype=torch.int32)}  # fmt: skip
    save_file(tensors, folder / "refldm_tiny.safetensors")
    first = {name: w.float() for name, w in oracle.stage.state_dict().items()}
    ignored = load_file(GOLDEN / "vqgan_tiny.safetensors")
    first |= {name: w for name, w in ignored.items() if name.startswith("loss.")}
    save_file(first, folder / "vqgan_tiny.safetensors")
    (folder / "refldm_tiny_keys.txt").write_text(key_table(oracle.shapes, oracle.first, buffers))


def make(folder: Path, seed: int = 0) -> None:
    """Write a whole set of cases into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in COPIED:
        for path in sorted(GOLDEN.glob(pattern)):
            shutil.copyfile(path, folder / path.name)
    oracle = Oracle(seed)
    with torch.no_grad():
        for name, case in denoiser_cases(oracle):
            write_case(folder, name, case)
        write_case(folder, "ddim_timesteps", timestep_lists())
        write_case(folder, "ddim", ddim_case(oracle))
        write_case(folder, "image_io", image_io_case(oracle))
        pipeline, (vqgan, of_references) = pipeline_case(oracle, 2024 + seed), stage_cases(oracle)
        training = train_case(oracle)
        oracle.place_codes([vqgan["latent"], pipeline["latent"], training["z"], training["x0_pred"]])
        decode_pipeline(oracle, pipeline)
        decode_stage(oracle, vqgan)
    finish_training(oracle, training)
    for name, case in {"pipeline": pipeline, "vqgan": vqgan, "vqgan_refs": of_references,
                       "train_loss": training}.items():  # fmt: skip
        write_case(folder, name, case)
    write_weights(folder, oracle)
    (folder / "config.json").write_text(json.dumps(config(), indent=1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
