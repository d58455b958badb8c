"""The noise schedule and the DDIM sampler (Song et al., eq. 12 and 16)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ffhqref.core.arrays import Float64

Schedule = Literal["uniform_trailing", "uniform", "log_snr"]


def betas(steps: int = 1000, first: float = 0.0015, last: float = 0.0155) -> Float64:
    """Variances added at each of `steps` timesteps, float64; linear in their square roots."""
    roots = torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64)
    return np.asarray(roots.square().numpy())


def tables(beta: Float64) -> dict[str, Tensor]:
    """The published schedule buffers by name, each [T] float32, computed in float64."""
    alpha = 1 - beta
    bar = np.cumprod(alpha)
    before = np.append(1.0, bar[:-1])
    variance = beta * (1 - before) / (1 - bar)
    values = {
        "betas": beta,
        "alphas_cumprod": bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - bar),
        "log_one_minus_alphas_cumprod": np.log(1 - bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / bar - 1),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": np.log(np.maximum(variance, 1e-20)),
        "posterior_mean_coef1": beta * np.sqrt(before) / (1 - bar),
        "posterior_mean_coef2": (1 - before) * np.sqrt(alpha) / (1 - bar),
    }
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}


def timesteps(schedule: Schedule, steps: int, total: int = 1000) -> list[int]:
    """The timesteps of a DDIM run, ascending.

    Where `steps` does not divide `total` more than `steps` come out, as published. ValueError where
    `steps` is out of range or the published `uniform` would ask for a timestep that does not exist.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"steps must be from 1 to {total}")
    if schedule == "log_snr":
        return _even_log_snr(steps, total)
    stride = total // steps
    if schedule == "uniform":
        chosen = [t + 1 for t in range(0, total, stride)]
    else:
        chosen = [t - 1 for t in range(total, 0, -stride)][::-1]
    if chosen[-1] >= total:
        raise ValueError(f"the schedule `uniform` with {steps} steps asks for timestep {total}, the last is "
                         f"{total - 1}: take another number of steps or `uniform_trailing`")  # fmt: skip
    return chosen


def _even_log_snr(steps: int, total: int) -> list[int]:
    """Timesteps between which the log-SNR grows by equal amounts, from the last one down to 0 (left out).

    Rounded to whole ones and at least one apart, since the denoiser was trained at no others.
    """
    if steps >= total:
        raise ValueError(f"the schedule `log_snr` has at most {total - 1} steps")
    bar = np.cumprod(1 - betas(total))
    half = np.log(bar / (1 - bar)) / 2  # of the log-SNR, descending in t
    wanted = np.linspace(half[0], half[-1], steps + 1)[1:]
    rounded = np.rint(np.interp(-wanted, -half, np.arange(total))).astype(int)
    chosen: list[int] = []
    for place, t in enumerate(rounded):
        lowest = chosen[-1] + 1 if chosen else 1
        chosen.append(int(min(max(t, lowest), total - steps + place)))
    return chosen


def alphas(bar: Tensor, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
    """alpha-bar at each timestep and at the one before it; before the first stands alpha-bar of 0."""
    now = bar[list(chosen)]
    return now, torch.cat([bar[:1], now[:-1]])


def sigmas(now: Tensor, before: Tensor, eta: float) -> Tensor:
    """Standard deviation of the fresh noise of each step (eq. 16); 0 for eta = 0."""
    return eta * torch.sqrt((1 - before) / (1 - now) * (1 - now / before))


def ddim(
    denoise: Callable[[Tensor, int], Tensor],
    x: Tensor,
    chosen: Sequence[int],
    bar: Tensor,
    eta: float = 0.0,
    noise: Callable[[int], Tensor] | None = None,
    watch: Callable[[Tensor, Tensor], object] | None = None,
) -> Tensor:
    """DDIM: the latent that `denoise(x, t)`, which predicts the noise, leads x_T [B, C, h, w] to.

    `bar` is alpha-bar [T] float32; `noise(i)` gives step i's fresh noise where eta > 0; `watch` is
    called after each step with x and the predicted x_0.
    """
    now, before = alphas(bar.cpu(), chosen)
    fresh = sigmas(now, before, eta)
    for step, i in enumerate(reversed(range(len(chosen)))):
        eps = denoise(x, chosen[i])
        a, previous, sigma = float(now[i]), float(before[i]), float(fresh[i])
        x0 = (x - (1 - a) ** 0.5 * eps) / a**0.5
        x = previous**0.5 * x0 + max(0.0, 1 - previous - sigma**2) ** 0.5 * eps
        if eta > 0 and noise is not None:
            x = x + sigma * noise(step)
        if watch is not None:
            watch(x, x0)
    return x
