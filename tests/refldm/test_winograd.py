"""Winograd's convolution against the plain one, both beside float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from ffhqref.refldm.model import winograd

ROUNDINGS = 16  # of float32, of the result's size: 12 at 512 channels, where direct convolution has 2


def drawn(*shape: int, seed: int = 0) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 64, 4, 4), (2, 96, 8, 20), (1, 512, 16, 16), (3, 64, 12, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_rounds_little(shape: tuple[int, ...], bias: bool) -> None:
    x, weight = F.silu(drawn(*shape)), drawn(40, shape[1], 3, 3, seed=1) / (9 * shape[1]) ** 0.5
    added = drawn(40, seed=2) if bias else None
    exact = F.conv2d(x.double(), weight.double(), None if added is None else added.double(), padding=1)
    ours = winograd.convolve(F.pad(x, (1, 1, 1, 1)), winograd.kernels(weight), added)
    plain = F.conv2d(x, weight, added, padding=1)
    assert ours.shape == plain.shape and ours.is_contiguous(memory_format=torch.channels_last)
    rounding = torch.finfo(torch.float32).eps * exact.square().mean().sqrt()
    assert (ours.double() - exact).square().mean().sqrt() <= ROUNDINGS * rounding


def test_it_is_taken_where_it_gains() -> None:
    weight = torch.empty(64, 64, 3, 3)
    assert winograd.suits(torch.empty(1, 64, 64, 64), weight)
    assert not winograd.suits(torch.empty(1, 64, 64, 62), weight)  # tiles of 4 x 4
    assert not winograd.suits(torch.empty(1, 64, 32, 64), weight)  # few pixels
    assert not winograd.suits(torch.empty(1, 64, 64, 64), weight[:3])  # few channels
    assert not winograd.suits(torch.empty(1, 64, 64, 64, dtype=torch.bfloat16), weight.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):  # which would take the products in bfloat16
        assert not winograd.suits(torch.empty(1, 64, 64, 64), weight)
