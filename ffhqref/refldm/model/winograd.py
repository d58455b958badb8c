"""3x3 convolutions by Winograd's way, F(4x4, 3x3): a quarter of the products, for CPUs.

Each tile of 4 x 4 results is found from its 6 x 6 inputs, transformed along columns and rows, by 36
products where the plain way has 144 (Lavin and Gray, 2016). A transform evaluates polynomials at 0, +-A,
+-B and infinity; at these points float32 loses no more than in the plain way (the usual 1 and 2 lose
four times as much).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

A, B = 0.625, 1.5
OUTPUT_TILE, INPUT_TILE = 4, 6  # px of results, and of the inputs that they depend on
LEAST_CHANNELS, LEAST_PIXELS = 64, 4096  # below, the transforms cost more than they save


def _weights_of_points() -> Tensor:
    """[6, 3]: three weights -> their polynomial at the six points, over what the points' basis asks for."""
    a, b = A * A, B * B
    norms = {0.0: a * b, A: 2 * a * (a - b), -A: 2 * a * (a - b), B: 2 * b * (b - a), -B: 2 * b * (b - a)}
    rows = [[p**power / norm for power in range(3)] for p, norm in norms.items()]
    return torch.tensor([*rows, [0, 0, 1]], dtype=torch.float64)


POINTS = torch.kron(_weights_of_points(), _weights_of_points()).float()  # [column, row of points; of weights]


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether a 3x3 convolution of padding 1 of x [B, C, H, W] gains by it and keeps its precision."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.shape[2] % OUTPUT_TILE == x.shape[3] % OUTPUT_TILE == 0
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and x.shape[0] * x.shape[2] * x.shape[3] >= LEAST_PIXELS
    )


def kernels(weight: Tensor) -> Tensor:
    """Weights [O, C, 3, 3] -> their values at the points [36, O, C]."""
    out, channels = weight.shape[:2]
    return (POINTS @ weight.permute(3, 2, 0, 1).reshape(9, -1)).view(-1, out, channels)


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [B, C, H + 2, W + 2] with its margin, H and W multiples of 4 -> [B, O, H, W], channels-last.

    `kernel` is `kernels(weight)`.
    """
    x = x.permute(0, 2, 3, 1)  # NHWC
    batch, height, width, channels = x.shape
    down, across, out = height // OUTPUT_TILE, width // OUTPUT_TILE, kernel.shape[1]
    rows = x.new_empty((INPUT_TILE, batch, down, width, channels))
    _evaluate([x[:, i::OUTPUT_TILE][:, :down] for i in range(INPUT_TILE)], rows)
    points = x.new_empty((INPUT_TILE, INPUT_TILE, batch, down, across, channels))
    _evaluate([rows[:, :, :, i::OUTPUT_TILE][:, :, :, :across] for i in range(INPUT_TILE)], points)
    products = torch.bmm(points.view(INPUT_TILE**2, -1, channels), kernel.transpose(1, 2))
    columns = x.new_empty((OUTPUT_TILE, INPUT_TILE, batch, down, across, out))
    _interpolate(products.view(INPUT_TILE, *columns.shape[1:]).unbind(0), columns)
    results = x.new_empty((batch, down, OUTPUT_TILE, across, OUTPUT_TILE, out))
    _interpolate(columns.unbind(1), results.permute(2, 4, 0, 1, 3, 5))
    if bias is not None:
        results += bias
    return results.view(batch, down * OUTPUT_TILE, across * OUTPUT_TILE, out).permute(0, 3, 1, 2)


def _evaluate(x: Sequence[Tensor], out: Tensor) -> None:
    """Six inputs each -> their values at the points, out[0..5]."""
    a, b = A * A, B * B
    even, odd = torch.sub(x[4], x[2], alpha=b), torch.sub(x[3], x[1], alpha=b)
    torch.add(even, odd, alpha=A, out=out[1])
    torch.sub(even, odd, alpha=A, out=out[2])
    torch.sub(x[4], x[2], alpha=a, out=even)
    torch.sub(x[3], x[1], alpha=a, out=odd)
    torch.add(even, odd, alpha=B, out=out[3])
    torch.sub(even, odd, alpha=B, out=out[4])
    torch.sub(even, x[2], alpha=b, out=out[0]).add_(x[0], alpha=a * b)
    torch.sub(x[5], x[3], alpha=a + b, out=out[5]).add_(x[1], alpha=a * b)


def _interpolate(m: Sequence[Tensor], out: Tensor) -> None:
    """Products at the six points -> the four results, out[0..3]."""
    even, odd = m[1] + m[2], m[1] - m[2]
    even2, odd2 = m[3] + m[4], m[3] - m[4]
    torch.add(even, even2, out=out[0]).add_(m[0])
    torch.mul(odd, A, out=out[1]).add_(odd2, alpha=B)
    torch.mul(even, A**2, out=out[2]).add_(even2, alpha=B**2)
    torch.add(m[5], odd, alpha=A**3, out=out[3]).add_(odd2, alpha=B**3)
