"""The gradient through frozen layers to their input, on a CPU: in strips, and nothing kept but the input.

A layer of the decoder is normalise-activate-convolve. Torch's own way keeps what normalisation and
activation give, each as large as the input; here both are found again from the input, strip by strip.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ffhqref.refldm.model import layers


def wanted(x: Tensor, *parts: nn.Module) -> bool:
    """Whether a gradient is to go through frozen `parts` on a CPU, in float32."""
    return (
        torch.is_grad_enabled()
        and x.requires_grad
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not any(parameter.requires_grad for part in parts for parameter in part.parameters())
    )


def recomputing_norm_act_conv(
    x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, onto: Tensor | None = None
) -> Tensor:
    """`layers.norm_act_conv`, which see; `onto` is overwritten only where no gradient is asked for."""
    if not wanted(x, norm, conv):
        return layers.norm_act_conv(x, norm, conv, onto)
    out: Tensor = _NormActConv.apply(x, norm, conv)  # type: ignore[no-untyped-call]
    return out if onto is None else out + onto


def upsample(x: Tensor, layer: layers.Upsample) -> Tensor:
    """`layer(x)`: nearest-neighbour doubling and a convolution."""
    out: Tensor = _Upsample.apply(x, layer.conv) if wanted(x, layer) else layer(x)  # type: ignore[no-untyped-call]
    return out


class Context(Protocol):
    """What a forward pass leaves to its backward pass."""

    saved_tensors: tuple[Tensor, ...]
    norm: nn.GroupNorm
    conv: nn.Conv2d

    def save_for_backward(self, *tensors: Tensor) -> None: ...


def _backward(gradient: Tensor, conv: nn.Conv2d) -> Callable[[Tensor, bool, bool], Tensor]:
    """The convolution that takes the gradient of a 3x3 convolution's result to that of its input."""
    return layers.convolution(gradient, conv.weight.flip((2, 3)).transpose(0, 1), None)


class _NormActConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d) -> Tensor:
        mean, rstd = layers.moments(x, norm)
        ctx.save_for_backward(x, mean, rstd)
        ctx.norm, ctx.conv = norm, conv
        return layers.act_conv(x, *layers.affine(mean, rstd, norm, x.dtype), conv)

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None, None]:
        """With n = scale x + shift and g the gradient at n, that at x is scale (g - mean(g) - ...).

        The two means over a group that normalisation asks for are linear in the channels' sums of g and
        g x; so one pass finds g and the sums, a second one the result.
        """
        (x, mean, rstd), norm = ctx.saved_tensors, ctx.norm
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        scale, shift = layers.affine(mean, rstd, norm, x.dtype)
        back = _backward(gradient, ctx.conv)
        height = x.shape[2]
        out = layers.empty(x, *x.shape[1:])
        sums = torch.zeros((2, *x.shape[:2], 1, 1), dtype=torch.float64)
        for top, bottom, strip in layers.strips(gradient):
            part, place = x[:, :, top:bottom], out[:, :, top:bottom]
            normalised = torch.addcmul(shift, part, scale)
            place[:] = torch.ops.aten.silu_backward(back(strip, top == 0, bottom == height), normalised)
            sums[0] += place.sum((2, 3), keepdim=True)
            sums[1] += torch.mul(place, part, out=normalised).sum((2, 3), keepdim=True)
        by_x, by_one = _of_the_means(sums, mean, rstd, norm, height * x.shape[3])
        for top in range(0, height, rows := layers.strip_rows(x)):
            part, place = x[:, :, top : top + rows], out[:, :, top : top + rows]
            place.mul_(scale).addcmul_(part, by_x).add_(by_one)
        return out, None, None


def _of_the_means(
    sums: Tensor, mean: Tensor, rstd: Tensor, norm: nn.GroupNorm, pixels: int
) -> tuple[Tensor, Tensor]:
    """What normalisation's mean and deviation add to the gradient at x: by_x * x + by_one, [B, C, 1, 1].

    `sums` [2, B, C, 1, 1] are those of g and of g x over the pixels.
    """
    weight = norm.weight.double()[:, None, None]
    batch, channels = mean.shape[:2]
    each = torch.stack([sums[0] * weight, (sums[1] - mean * sums[0]) * rstd * weight])  # g, g * normalised x
    group = channels // norm.num_groups
    means = each.view(2, batch, norm.num_groups, group).sum(3) / (group * pixels)
    ones, normal = (layers.per_channel(groups, sums[0]) for groups in means)
    by_x = -normal * rstd**2
    return by_x.float(), (-rstd * ones - by_x * mean).float()


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Context, x: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.conv = conv
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        out = layers.empty(x, conv.out_channels, height, width)
        convolve = layers.convolution(out, conv.weight, conv.bias)
        for top, bottom, strip in layers.strips(x):
            first, last = top == 0, bottom == x.shape[2]
            doubled = F.interpolate(strip, scale_factor=2.0, mode="nearest")
            doubled = doubled[:, :, int(not first) : doubled.shape[2] - int(not last)]
            out[:, :, 2 * top : 2 * bottom] = convolve(doubled, first, last)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        back = _backward(gradient, ctx.conv)
        height, width = gradient.shape[2:]
        out = layers.empty(gradient, ctx.conv.in_channels, height // 2, width // 2)
        for top, bottom, strip in layers.strips(gradient):
            doubled = back(strip, top == 0, bottom == height)
            out[:, :, top // 2 : bottom // 2] = 4 * F.avg_pool2d(doubled, 2)
        return out, None
