"""Restoration: ours against the plain way, same random full-size weights, same pictures, one picture.

Each way runs in a process of its own, so that its peak memory is its own. `run()` measures the parts and
three of the 50 steps; with FFHQREF_BENCH_STEPS=50 it runs all of each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.common import PAIRS, Rounds, Row, Skip, child, interleave, most_memory, score

STEPS, REFERENCES, GUIDANCE = 50, 4, 1.5
MEASURED = int(os.environ.get("FFHQREF_BENCH_STEPS", "3"))
WAYS = ("plain", "fp32", "bf16")
PARTS = ("encode", "references", "decode")
# Seconds of the published code on two AVX-512 cores (SPEC.md, section 10): the plain way is no straw man
# where all of its parts are slower or faster than these by one factor.
PUBLISHED = {"total": 133, "use": 2.04, "encode": 3.27, "references": 18.5, "decode": 5.69}
# On a busy machine, FFHQREF_BENCH_CLOCK=cpu with OMP_NUM_THREADS=1 counts the process's own seconds.
BUSY = os.environ.get("FFHQREF_BENCH_CLOCK") == "cpu"
CLOCK, UNIT = (time.process_time, "CPU s") if BUSY else (time.perf_counter, "s")


def make_weights(path: Path) -> None:
    """A converted checkpoint of full size with PyTorch's default initialisation everywhere."""
    import torch
    from safetensors.torch import save_file

    from ffhqref.refldm.model.autoencoder import Autoencoder
    from ffhqref.refldm.model.checkpoint import EMA, FIRST_STAGE
    from ffhqref.refldm.model.unet import UNet

    torch.manual_seed(0)
    unet, stage = UNet(), Autoencoder()
    for module in unet.modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            module.reset_parameters()  # the zero-initialised ones would predict no noise at all
    tensors = {EMA + f"diffusion_model.{k}".replace(".", ""): v for k, v in unet.state_dict().items()}
    tensors |= {FIRST_STAGE + k: v for k, v in stage.state_dict().items()}
    save_file(tensors, path)


def pictures(count: int) -> list[Any]:
    """Smooth random pictures, 512 x 512 x 3 uint8."""
    import cv2
    import numpy as np

    drawn = np.random.default_rng(1).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [cv2.resize(one, (512, 512), interpolation=cv2.INTER_CUBIC) for one in drawn]


def _timed(call: Any, seconds: dict[str, float], name: str) -> Any:
    start = CLOCK()
    out = call()
    seconds[name] = CLOCK() - start
    return out


def measure(way: str, weights: Path, references: int, steps: int, batch: int = 1) -> dict[str, Any]:
    """Seconds of each part, peak memory in GB and the latent after the measured steps."""
    import torch

    torch.set_grad_enabled(False)
    measured = _plain if way == "plain" else _ours
    seconds, latent = measured(way, weights, pictures(references + batch), steps, batch)
    peak = most_memory() / 1e9
    torch.save(latent, weights.parent / f"{way}-{references}-{steps}-{batch}.pt")
    later = sorted(v for k, v in seconds.items() if k.startswith("step ") and k != "step 0")
    use = later[len(later) // 2]
    total = seconds["encode"] + seconds["references"] + seconds["prepare"] + seconds["step 0"]
    total += sum(later) if steps == STEPS else (STEPS - 1) * use
    return {"seconds": seconds, "use": use, "total": total + seconds["decode"], "peak": peak}


def _plain(way: str, weights: Path, drawn: list[Any], steps: int, batch: int) -> tuple[dict[str, float], Any]:
    import numpy as np
    import torch

    from ffhqref.refldm.model import checkpoint, schedule
    from ffhqref.refldm.model.autoencoder import Autoencoder
    from ffhqref.refldm.model.unet import UNet
    from tests.benchmarks.plain_refldm import Plain, decode, encode

    unet, stage = UNet(), Autoencoder()
    tensors, _ = checkpoint.read_tensors(weights)
    unet.load_state_dict(checkpoint.unet_state(tensors, unet, "ema")[0])
    stage.load_state_dict(checkpoint.first_stage_state(tensors))
    del tensors
    plain, seconds = Plain(unet, stage), {}

    def picture(values: Any) -> Any:
        return torch.from_numpy(values)[None].permute(0, 3, 1, 2).float() / 127.5 - 1

    lq = _timed(lambda: encode(stage, picture(drawn[0])), seconds, "encode")
    wide = picture(np.concatenate(drawn[batch:], 1))
    wide = _timed(lambda: encode(stage, wide), seconds, "references")
    x = torch.randn(1, 8, 64, 64, generator=torch.Generator().manual_seed(2024))
    guided = plain.sampler(lq, wide, GUIDANCE)
    seconds["prepare"] = 0.0
    return _sample(guided, x, plain.bar, steps, seconds, schedule, lambda z: decode(stage, z))


def _sample(guided: Any, x: Any, bar: Any, steps: int, seconds: Any, schedule: Any, decode: Any) -> Any:
    chosen = schedule.timesteps("uniform_trailing", STEPS)[::-1][:steps][::-1]
    count = iter(range(steps))

    def denoise(x: Any, t: int) -> Any:
        return _timed(lambda: guided(x, t), seconds, f"step {next(count)}")

    latent = schedule.ddim(denoise, x, chosen, bar)
    _timed(lambda: decode(latent), seconds, "decode")
    return seconds, latent


def _ours(way: str, weights: Path, drawn: list[Any], steps: int, batch: int) -> tuple[dict[str, float], Any]:
    import torch

    from ffhqref.refldm.model import checkpoint, schedule
    from ffhqref.refldm.restorer import Restorer, SamplingOptions

    dtype = torch.bfloat16 if way == "bf16" else torch.float32
    restorer = Restorer(checkpoint.load_networks(weights), dtype=dtype)
    seconds: dict[str, float] = {}
    lq = _timed(lambda: torch.cat([restorer.encode(one[None]) for one in drawn[:batch]]), seconds, "encode")
    wide = _timed(lambda: restorer.encode_references(drawn[batch:]), seconds, "references")
    _timed(lambda: restorer.prepared, seconds, "denoiser (once per model)")
    cached = _timed(lambda: restorer.cache_latents(wide), seconds, "prepare")
    _timed(restorer.null, seconds, "null (once per model)")
    x = restorer.noise(2024).expand(batch, -1, -1, -1)
    guided = restorer.denoiser(lq, [cached] * batch, SamplingOptions(guidance=GUIDANCE))
    return _sample(guided, x, restorer.alpha_bar, steps, seconds, schedule, restorer.decode)


def run(pairs: int = PAIRS, steps: int = MEASURED) -> Iterator[Row]:
    """Rows of ours against the plain way: seconds, gigabytes, and the difference of the latents."""
    try:
        import torch

        from ffhqref.refldm.model import precision
    except ImportError:
        raise Skip("torch (the extra `train`) is not installed") from None
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder, "weights.safetensors")
        make_weights(weights)
        ways = WAYS if precision.has_bf16() else WAYS[:2]  # elsewhere bfloat16 is slower than all else
        found = interleave(
            pairs,
            **{way: partial(in_child, way, weights, steps, 1) for way in ways},
            eight=partial(in_child, "fp32", weights, 3, 8),
        )
        latents = {way: torch.load(Path(folder, f"{way}-{REFERENCES}-{steps}-1.pt")) for way in ways}
    for way in ways[1:]:
        yield from rows_of(found, way, steps)
        norm = (latents[way] - latents["plain"]).norm() / latents["plain"].norm()
        note = f"after {steps} steps, to the plain fp32 way"
        yield score(f"difference of latents, {way}", float(norm), None, None, "relative L2", note)
    eight, single = (found.costs(way, lambda run: run["use"]) for way in ("eight", "fp32"))
    note, eightfold = "against 8 single ones, fp32", [8 * cost for cost in single]
    yield found.row("a later step of a batch of 8", eight, eightfold, UNIT, note)


def in_child(way: str, weights: Path, steps: int, batch: int) -> dict[str, Any]:
    """`measure` in a process of its own."""
    words = map(str, (weights, REFERENCES, steps, batch))
    return child("tests.benchmarks.bench_restore", way, *words)


def rows_of(found: Rounds[dict[str, Any]], way: str, steps: int) -> Iterator[Row]:
    """Of one way beside the plain one: seconds of the whole and of its parts, and memory."""
    run = f"{STEPS} steps run" if steps == STEPS else f"{STEPS} steps, extrapolated from {steps}"
    whole = f"{run}; published: {PUBLISHED['total']} s"
    step = f"guidance {GUIDANCE}; published: {PUBLISHED['use']} s"
    rows = [("restore, 4 references", "total", UNIT, whole), ("a later step", "use", UNIT, step)]
    rows += [(part, part, UNIT, f"published: {PUBLISHED[part]} s") for part in PARTS]
    for name, key, unit, note in [*rows, ("peak memory", "peak", "GB", "of the process")]:
        costs = (found.costs(who, partial(_cost, key)) for who in (way, "plain"))
        yield found.row(f"{name}, {way}", *costs, unit, note)


def _cost(key: str, made: dict[str, Any]) -> float:
    return float(made["seconds"][key] if key in PARTS else made[key])


def main(way: str, weights: str, *numbers: str) -> None:
    references, steps, batch = map(int, numbers)
    print(json.dumps(measure(way, Path(weights), references, steps, batch)))


if __name__ == "__main__":
    main(*sys.argv[1:])
