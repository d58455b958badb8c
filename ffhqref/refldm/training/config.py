"""How a run is trained: one frozen dataclass, read from TOML and checked key by key."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ffhqref.core.recipe import build, load_toml
from ffhqref.core.store import UserError
from ffhqref.refldm.model.checkpoint import Architecture, parse_architecture
from ffhqref.refldm.restorer import Encoding
from ffhqref.refldm.training.losses import Norm, Scaling

Stage = Literal["autoencoder", "ldm", "refldm"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
# What may differ when a run goes on: none of it changes a weight that was already reached.
FREE = {"steps", "save_every", "keep", "log_every", "validate_every", "validation_pictures",
        "validation_steps", "validation_guidance", "accumulate", "latent_memory", "recompute"}  # fmt: skip

SHARES = ("flip", "perspective_share", "reference_flip", "drop", "lq_drop", "own", "min_lr", "ema")
AT_LEAST_ONE = (
    "steps", "batch_size", "accumulate", "references", "log_every", "save_every", "keep", "validate_every",
    "discriminator_channels", "discriminator_layers", "validation_steps",
)  # fmt: skip
NOT_NEGATIVE = (
    "warmup", "clip", "weight_decay", "rotate", "shift", "identity_weight", "revive_every", "seed",
    "codebook_weight", "perceptual_weight", "discriminator_weight", "discriminator_start", "latent_memory",
    "validation_pictures", "snr_gamma",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a run's weights, and how often it reports. Steps are optimizer steps."""

    stage: Stage
    steps: int
    batch_size: int  # pictures a step, over all processes and accumulated parts together
    accumulate: int = 1  # parts of a step that a process takes one after another
    seed: int = 0
    precision: Precision = "fp32"

    lr: float = 5e-5
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0  # steps of linear growth up to `lr`
    min_lr: float = 0.01  # of `lr`, where the cosine ends
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0  # greatest norm of the gradient; 0: not clipped
    ema: float = 0.9999

    flip: float = 0.5  # share of samples that are mirrored whole
    references: int = 5  # a sample; fewer are repeated
    reference_encoding: Encoding = "wide"
    shuffle: bool = True  # the references' order
    jitter: tuple[float, float, float, float] = (0.2, 0.2, 0.2, 0.02)  # brightness contrast saturation hue
    rotate: float = 2.0  # degrees
    shift: float = 0.05  # of the width
    zoom: tuple[float, float] = (0.95, 1.05)
    perspective: float = 0.2  # how far corners move, of half the width
    perspective_share: float = 1.0  # of references; 1 in the published code, 0.5 in the paper
    reference_flip: float = 0.5
    own: float = 0.0  # share of samples that have the target itself among their references
    drop: float = 0.1  # share of samples that lose a condition, drawn for each
    lq_drop: float = 0.0  # share that loses the low-quality picture, beside those

    loss: Norm = "l2"  # l2 in the published code, l1 in the paper
    snr_gamma: float = 0.0  # min-SNR weights of the noise loss (Hang et al., 2023), with this gamma; 0: none
    identity_weight: float = 0.1  # 0: no identity loss
    identity_scaling: Scaling = "sqrt_alpha_bar"
    latent_memory: float = 5.0  # GB of main memory, over all processes, for latents of targets
    recompute: bool = False  # the decoder's activations in the backward pass: slower, far less memory

    codebook_weight: float = 1.0
    perceptual_weight: float = 0.0  # of LPIPS, which needs pyiqa
    discriminator_weight: float = 0.8  # times the adaptive weight
    discriminator_start: int = 30001  # step
    discriminator_channels: int = 64
    discriminator_layers: int = 3
    revive_every: int = 1000  # steps after which codes that nobody used get a latent's place; 0: never

    log_every: int = 50
    save_every: int = 5000
    keep: int = 3  # the last so many checkpoints, beside the best
    validate_every: int = 5000
    validation_pictures: int = 8
    validation_steps: int = 50
    validation_guidance: float = 1.0
    architecture: Architecture = field(default_factory=Architecture)

    def __post_init__(self) -> None:
        for name in AT_LEAST_ONE:
            _need(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in SHARES:
            _need(0 <= getattr(self, name) <= 1, f"{name} must be from 0 to 1")
        for name in NOT_NEGATIVE:
            _need(getattr(self, name) >= 0, f"{name} must not be negative")
        _need(0 < self.lr < float("inf"), "lr must be above 0")
        _need(all(0 <= beta < 1 for beta in self.betas), "betas must be from 0 to below 1")
        _need(0 < self.zoom[0] <= self.zoom[1], "zoom must be two numbers above 0, the smaller first")
        _need(0 <= self.perspective < 1, "perspective must be from 0 to below 1")
        _need(all(0 <= j < 1 for j in self.jitter) and self.jitter[3] <= 0.5, "jitter must be below 1, its "
              "hue at most 0.5")  # fmt: skip
        _need(self.batch_size % self.accumulate == 0, "batch_size must be a multiple of accumulate")

    @property
    def static_references(self) -> bool:
        """Whether references are never augmented: so their latents are worth keeping."""
        perspective = self.perspective * self.perspective_share
        moved = (*self.jitter, self.rotate, self.shift, perspective, self.reference_flip)
        return not any(moved) and self.zoom == (1.0, 1.0)

    def table(self) -> dict[str, object]:
        """As JSON has it, and as `parse` reads it back."""
        table: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return table


def _need(good: bool, fault: str) -> None:
    if not good:
        raise ValueError(fault)


def read_config(path: Path) -> dict[str, object]:
    """A configuration's TOML as a table for `parse`.

    `architecture` may be the name of a TOML file with the networks' sizes, below the folder of this one, so
    that the stages of one restorer share it.
    """
    table: dict[str, object] = load_toml(path)
    name = table.get("architecture")
    if isinstance(name, str):
        place = path.parent / name
        if not place.resolve().is_relative_to(path.parent.resolve()):
            raise UserError(f"{path}: architecture {name!r} must be a file below {path.parent}.")
        sizes = load_toml(place)
        if table.get("stage") == "autoencoder":  # has no denoiser, whose size would tie its runs
            sizes.pop("unet", None)
        table["architecture"] = sizes
    return table


def parse(table: Mapping[str, object], where: str) -> Config:
    """A configuration from TOML or JSON; UserError names the key that is unknown or does not fit."""
    sizes = table.get("architecture", {})
    if not isinstance(sizes, Mapping):
        raise UserError(f"{where}: architecture must be a table.")
    architecture = parse_architecture(sizes, f"{where}: architecture")
    return build(Config, {**table, "architecture": architecture}, where)


def changed(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """The keys that a run which goes on may not change, but did."""
    return sorted(key for key in now if key not in FREE and before.get(key) != now[key])
