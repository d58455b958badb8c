"""The LDM and ReF-LDM while they are trained: networks, loss, optimizer, average, validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.autoencoder import AttnBlock, Autoencoder, ResnetBlock
from ffhqref.refldm.model.checkpoint import EMA_DECAY, EMA_UPDATES, FIRST_STAGE, RAW, ema_key
from ffhqref.refldm.model.unet import UNet
from ffhqref.refldm.restorer import Restorer, SamplingOptions
from ffhqref.refldm.training import losses
from ffhqref.refldm.training.config import Config
from ffhqref.refldm.training.data import Batch, Key, Sample, collate
from ffhqref.refldm.training.optimise import Ema, linear_warmup, warmup_cosine
from ffhqref.refldm.training.runs import Saved, State

Perceptual = Callable[[Tensor, Tensor], Tensor]  # two batches of pictures in [-1, 1] -> their distance


class Recogniser(Protocol):
    """The identity network: faces [B, 3, side, side] in [-1, 1] -> embeddings [B, D]."""

    side: int

    def __call__(self, faces: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Validation:
    """What validation found: a number of which less is better, all numbers, and pictures to look at."""

    value: float
    numbers: dict[str, float]
    sheet: Rgb

    @classmethod
    def mean(cls, name: str, distances: Sequence[float], rows: Sequence[Rgb]) -> Validation:
        """Of a distance of each picture, and of a row of the sheet for each."""
        value = float(np.mean(distances))
        return cls(value, {f"validation/{name}": value}, np.concatenate(rows))


class Trainee(Protocol):
    """A stage of training, as the loop sees it."""

    trained: list[nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Loss and gradient of a part of a step; the last part moves the weights."""

    def saved(self, step: int) -> Saved: ...

    def restore(self, saved: Saved) -> None: ...

    def validate(self, items: Sequence[Sample]) -> Validation: ...


def learning_rate(config: Config, step: int) -> float:
    """The learning rate of a step."""
    if config.schedule == "cosine":
        last = max(config.steps, config.warmup + 1)
        return config.lr * warmup_cosine(
            step, warm_up_steps=config.warmup, max_decay_steps=last, lr_start=1e-6, lr_min=config.min_lr
        )
    return config.lr * linear_warmup(step, config.warmup)


def first_stage(config: Config, path: Path | None, tensors: Mapping[str, Tensor]) -> Autoencoder:
    """The frozen autoencoder: from its own file, or from a whole checkpoint's tensors."""
    found = checkpoint.first_stage_state(checkpoint.read_tensors(path)[0] if path else tensors)
    if not found:
        raise UserError("No first stage was given: add --autoencoder FILE (see `train autoencoder`).")
    autoencoder = Autoencoder(config.architecture.autoencoder)
    fill(autoencoder, found, path or Path("--init"))
    autoencoder.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.recompute:
        for block in autoencoder.decoder.modules():
            if isinstance(block, (ResnetBlock, AttnBlock)):
                block.forward = partial(recomputed, block.forward, use_reentrant=False)  # type: ignore[method-assign]
    return autoencoder


def fill(network: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy tensors into a network; UserError where they are not those of this architecture."""
    checkpoint.check_shapes(network, tensors, where)
    wanted = network.state_dict()
    for name, mine in wanted.items():
        checkpoint.check_finite(name, tensors[name], mine, where)
    network.load_state_dict({name: tensors[name] for name in wanted})


class Denoiser(nn.Module):
    """References and noisy latents in one pass, so that one wrapper sees every gradient."""

    def __init__(self, unet: UNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, x: Tensor, t: Tensor, lq: Tensor, references: Tensor | None) -> Tensor:
        """The noise in x [B, 8, h, w]; references are wide latents [B, 8, h, n * w], or None."""
        cache = [self.unet.cache_references(references, x.shape[3])] if references is not None else ()
        out: Tensor = self.unet(x, t, lq, cache)
        return out


class DiffusionTrainee:
    """Trains the denoiser on latents of a frozen autoencoder."""

    def __init__(
        self,
        config: Config,
        accelerator: Accelerator,
        autoencoder: Autoencoder,
        initial: Mapping[str, Tensor] | None = None,
        recognise: Recogniser | None = None,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.autoencoder = autoencoder.to(accelerator.device)
        self.unet = UNet(config.architecture.unet)
        if initial is not None:
            start(self.unet, initial)
        self.unet.to(accelerator.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.optimizers["denoiser"] = self.optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        self.model, self.stepper = accelerator.prepare(Denoiser(self.unet), self.optimizer)
        self.trained = [self.model]
        self.ema = Ema.of(self.unet, config.ema)
        self.diffusion = losses.Diffusion(accelerator.device)
        if isinstance(recognise, nn.Module):
            recognise.to(accelerator.device)
        self.identity = self._identity(recognise) if recognise and config.identity_weight else None
        self.latents: dict[Key, Tensor] = {}  # of targets and static references: 131 KB each at 512 px
        self.room = config.latent_memory * 1e9 / accelerator.num_processes  # bytes
        self.targets: dict[Key, Tensor] = {}  # embeddings: 2 KB a picture, decoded once

    def _identity(self, recognise: Recogniser) -> losses.Identity:
        return losses.Identity(
            decode=self._decode, recognise=recognise, weight=self.config.identity_weight,
            scaling=self.config.identity_scaling, side=recognise.side,
        )  # fmt: skip

    def _decode(self, latents: Tensor) -> Tensor:
        """Quantised in float32, whatever the precision: near codes must not change places."""
        quantised = self.autoencoder.quantize(latents.float())[0]
        with self.accelerator.autocast():
            return self.autoencoder.decode(quantised, quantize=False)

    @torch.no_grad()
    def encode(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Latents of target, low-quality picture and wide references; dropped conditions are zeros."""
        keep = batch.tensors["keep"]
        with self.accelerator.autocast():
            z = self._targets(batch)
            lq, kept = torch.zeros_like(z), keep[:, 0] > 0  # what is dropped need not be encoded
            if bool(kept.any()):
                lq[kept] = self.autoencoder.encode(batch.pictures("lq")[kept]).to(lq.dtype)
            references = self._references(batch, keep[:, 1], z) if "references" in batch.tensors else None
        return z, lq, references

    def _targets(self, batch: Batch) -> Tensor:
        """Latents of the targets: a picture's is kept (in main memory) while there is room for it.

        One by one, so that the bits do not depend on which of them are known.
        """
        pairs = zip(batch.pictures("target"), batch.keys, strict=True)
        return torch.stack([self._encoded(picture, key) for picture, key in pairs])

    def _encoded(self, picture: Tensor, key: Key) -> Tensor:
        """A picture's latent [8, h, w], kept under its key while there is room."""
        z = self.latents.get(key)
        if z is None:
            z = self.autoencoder.encode(picture[None])[0]
            if (len(self.latents) + 1) * z.numel() * z.element_size() <= self.room:
                self.latents[key] = z.cpu()
        return z.to(picture.device)

    def _references(self, batch: Batch, keep: Tensor, z: Tensor) -> Tensor:
        """Row by row, since a wide picture needs much memory; what is dropped need not be encoded."""
        wide = batch.pictures("references")
        count = wide.shape[3] // (z.shape[3] * self.autoencoder.factor)
        out = z.new_zeros((*z.shape[:3], count * z.shape[3]))
        for row in keep.nonzero()[:, 0].tolist():
            pieces = wide[row : row + 1]
            if self.config.reference_encoding == "separate" and self.config.static_references:
                each = zip(pieces[0].chunk(count, 2), batch.reference_keys[row], strict=True)
                out[row] = torch.cat([self._encoded(piece, key) for piece, key in each], 2)
            elif self.config.reference_encoding == "separate":
                apart = self.autoencoder.encode(torch.cat(pieces.chunk(count, 3)))
                out[row] = torch.cat(list(apart), 2)
            else:
                out[row] = self.autoencoder.encode(pieces)[0]
        return out

    @torch.no_grad()
    def _target(self, batch: Batch, z: Tensor) -> Tensor | None:
        """Embeddings of the reconstructed targets, each decoded once in the whole run."""
        if self.identity is None:
            return None
        for row, key in enumerate(batch.keys):
            if key not in self.targets:
                self.targets[key] = self.identity.target(z[row : row + 1])[0]
        return torch.stack([self.targets[key] for key in batch.keys])

    def loss(self, batch: Batch) -> losses.Losses:
        """The loss of a batch on the device."""
        z, lq, references = self.encode(batch)
        t, noise = batch.tensors["t"], batch.tensors["noise"]
        x = self.diffusion.noised(z, t, noise)
        eps = self.model(x, t, lq, references).float()
        return losses.diffusion_loss(
            self.diffusion, eps, noise, x, t, self.config.loss, self.identity, self._target(batch, z),
            self.config.snr_gamma,
        )  # fmt: skip

    def training_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        found = self.loss(batch)
        self.accelerator.backward(found.total)
        norm = optimizer_step(self.accelerator, self.stepper, self.unet, self.config, step)
        if norm is not None:
            self.ema.update(self.unet.named_parameters())
            found.parts["gradient_norm"] = norm
        return found.parts

    def saved(self, step: int) -> Saved:
        model: dict[str, Tensor] = dict(self.diffusion.tables)
        model |= {RAW + name: tensor for name, tensor in self.unet.state_dict().items()}
        model |= {ema_key(name): tensor for name, tensor in self.ema.shadow.items()}
        model[EMA_DECAY] = torch.tensor(self.ema.decay)
        model[EMA_UPDATES] = torch.tensor(self.ema.updates, dtype=torch.int32)
        model |= {FIRST_STAGE + name: tensor for name, tensor in self.autoencoder.state_dict().items()}
        state: State = {"ema_updates": self.ema.updates, "scaler": scaler_state(self.accelerator)}
        return Saved(step, model, optimizer_tensors(self.optimizer, "denoiser"), state)

    def restore(self, saved: Saved) -> None:
        where = Path(f"step-{saved.step:08d}")
        raw, _ = checkpoint.unet_state(saved.model, self.unet, "raw")
        fill(self.unet, raw, where)
        average, _ = checkpoint.unet_state(saved.model, self.unet, "ema")
        for name, shadow in self.ema.shadow.items():
            shadow.copy_(average[name])
        self.ema.updates = int(saved.state["ema_updates"])
        load_optimizer(self.optimizer, saved.optimizer, "denoiser")
        load_scaler(self.accelerator, saved.state)

    @torch.no_grad()
    def validate(self, items: Sequence[Sample]) -> Validation:
        """DDIM with the averaged weights from fixed noise: mean |z - z of DDIM|, and the pictures."""
        self._swap()
        try:
            with self.accelerator.autocast():
                return self._sampled(items)
        finally:
            self._swap()

    def _swap(self) -> None:
        """Averaged and raw weights change places."""
        for name, parameter in self.unet.named_parameters():
            parameter.data, self.ema.shadow[name] = self.ema.shadow[name], parameter.data

    def _sampled(self, items: Sequence[Sample]) -> Validation:
        config, distances, rows = self.config, [], []
        networks = checkpoint.Networks(self.unet, self.autoencoder, config.architecture, "ema")
        restorer = Restorer(networks, str(self.accelerator.device))
        options = SamplingOptions(steps=config.validation_steps, guidance=config.validation_guidance)
        for item in items:
            batch = collate([item]).to(self.accelerator.device)
            both = self.autoencoder.encode(torch.cat([batch.pictures("target"), batch.pictures("lq")]))
            wide = batch.tensors.get("references")
            pictures = [] if wide is None else split_wide(wide[0], config.architecture.width)
            cached = restorer.cache_references(pictures, config.reference_encoding)
            z = restorer.sample(batch.tensors["noise"], both[1:], [cached], options)
            distances.append(float((z - both[:1]).abs().mean()))
            given = {name: tensor.numpy() for name, tensor in item.tensors.items()}
            shown = [given["lq"], restorer.decode(z)[0], given["target"]]
            rows.append(np.concatenate([*shown, given["references"]] if wide is not None else shown, 1))
        return Validation.mean("latent_l1", distances, rows)


def split_wide(wide: Tensor, width: int) -> list[Rgb]:
    """Wide references [H, n * W, 3] uint8 -> n pictures."""
    return [piece.cpu().numpy() for piece in torch.split(wide, width, 1)]


def start(unet: UNet, tensors: Mapping[str, Tensor]) -> None:
    """The raw weights of an LDM where there are some, else its averaged ones; the average starts anew."""
    kinds: tuple[checkpoint.WeightKind, ...] = ("raw", "ema")
    for weights in kinds:
        found, _ = checkpoint.unet_state(tensors, unet, weights)
        if found:
            return fill(unet, found, Path("--init"))
    raise UserError("--init holds no denoiser: give a checkpoint of `ffhqref train ldm`.")


def optimizer_step(
    accelerator: Accelerator, stepper: torch.optim.Optimizer, network: nn.Module, config: Config, step: int
) -> Tensor | None:
    """Clip and move the weights if all parts of the step are there; the gradient's norm, or None."""
    norm: Tensor | None = None
    if accelerator.sync_gradients:
        norm = accelerator.clip_grad_norm_(network.parameters(), config.clip or float("inf"))
        if config.precision != "fp16" and not bool(torch.isfinite(norm)):  # fp16's scaler skips such steps
            raise Diverged(step)
    stepper.step()
    stepper.zero_grad()
    return norm


class Diverged(Exception):
    """The loss or its gradient is no longer a finite number."""

    def __init__(self, step: int) -> None:
        super().__init__(f"The gradient is not a finite number at step {step}")


def scaler_state(accelerator: Accelerator) -> dict[str, float]:
    """Of the loss scaler, which only fp16 has."""
    return dict(accelerator.scaler.state_dict()) if accelerator.scaler else {}


def load_scaler(accelerator: Accelerator, state: State) -> None:
    """What `scaler_state` gave, back where there is a scaler."""
    if accelerator.scaler and state.get("scaler"):
        accelerator.scaler.load_state_dict(state["scaler"])


def optimizer_tensors(optimizer: torch.optim.Optimizer, name: str) -> dict[str, Tensor]:
    """An optimizer's state as named tensors: `name.number of the parameter.key`."""
    state = optimizer.state_dict()["state"]
    return {f"{name}.{at}.{key}": tensor for at, keys in state.items() for key, tensor in keys.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], name: str) -> None:
    """What `optimizer_tensors` gave, back into an optimizer of the same parameters.

    Moments get the memory layout of their parameters: fused steps walk both in the order of memory.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        owner, at, field = key.split(".")
        if owner == name:
            like = parameters[int(at)]
            if tensor.shape == like.shape:
                tensor = torch.empty_like(like, requires_grad=False).copy_(tensor)
            state.setdefault(int(at), {})[field] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
