"""DPM-Solver++(2M) and UniPC: against the exact solution where the data are Gaussian, and diffusers' own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ffhqref.refldm.model import schedule, solvers

BAR = schedule.tables(schedule.betas())["alphas_cumprod"]
MEAN, DEVIATION = 0.7, 0.5  # of the data
START = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 1, 3, 3)


def even(steps: int) -> Tensor:
    """alpha-bar whose log-SNR is even over 0 ... `steps`, with the published ends: nothing is rounded."""
    ends = [math.log(float(bar / (1 - bar))) for bar in (BAR[0].double(), BAR[-1].double())]
    return torch.linspace(*ends, steps + 1, dtype=torch.float64).sigmoid()


def gaussian(bar: Tensor) -> Callable[[Tensor, int], Tensor]:
    """The noise that is expected in x where the data are N(MEAN, DEVIATION^2)."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, v = math.sqrt(bar[t]), float(1 - bar[t])
        return math.sqrt(v) * (x - a * MEAN) / (a * a * DEVIATION**2 + v)

    return denoise


def exact(bar: Tensor) -> Tensor:
    """Where the equation leads START: how far x is from its mean, in standard deviations, stays."""
    (a, s), (b, e) = (
        (math.sqrt(bar[t]), math.sqrt(bar[t] * DEVIATION**2 + 1 - bar[t])) for t in (len(bar) - 1, 0)
    )
    return b * MEAN + e / s * (START - a * MEAN)


@pytest.mark.parametrize(
    ("solver", "order"),
    [(schedule.ddim, 1), (solvers.dpmpp2m, 2), (partial(solvers.unipc, order=2), 3), (solvers.unipc, 4)],
)
def test_orders_of_convergence(solver: Callable[..., Tensor], order: int) -> None:
    """Errors at 40 and 80 steps; UniPC's corrector adds an order to its predictor's (Zhao et al., sec. 3)."""
    errors = []
    for steps in (40, 80):
        bar = even(steps)
        made = solver(gaussian(bar), START, range(1, steps + 1), bar)
        errors.append(float((made - exact(bar)).abs().max()))
    assert order - 0.4 < math.log2(errors[0] / errors[1]) < order + 0.8, errors


def test_a_constant_x0_is_reached_exactly() -> None:
    """Whatever the solver, the number of steps and their spacing."""
    grids = [schedule.timesteps("log_snr", 7), schedule.timesteps("uniform", 100)]
    for chosen in ([999], [3, 500, 999], *grids):
        for solver in (schedule.ddim, *solvers.SOLVERS.values()):
            x = torch.tensor([0.3, -1.0], dtype=torch.float64)

            def denoise(x: Tensor, t: int) -> Tensor:
                return (x - BAR[t].double().sqrt() * 0.25) / (1 - BAR[t].double()).sqrt()

            eps = denoise(x, chosen[-1])
            made = solver(denoise, x, chosen, BAR)
            wanted = BAR[0].double().sqrt() * 0.25 + (1 - BAR[0].double()).sqrt() * eps
            torch.testing.assert_close(made, wanted, rtol=1e-6, atol=1e-7)


def test_a_polynomial_is_integrated_exactly() -> None:
    """The weights against a fine sum of e^(u - h) p(u)."""
    h, places = 0.7, [0.0, -1.1, -2.4, 1.0]
    weights = solvers.exact_weights(h, places)
    u = (np.arange(200_000) + 0.5) / 200_000
    for polynomial in ([1.0], [0.2, -1.0], [1.0, 2.0, 3.0, -4.0]):
        fine = h * np.mean(np.exp(h * (u - 1)) * np.polyval(polynomial, u))
        assert sum(np.multiply(weights, np.polyval(polynomial, places))) == pytest.approx(fine, rel=1e-8)


def test_the_even_grid() -> None:
    half = torch.log(BAR.double() / (1 - BAR.double())) / 2
    for steps in (1, 2, 5, 12, 20):
        chosen = schedule.timesteps("log_snr", steps)
        assert len(chosen) == steps and chosen[-1] == 999 and chosen == sorted(set(chosen)) and chosen[0] > 0
        gaps = (half[[0, *chosen[:-1]]] - half[chosen]) * steps / (half[0] - half[-1])
        assert float((gaps - 1).abs().max()) < 0.6, "within what rounding to whole timesteps leaves"
    assert schedule.timesteps("log_snr", 999) == list(range(1, 1000))
    with pytest.raises(ValueError, match="at most 999"):
        schedule.timesteps("log_snr", 1000)


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize("solver", ["dpmpp2m", "unipc-2", "unipc-3"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_diffusers_makes_the_same(solver: str, steps: int) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers (the extra `dev`) is not installed")
    chosen = schedule.timesteps("log_snr", steps)
    shared: dict[str, Any] = dict(
        trained_betas=schedule.betas(), solver_order=int(solver[-1]) if "-" in solver else 2,
        lower_order_final=False, final_sigmas_type="sigma_min",
    )  # fmt: skip
    if solver == "dpmpp2m":
        theirs = diffusers.DPMSolverMultistepScheduler(algorithm_type="dpmsolver++", **shared)
        ours = solvers.dpmpp2m(gaussian(BAR), START, chosen, BAR)
    else:
        theirs = diffusers.UniPCMultistepScheduler(solver_type="bh2", **shared)
        ours = solvers.unipc(gaussian(BAR), START, chosen, BAR, order=shared["solver_order"])
    theirs.set_timesteps(steps)
    bars = BAR.double()[[*chosen[::-1], 0]]
    theirs.sigmas, theirs.timesteps = ((1 - bars) / bars).sqrt(), torch.tensor(chosen[::-1])
    x, denoise = START, gaussian(BAR)
    for t in theirs.timesteps:
        x = theirs.step(denoise(x, int(t)), t, x).prev_sample
    torch.testing.assert_close(x, ours, rtol=1e-5, atol=1e-6)
