"""How weights move: learning-rate schedules, their moving average (EMA)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def warmup_cosine(
    step: int,
    *,
    warm_up_steps: int,
    max_decay_steps: int,
    lr_start: float = 0.0,
    lr_max: float = 1.0,
    lr_min: float = 0.0,
) -> float:
    """Multiplier of the learning rate: a line up to `lr_max`, then half a cosine down to `lr_min`."""
    if step < warm_up_steps:
        return lr_start + (lr_max - lr_start) * step / warm_up_steps
    done = min(1.0, (step - warm_up_steps) / (max_decay_steps - warm_up_steps))
    return lr_min + 0.5 * (lr_max - lr_min) * (1 + math.cos(math.pi * done))


def linear_warmup(step: int, steps: int) -> float:
    """Up to 1 in `steps` steps; the first step already moves."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def ema_decay(updates: int, decay: float = 0.9999) -> float:
    """The share of the old average in update number `updates`, from 1: small at first."""
    return min(decay, (1 + updates) / (10 + updates))


@dataclass
class Ema:
    """A moving average of parameters, in float32, on their device."""

    decay: float = 0.9999
    updates: int = 0
    shadow: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, decay: float = 0.9999) -> Ema:
        """Starts as a copy of the module's parameters."""
        shadow = {name: p.detach().clone().float() for name, p in module.named_parameters()}
        return cls(decay, 0, shadow)

    @torch.no_grad()
    def update(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        """After each step: shadow -= (1 - d) * (shadow - parameter)."""
        self.updates += 1
        found = dict(parameters)
        new = [found[name].detach().float() for name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), new, 1 - ema_decay(self.updates, self.decay))
