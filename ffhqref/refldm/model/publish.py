"""Our checkpoints -> the published files' layout, so that the published code reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ffhqref.core.store import UserError
from ffhqref.refldm.model import schedule
from ffhqref.refldm.model.checkpoint import (
    EMA_DECAY,
    EMA_UPDATES,
    FIRST_STAGE,
    FIRST_STAGE_GROUPS,
    RAW,
    Architecture,
    ema_key,
    join_first_stage,
    read_tensors,
    unet_state,
)
from ffhqref.refldm.model.unet import UNet

GROUPS = 32  # of every normalisation in the published code
CONDITIONERS = ("cond_stage_model.lq_image.", "cond_stage_model.ref_image.")  # the first stage again, twice


@dataclass(frozen=True)
class Published:
    """What was written: a whole `refldm.ckpt`, or a first stage alone (`vqgan.ckpt`)."""

    tensors: int
    whole: bool


def publish(
    checkpoint: Path, out: Path, autoencoder: Path | None = None, architecture: Architecture | None = None
) -> Published:
    """Write `out` as refldm.ckpt is laid out (a bare mapping), or as vqgan.ckpt ("state_dict").

    Of raw and averaged weights the one that is not there is the other. UserError where the file holds
    neither a denoiser nor a first stage, or is of a network that the published code cannot build.
    """
    tensors, found = read_tensors(checkpoint)
    architecture = architecture or found or Architecture()
    for size in (architecture.autoencoder, architecture.unet):
        if size.groups != GROUPS:
            raise UserError(
                f"{checkpoint} normalises in {size.groups} groups, the published code always in {GROUPS}: "
                f"only networks of `groups = {GROUPS}` can be written in its layout."
            )
    stage = join_first_stage(tensors, autoencoder)
    with torch.device("meta"):
        unet = UNet(architecture.unet)
    denoiser = layout(tensors, unet)
    if not denoiser:
        alone = {k: v for k, v in tensors.items() if k.startswith((*FIRST_STAGE_GROUPS, "loss."))}
        if not alone:
            raise UserError(f"{checkpoint} holds neither a denoiser nor a first stage: give a checkpoint.")
        torch.save({"state_dict": alone}, out)
        return Published(len(alone), False)
    if not stage:
        raise UserError(f"{checkpoint} holds no first stage ({FIRST_STAGE}...): add --autoencoder FILE.")
    for prefix in (FIRST_STAGE, *CONDITIONERS):  # one storage under three names, as published
        denoiser |= {prefix + name: tensor for name, tensor in stage.items()}
    torch.save(denoiser, out)
    return Published(len(denoiser), True)


def layout(tensors: Mapping[str, Tensor], unet: UNet) -> dict[str, Tensor]:
    """Schedule, raw and averaged weights under the published names; empty where there is no denoiser."""
    raw, _ = unet_state(tensors, unet, "raw")
    average, _ = unet_state(tensors, unet, "ema")
    if not average:
        return {}
    raw = raw or average
    out = {k: tensors.get(k, v) for k, v in schedule.tables(schedule.betas()).items()}
    out |= {RAW + name: raw[name] for name in unet.state_dict()}
    out[EMA_DECAY] = tensors.get(EMA_DECAY, torch.tensor(0.9999))
    out[EMA_UPDATES] = tensors.get(EMA_UPDATES, torch.tensor(0, dtype=torch.int32))
    out |= {ema_key(name): average[name] for name in unet.state_dict()}
    return out
