"""Small datasets and networks for the tests of training, and a program that trains them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from safetensors.torch import save_file

from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.checkpoint import EMA, FIRST_STAGE, RAW, Architecture
from ffhqref.refldm.model.unet import UNet, UNetSize
from ffhqref.refldm.training import train as training
from ffhqref.refldm.training.config import Config
from ffhqref.refldm.training.data import Pictures, ReferenceRow, TrainingSource

ARCHITECTURE = Architecture(
    height=32, width=32,
    autoencoder=AutoencoderSize(channels=32, multipliers=(1, 1), blocks=1, latent=4, codes=32),
    unet=UNetSize(in_channels=8, out_channels=4, channels=32, multipliers=(1, 2), blocks=1, attention=(2,),
                  head_channels=16),
)  # fmt: skip
NAMES = [f"person{person}/{photo}.png" for person in range(4) for photo in range(3)]


def config(stage: str = "refldm", **changes: Any) -> Config:
    base: dict[str, Any] = dict(
        stage=stage, steps=8, batch_size=4, lr=1e-3, references=2, log_every=4, save_every=1000,
        validate_every=1000, validation_pictures=1, validation_steps=2, discriminator_channels=8,
        discriminator_layers=1, revive_every=8, architecture=ARCHITECTURE, identity_weight=0.1,
    )  # fmt: skip
    return Config(**{**base, **changes})


def as_toml(table: dict[str, Any]) -> str:
    """A configuration as a file of manifests/train/ has it."""
    top = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items() if key != "architecture")
    shape = dict(table["architecture"])
    nested = {name: shape.pop(name) for name in ("autoencoder", "unet")}
    top += "[architecture]\n" + "".join(f"{key} = {value}\n" for key, value in shape.items())
    for name, values in nested.items():
        top += f"[architecture.{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
    return top


def arguments(chosen: Config, dataset: Path, photos: Path, out: Path) -> list[str]:
    """Of the command `train`, with this configuration as a file beside `out`."""
    path = out.parent / f"{chosen.stage}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_toml(chosen.table()))
    return ["train", chosen.stage, "--data", str(dataset), "--images", str(photos), "--out", str(out),
            "--config", str(path), "--workers", "0", "--device", "cpu"]  # fmt: skip


def write_photos(folder: Path) -> Path:
    """Twelve small pictures of four people: a colour each, and what differs between photos."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        person = int(name[6])
        values = np.full((32, 32, 3), [40 + 50 * person, 200 - 40 * person, 30 * person], np.float64)
        values += cv2.resize(rng.normal(0, 40, (4, 4, 3)), (32, 32), interpolation=cv2.INTER_CUBIC)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), np.clip(values, 0, 255).astype(np.uint8)[:, :, ::-1])
    return folder


def coarse(picture: Any, name: str, number: int) -> Any:
    """Stands for the degradation; the number decides the size."""
    side = 4 + number % 5
    return cv2.resize(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), picture.shape[1::-1])


def source(folder: Path) -> TrainingSource:
    rows = [ReferenceRow(name, tuple(o for o in NAMES if o[:7] == name[:7] and o != name)) for name in NAMES]
    return TrainingSource(
        train=rows[:8], validation=rows[9:10], pictures=Pictures(folder, 32, 32), degrade=coarse
    )


class Faces(torch.nn.Module):
    """Stands for the recogniser."""

    side = 16

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(3, 8, 5, 4), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(72, 16)
            )
        self.requires_grad_(False)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(faces)
        return out


def write_initial(path: Path) -> Path:
    """A first LDM: random weights, none of them zero, and its first stage."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, stage = UNet(ARCHITECTURE.unet), Autoencoder(ARCHITECTURE.autoencoder)
        for module in unet.modules():
            if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d)):
                module.reset_parameters()
        torch.nn.init.normal_(stage.quantize.embedding.weight, 0, 0.5)
    tensors = {RAW + k: v for k, v in unet.state_dict().items()}
    tensors |= {FIRST_STAGE + k: v for k, v in stage.state_dict().items()}
    save_file(tensors, path)
    return path


def run(work: Path, out: Path, settings: Config, resume: bool = False, workers: int = 0) -> Any:
    """Train in `work`, which has photos/ and ldm.safetensors."""
    given = training.Given(init=work / "ldm.safetensors", recognise=Faces())
    if settings.stage == "autoencoder":
        given = training.Given()
    return training.train(settings, source(work / "photos"), out, given, resume=resume, device="cpu",
                          workers=workers)  # fmt: skip


def averaged(unet: UNet) -> list[str]:
    return [EMA + f"diffusion_model.{name}".replace(".", "") for name in unet.state_dict()]


def main(work: Path, out: Path, what: str) -> None:
    """`plain`: train. `kill-N`: a SIGKILL in the middle of writing the checkpoint of step N."""
    torch.set_num_threads(1)
    settings = config(steps=40, save_every=10, batch_size=2)
    if what.startswith("kill-"):
        from ffhqref.refldm.training import runs

        write = runs._write_tensors

        def half(path: Path, tensors: Any, header: Any) -> None:
            if path.parent.name == f".step-{int(what[5:]):08d}.partial" and path.name == runs.OPTIMIZER:
                path.write_bytes(b"\x00" * 100)
                os.kill(os.getpid(), signal.SIGKILL)
            write(path, tensors, header)

        runs._write_tensors = half
    if what.startswith("batch-"):
        settings = config(steps=6, batch_size=int(what[6:]), save_every=6)
    result = run(work, out, settings)
    print("stopped" if result.stopped else "done", result.step)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
