"""Solvers that need fewer steps than DDIM: DPM-Solver++(2M) and UniPC.

Both integrate the same equation. In lambda = log(alpha / sigma), half the log-SNR, the latent obeys
x(t) = sigma_t / sigma_s x(s) + sigma_t * integral of e^lambda x_0(lambda) from lambda_s to lambda_t
(Lu et al. 2022, DPM-Solver++, eq. 8), where x_0 is what the denoiser takes the clean latent for. They differ
in how they carry x_0 between the timesteps at which it is known; DDIM takes it for constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from ffhqref.core.arrays import Float64

Solver = Literal["ddim", "dpmpp2m", "unipc"]
Denoise = Callable[[Tensor, int], Tensor]  # (x, t) -> the noise in x
Watch = Callable[[Tensor, Tensor], object]  # is given x and the predicted x_0 after each step
UNIPC_ORDER = 3


@dataclass(frozen=True)
class Grid:
    """The timesteps of a run, descending, and alpha, sigma and lambda at each and where the run ends."""

    times: list[int]
    alpha: Float64
    sigma: Float64
    lam: Float64

    @classmethod
    def of(cls, chosen: Sequence[int], bar: Tensor) -> Grid:
        """Of ascending timesteps; as in `schedule.ddim` the run ends at alpha-bar of timestep 0."""
        times = [t for t in reversed(chosen) if t]  # at 0 there is nothing left to do
        bars = bar.cpu().double().numpy()[[*times, 0]]
        alpha, sigma = np.sqrt(bars), np.sqrt(1 - bars)
        return cls(times, alpha, sigma, np.log(alpha / sigma))

    def x0(self, i: int, x: Tensor, eps: Tensor) -> Tensor:
        return (x - float(self.sigma[i]) * eps) / float(self.alpha[i])

    def step(self, i: int, x: Tensor, known: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        """x at point i + 1 from x at point i, with a weight for each x_0: their sum is the integral."""
        x = float(self.sigma[i + 1] / self.sigma[i]) * x
        for x0, weight in zip(known, weights, strict=True):
            x = x + float(self.alpha[i + 1] * weight) * x0
        return x


def dpmpp2m(
    denoise: Denoise, x: Tensor, chosen: Sequence[int], bar: Tensor, watch: Watch | None = None
) -> Tensor:
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2: x_0 goes on along the line of its last two values."""
    grid = Grid.of(chosen, bar)
    known: list[Tensor] = []  # x_0 at the present point, and before it at the one before
    for i, t in enumerate(grid.times):
        known = [grid.x0(i, x, denoise(x, t)), *known[:1]]
        x = grid.step(i, x, known, half_weights(*spacing(grid, i, len(known))))
        if watch is not None:
            watch(x, known[0])
    return x


def unipc(
    denoise: Denoise,
    x: Tensor,
    chosen: Sequence[int],
    bar: Tensor,
    watch: Watch | None = None,
    order: int = UNIPC_ORDER,
) -> Tensor:
    """UniPC (Zhao et al. 2023), with x_0 and B(h) = e^h - 1: a predictor of `order`, then its corrector.

    The corrector does a step again once x_0 at its end is known, and asks for no other pass of the denoiser.
    """
    grid = Grid.of(chosen, bar)
    known: list[Tensor] = []  # x_0 at the last `order` points, the present one first
    start = x  # x at the point before, corrected
    for i, t in enumerate(grid.times):
        x0 = grid.x0(i, x, denoise(x, t))
        if known:
            x = grid.step(i - 1, start, [*known, x0], corrector_weights(*spacing(grid, i - 1, len(known))))
        known, start = [x0, *known[: order - 1]], x
        x = grid.step(i, x, known, predictor_weights(*spacing(grid, i, len(known))))
        if watch is not None:
            watch(x, x0)
    return x


def spacing(grid: Grid, i: int, count: int) -> tuple[float, list[float]]:
    """h, the step from point i in lambda, and where the last `count` points lie in it: 0 and below, in h."""
    h = float(grid.lam[i + 1] - grid.lam[i])
    return h, [float(grid.lam[i - k] - grid.lam[i]) / h for k in range(count)]


def half_weights(h: float, places: Sequence[float]) -> list[float]:
    """The weights of DPM-Solver++(2M): x_0 in the middle of the step stands for all of it."""
    whole = -math.expm1(-h)
    if len(places) == 1:
        return [whole]
    slope = 0.5 / places[1]
    return [whole * (1 - slope), whole * slope]


def predictor_weights(h: float, places: Sequence[float]) -> list[float]:
    """Of UniP: with two points those above, as the paper has it (rho = 1/2), else `exact_weights`."""
    return half_weights(h, places) if len(places) < 3 else exact_weights(h, places)


def corrector_weights(h: float, places: Sequence[float]) -> list[float]:
    """Of UniC, the end of the step last: with one point before it both count half (rho = 1/2)."""
    if len(places) == 1:
        return [-math.expm1(-h) / 2] * 2
    return exact_weights(h, [*places, 1.0])


def exact_weights(h: float, places: Sequence[float]) -> list[float]:
    """The weights that integrate a polynomial through the points exactly.

    With u = lambda - lambda_s, the integral of e^(u - h) (u / h)^k from 0 to h is I_k = 1 - k / h * I_(k-1).
    """
    moments = [-math.expm1(-h)]
    for k in range(1, len(places)):
        moments.append(1 - k / h * moments[-1])
    powers = np.vander(places, increasing=True).T
    return [float(weight) for weight in np.linalg.solve(powers, moments)]


SOLVERS: Mapping[Solver, Callable[..., Tensor]] = {"dpmpp2m": dpmpp2m, "unipc": unipc}  # beside DDIM
