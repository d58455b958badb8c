"""The autoencoder while it is trained: reconstruction, codebook, patch discriminator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import Autoencoder
from ffhqref.refldm.restorer import as_picture
from ffhqref.refldm.training import losses
from ffhqref.refldm.training.config import Config
from ffhqref.refldm.training.data import Batch, Sample, collate, draw_seed
from ffhqref.refldm.training.runs import Saved
from ffhqref.refldm.training.stages import (
    Perceptual,
    Validation,
    fill,
    load_optimizer,
    load_scaler,
    optimizer_step,
    optimizer_tensors,
    scaler_state,
)

DISCRIMINATOR = "loss.discriminator.main."  # the published names


class Reconstruct(nn.Module):
    """Encode, quantise, decode in one pass, so that one wrapper sees every gradient."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> reconstruction, codebook loss, latents. Quantised in float32 in any precision."""
        z = self.autoencoder.encode(pictures)
        with torch.autocast(pictures.device.type, enabled=False):
            quantised, loss = self.autoencoder.quantize(z)
        return self.autoencoder.decode(quantised, quantize=False), loss, z


class Discriminator(nn.Module):
    """The discriminator on real and reconstructed pictures, each a batch of its own to BatchNorm."""

    def __init__(self, discriminator: losses.PatchDiscriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        return self.discriminator(real), self.discriminator(fake)


class AutoencoderTrainee:
    """Trains the first stage; the discriminator joins at its step."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        initial: Mapping[str, Tensor] | None = None,
        perceptual: Perceptual | None = None,
    ) -> None:
        self.config, self.accelerator, self.perceptual = config, accelerator, perceptual
        self.autoencoder = Autoencoder(config.architecture.autoencoder)
        if initial is not None:
            fill(self.autoencoder, checkpoint.first_stage_state(initial), Path("--init"))
        self.discriminator = losses.PatchDiscriminator(
            config.discriminator_channels, config.discriminator_layers
        )
        device = accelerator.device
        if isinstance(perceptual, nn.Module):
            perceptual.to(device)
        self.autoencoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.discriminator.to(device)
        self.optimizers = {
            "autoencoder": _adam(self.autoencoder, config, device),
            "discriminator": _adam(self.discriminator, config, device),
        }
        self.model, self.critic, self.stepper, self.discriminator_stepper = accelerator.prepare(
            Reconstruct(self.autoencoder), Discriminator(self.discriminator), *self.optimizers.values()
        )
        self.trained = [self.model, self.critic]
        self.used = torch.zeros(config.architecture.autoencoder.codes, dtype=torch.int64, device=device)

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        pictures = batch.pictures("target")
        reconstruction, codebook, z = self.model(pictures)
        found = self._own_loss(pictures, reconstruction, codebook, step)
        self.accelerator.backward(found.total)
        norm = optimizer_step(self.accelerator, self.stepper, self.autoencoder, self.config, step)
        if self._discriminator_runs(step):
            found.parts["loss_discriminator"] = self._train_discriminator(
                pictures, reconstruction.detach(), step
            )
        if norm is not None:
            found.parts["gradient_norm"] = norm
        self._count(z.detach(), step, norm is not None)
        return found.parts

    def _discriminator_runs(self, step: int) -> bool:
        return self.config.discriminator_weight > 0 and step >= self.config.discriminator_start

    def _own_loss(self, pictures: Tensor, made: Tensor, codebook: Tensor, step: int) -> losses.Losses:
        """L1 (+ LPIPS) + codebook + adaptive weight times the adversarial loss (Esser et al., eq. 6, 7)."""
        likeness = (pictures - made).abs().mean()
        parts = {"loss_l1": likeness, "loss_codebook": codebook}
        if self.perceptual is not None and self.config.perceptual_weight:
            parts["loss_lpips"] = self.perceptual(made, pictures).mean()
            likeness = likeness + self.config.perceptual_weight * parts["loss_lpips"]
        total = likeness + self.config.codebook_weight * codebook
        if self._discriminator_runs(step):
            self.discriminator.requires_grad_(False)
            parts["loss_adversarial"] = -self.discriminator(made).mean()
            self.discriminator.requires_grad_(True)
            last = self.autoencoder.decoder.conv_out.weight
            scale = losses.adaptive_weight(likeness, parts["loss_adversarial"], last)
            parts["adaptive_weight"] = scale
            total = total + self.config.discriminator_weight * scale * parts["loss_adversarial"]
        parts["loss"] = total
        return losses.Losses(total, {name: part.detach() for name, part in parts.items()})

    def _train_discriminator(self, pictures: Tensor, made: Tensor, step: int) -> Tensor:
        real, fake = self.critic(pictures, made)
        loss = losses.hinge_loss(real, fake)
        self.accelerator.backward(loss)
        optimizer_step(self.accelerator, self.discriminator_stepper, self.discriminator, self.config, step)
        return loss.detach()

    @torch.no_grad()
    def _count(self, z: Tensor, step: int, moved: bool) -> None:
        """Count the codes' use over all processes; revive those that nobody used since the last time.

        The first step does so too: latents are better first codes than noise.
        """
        every = self.config.revive_every
        if not every:
            return
        indices = self.autoencoder.quantize.indices(z).flatten()
        counts = torch.bincount(indices, minlength=len(self.used))
        self.used += self.accelerator.reduce(counts, "sum")
        if moved and (step == 0 or (step + 1) % every == 0):
            self._revive(z, step)
            self.used.zero_()

    def _revive(self, z: Tensor, step: int) -> None:
        vectors = self.accelerator.gather(z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]).contiguous())
        dead = (self.used == 0).nonzero()[:, 0]
        generator = torch.Generator().manual_seed(draw_seed(self.config.seed, step, "revive"))
        chosen = torch.randint(len(vectors), (len(dead),), generator=generator).to(vectors.device)
        weight = self.autoencoder.quantize.embedding.weight
        weight[dead] = vectors[chosen].to(weight.dtype)
        for moment in ("exp_avg", "exp_avg_sq"):  # of the old place
            state = self.optimizers["autoencoder"].state[weight]
            if moment in state:
                state[moment][dead] = 0

    def saved(self, step: int) -> Saved:
        model = dict(self.autoencoder.state_dict())
        model |= {DISCRIMINATOR + name: tensor for name, tensor in self.discriminator.state_dict().items()}
        tensors = {"used": self.used}
        for name, optimizer in self.optimizers.items():
            tensors |= optimizer_tensors(optimizer, name)
        return Saved(step, model, tensors, {"scaler": scaler_state(self.accelerator)})

    def restore(self, saved: Saved) -> None:
        where = Path(f"step-{saved.step:08d}")
        fill(self.autoencoder, checkpoint.first_stage_state(saved.model), where)
        state = {k.removeprefix(DISCRIMINATOR): v for k, v in saved.model.items() if k.startswith("loss.")}
        fill(self.discriminator, state, where)
        tensors = dict(saved.optimizer)
        self.used.copy_(tensors.pop("used"))
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, tensors, name)
        load_scaler(self.accelerator, saved.state)

    @torch.no_grad()
    def validate(self, items: Sequence[Sample]) -> Validation:
        """Mean |picture - reconstruction|, levels of [-1, 1], and both side by side."""
        distances, rows = [], []
        for item in items:
            batch = collate([item]).to(self.accelerator.device)
            pictures = batch.pictures("target")
            made = self.autoencoder.decode(self.autoencoder.encode(pictures))
            distances.append(float((pictures - made).abs().mean()))
            rows.append(np.concatenate([item.tensors["target"].numpy(), as_picture(made[0])], 1))
        return Validation.mean("l1", distances, rows)


def _adam(network: nn.Module, config: Config, device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.Adam(
        network.parameters(), lr=config.lr, betas=config.betas, fused=device.type in ("cpu", "cuda")
    )
