"""One step of full-size ReF-LDM: ours against the plain way; same random weights, same batch.

Batch 1, 5 references, identity loss, AdamW, EMA. The plain way, as SPEC.md sections 4, 8 and 10 describe
the published behaviour: references one after another through the whole denoiser, explicit softmax
matrices, the reconstruction target decoded anew at every step. Each way runs in a process of its own, so
that its peak memory is its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.benchmarks.common import PAIRS, Row, child, interleave, most_memory, score

STEPS, REFERENCES = 1, 5


def recogniser() -> Any:
    """A frozen network of MobileFaceNet's cost stands for ArcFace: what it knows does not matter here."""
    import torch

    layers: list[Any] = []
    for before, width in ((3, 64), (64, 64), (64, 128), (128, 128), (128, 256)):
        layers += [torch.nn.Conv2d(before, width, 3, 2 if len(layers) % 4 == 0 else 1, 1), torch.nn.PReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    network.requires_grad_(False)
    network.side = 112
    return network


def batch(number: int) -> Any:
    """Smooth random pictures, as a step sees them."""
    import cv2
    import numpy as np
    import torch

    from ffhqref.refldm.training.data import Batch

    drawn = np.random.default_rng(1).integers(0, 256, (2 + REFERENCES, 16, 16, 3), np.uint8)
    pictures = [cv2.resize(one, (512, 512), interpolation=cv2.INTER_CUBIC) for one in drawn]
    generator = torch.Generator().manual_seed(number)
    tensors = {
        "target": torch.from_numpy(pictures[0])[None], "lq": torch.from_numpy(pictures[1])[None],
        "references": torch.from_numpy(np.concatenate(pictures[2:], 1))[None],
        "noise": torch.randn(1, 8, 64, 64, generator=generator), "t": torch.tensor([500]),
        "keep": torch.ones(1, 2),
    }  # fmt: skip
    return Batch(tensors, [("target", False)])


def networks() -> tuple[Any, Any]:
    import torch

    from ffhqref.refldm.model.autoencoder import Autoencoder
    from ffhqref.refldm.model.unet import UNet

    torch.manual_seed(0)
    unet, stage = UNet(), Autoencoder()
    for module in unet.modules():
        if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
            module.reset_parameters()  # the zero-initialised ones would send no gradient
    torch.nn.init.normal_(stage.quantize.embedding.weight)
    return unet, stage.eval().requires_grad_(False)


def ours(steps: int) -> tuple[list[float], float]:
    import torch
    from accelerate import Accelerator

    from ffhqref.refldm.model.checkpoint import keep_memory
    from ffhqref.refldm.training.config import Config
    from ffhqref.refldm.training.stages import DiffusionTrainee

    keep_memory()
    unet, stage = networks()
    config = Config(stage="refldm", steps=steps, batch_size=1, clip=0.0)
    trainee = DiffusionTrainee(
        config, Accelerator(cpu=True), stage.to(memory_format=torch.channels_last),
        {f"model.diffusion_model.{k}": v for k, v in unet.state_dict().items()}, recogniser(),
    )  # fmt: skip
    del unet
    seconds, loss = [], 0.0
    for step in range(steps):
        given = batch(step)
        if step == 0:  # all but one of the 64 times that training sees a picture, its target is known
            know(trainee, given)
        start = clocks()
        loss = float(trainee.training_step(given, step)["loss"])
        seconds.append(clocks() - start)
    return seconds[-1].tolist(), loss


def know(trainee: Any, given: Any) -> None:
    """Let `trainee` keep what it keeps of a picture that it has seen."""
    import torch

    with torch.no_grad():
        trainee._target(given, trainee._targets(given))


def clocks() -> Any:
    """Wall-clock and processor seconds: the second does not depend on who else uses the cores."""
    import numpy as np

    return np.array([time.perf_counter(), time.process_time()])


def plain(steps: int) -> tuple[list[float], float]:
    import torch
    import torch.nn.functional as F

    from ffhqref.refldm.training import losses
    from ffhqref.refldm.training.stages import Recogniser
    from tests.benchmarks.plain_refldm import State, encode, eps, middle, resnet, swish, up

    unet, stage = networks()
    recognise: Recogniser = recogniser()
    tables = losses.Diffusion()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=5e-5)
    shadow = {name: p.detach().clone() for name, p in unet.named_parameters()}

    def decode(z: Any) -> Any:
        codes = stage.quantize.embedding.weight
        flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
        far = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.t()
        near = codes[far.argmin(1)].reshape(len(z), *z.shape[2:], -1).permute(0, 3, 1, 2)
        h = stage.decoder.conv_in(stage.post_quant_conv(z + (near - z).detach()))
        h = middle(stage.decoder.mid, h)
        for level in reversed(stage.decoder.up):
            for block in level.block:
                h = resnet(block, h)
            if hasattr(level, "upsample"):
                h = up(level.upsample, h)
        return stage.decoder.conv_out(swish(stage.decoder.norm_out(h)))

    seconds, value = [], 0.0
    for step in range(steps):
        given = batch(step)
        start = clocks()
        with torch.no_grad():
            z, lq, wide = (encode(stage, given.pictures(k)) for k in ("target", "lq", "references"))
            target = recognise(losses.face_of(decode(z)))
        t, noise = given.tensors["t"], given.tensors["noise"]
        x = tables.noised(z, t, noise)
        predicted = eps(unet, x, t, lq, wide, State())
        image = decode(tables.clean(x, t, predicted))
        distance = 1 - F.cosine_similarity(recognise(losses.face_of(image)), target)
        weight = tables.tables["sqrt_alphas_cumprod"][t]
        loss = F.mse_loss(predicted, noise) + 0.1 * (weight * distance).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                shadow[name].sub_((1 - (2 + step) / (11 + step)) * (shadow[name] - parameter))
        seconds.append(clocks() - start)
        value = float(loss)
    return seconds[-1].tolist(), value


def run(pairs: int = PAIRS, steps: int = STEPS) -> Iterator[Row]:
    """Rows of ours against the plain way: seconds a step, gigabytes, both losses."""
    ways = {who: partial(child, "tests.benchmarks.bench_train", who, str(steps)) for who in ("ours", "plain")}
    runs = interleave(pairs, **ways)
    note = "512 px, batch 1, 5 references, identity loss, fp32"
    for name, key, unit in (
        ("a step", "step", "s"), ("a step, processor time", "cpu", "s"), ("peak memory", "peak", "GB"),
    ):  # fmt: skip
        costs = (runs.costs(who, lambda run, key=key: run[key]) for who in ways)
        yield runs.row(f"train ReF-LDM: {name}", *costs, unit, note)
    ours, theirs = (runs.made[who][0]["loss"] for who in ways)
    yield score("train ReF-LDM: loss", ours, theirs, None, "", note)


def main(way: str, steps: int) -> None:
    seconds, loss = (ours if way == "ours" else plain)(steps)
    peak = most_memory() / 1e9
    print(json.dumps({"step": seconds[0], "cpu": seconds[1], "loss": loss, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
