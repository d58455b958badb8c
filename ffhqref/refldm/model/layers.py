"""What both networks are made of: normalise-activate-convolve in strips, upsampling, tokens.

In inference large pictures pass through in strips of rows that fit the cache. The numbers are those of
the plain way but for the rounding of float sums; the memory is that of the input and the output alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffhqref.refldm.model import winograd

STRIP_BYTES = 4 << 20  # of one strip: a few of them fit the last-level cache of a desktop processor
MOMENTS_BYTES = 1 << 20  # of a picture's rows whose moments are taken at a time: a core's own cache


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y; x is overwritten where no gradient needs it."""
    return x + y if torch.is_grad_enabled() else x.add_(y)


def normalise(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """norm(x), with none of its digits lost.

    Torch takes the variance of channels-last input as a difference of squares: the greater the mean is
    beside the deviation the more is lost, most with a black reference or the null condition. Its kernel
    for contiguous input does not; copies to and fro are cheap for small input only.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32:
        out: Tensor = norm(x)
    elif torch.is_grad_enabled():
        mean = x.mean((2, 3)).reshape(len(x), norm.num_groups, -1).mean(2)
        out = norm(x - per_channel(mean, x))
    elif x[0].numel() * x.element_size() <= MOMENTS_BYTES:
        out = norm(x.contiguous()).contiguous(memory_format=torch.channels_last)
    else:
        scale, shift = affine(*moments(x, norm), norm, x.dtype)
        out = torch.addcmul(shift, x, scale)
    return out


def per_channel(groups: Tensor, x: Tensor) -> Tensor:
    """[B, G] -> [B, C, 1, 1]: each channel of x has its group's value."""
    return groups.repeat_interleave(x.shape[1] // groups.shape[1], 1)[:, :, None, None]


def norm_act_conv(x: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d, onto: Tensor | None = None) -> Tensor:
    """conv(silu(norm(x))) for a 3x3 convolution of padding 1, plus `onto`, which it may overwrite.

    x [B, C, H, W] -> [B, conv.out_channels, H, W].
    """
    small = strip_rows(x) >= x.shape[2] and not winograd.suits(x, conv.weight)
    if torch.is_grad_enabled() or x.device.type != "cpu" or small:
        out: Tensor = conv(F.silu(normalise(x, norm), inplace=not torch.is_grad_enabled()))
        return out if onto is None else add(out, onto)
    return act_conv(x, *affine(*moments(x, norm), norm, x.dtype), conv, onto)


def act_conv(x: Tensor, scale: Tensor, shift: Tensor, conv: nn.Conv2d, onto: Tensor | None = None) -> Tensor:
    """conv(silu(scale * x + shift)), plus `onto`, which is overwritten; in strips, without a gradient."""
    convolve = convolution(x, conv.weight, conv.bias)
    if onto is None:
        out = empty(x, conv.out_channels, x.shape[2], x.shape[3])
    for top, bottom, strip in strips(x):
        strip = F.silu(torch.addcmul(shift, strip, scale), inplace=True)
        piece = convolve(strip, top == 0, bottom == x.shape[2])
        if onto is None:
            out[:, :, top:bottom] = piece
        else:
            onto[:, :, top:bottom] += piece
    return out if onto is None else onto


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Callable[[Tensor, bool, bool], Tensor]:
    """The 3x3 convolution of padding 1 for strips of x, each with the rows next to it.

    It is told whether the strip is the first and whether it is the last one: there zeros are added.
    """
    kernel = winograd.kernels(weight) if winograd.suits(x, weight) else None

    def convolve(strip: Tensor, first: bool, last: bool) -> Tensor:
        if kernel is not None:
            return winograd.convolve(F.pad(strip, (1, 1, int(first), int(last))), kernel, bias)
        return F.conv2d(F.pad(strip, (0, 0, int(first), int(last))), weight, bias, padding=(0, 1))

    return convolve


def strip_rows(x: Tensor) -> int:
    """How many rows of x [B, C, H, W] a strip has: a multiple of 4."""
    rows = STRIP_BYTES // (x.shape[1] * x.shape[3] * x.element_size())
    return max(8, rows // winograd.OUTPUT_TILE * winograd.OUTPUT_TILE)


def empty(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Room for a picture like x, channels-last."""
    shape = (x.shape[0], channels, height, width)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def strips(x: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """(top, bottom, the rows from top - 1 to bottom + 1 as far as the picture reaches)."""
    height, rows = x.shape[2], strip_rows(x)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        yield top, bottom, x[:, :, max(top - 1, 0) : min(bottom + 1, height)]


def halve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3x3 convolution of stride 2 over x with a column of zeros on the right and a row below.

    [B, C, H, W] of even H and W -> [B, conv.out_channels, H / 2, W / 2], in strips, so that no padded
    copy of the whole is made.
    """
    height, width = x.shape[2] // 2, x.shape[3] // 2
    out = empty(x, conv.out_channels, height, width)
    rows = strip_rows(x)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        strip = F.pad(x[:, :, 2 * top : 2 * bottom + 1], (0, 1, 0, int(bottom == height)))
        out[:, :, top:bottom] = F.conv2d(strip, conv.weight, conv.bias, stride=2)
    return out


def moments(x: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each group of channels, both [B, C, 1, 1] float64.

    Of a few rows at a time the moments are taken about their own mean, then joined in float64.
    """
    batch, channels, height, width = x.shape
    count, mean, square = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    rows = max(1, MOMENTS_BYTES // (channels * width * x.element_size()))
    for part in torch.split(x, rows, 2):
        pivot = part.mean((2, 3), keepdim=True, dtype=torch.float32)
        part = part - pivot
        rest = part.mean((2, 3)).double()  # what rounding left in the pivot
        size = part.shape[2] * width
        squares = part.square_().sum((2, 3)).double() - size * rest**2
        delta, total = pivot[:, :, 0, 0].double() + rest - mean, count + size
        mean = mean + delta * (size / total)  # Chan et al.'s update of mean and sum of squares
        square = square + squares + delta**2 * (count * size / total)
        count = total
    means, squares = (v.reshape(batch, norm.num_groups, -1) for v in (mean, square / count))
    of_group = means.mean(2)
    variance = (squares + (means - of_group[:, :, None]) ** 2).mean(2)
    return per_channel(of_group, x), per_channel((variance + norm.eps).rsqrt(), x)


def affine(mean: Tensor, rstd: Tensor, norm: nn.GroupNorm, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Group normalisation with these `moments` as x * scale + shift, both [B, C, 1, 1].

    The shift is that of the rounded mean and scale, as in torch's own kernel: else the scale's rounding is
    multiplied by the mean over the deviation, which is hundreds where a group is next to constant.
    """
    scale = (rstd.float() * norm.weight[:, None, None]).to(dtype)
    shift = norm.bias[:, None, None] - mean.float().double() * scale.double()
    return scale, shift.to(dtype)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution (`conv`): [B, C, H, W] -> [B, C, 2H, 2W].

    Of the nine weights several meet the same input pixel after doubling. `fold` adds those up once: four
    2x2 kernels, one for each parity of the output's row and column, cost 4/9 of the products.
    """

    phases: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.register_buffer("phases", None, persistent=False)

    def fold(self) -> None:
        """Replace the 3x3 weights by their sums: for inference, and for good."""
        w = self.conv.weight.detach().float()  # [out, in, 3, 3]
        rows = [torch.stack([w[:, :, 0], w[:, :, 1] + w[:, :, 2]], 2),
                torch.stack([w[:, :, 0] + w[:, :, 1], w[:, :, 2]], 2)]  # fmt: skip
        kernels = [
            torch.stack(pair, 3)
            for r in rows
            for pair in ([r[..., 0], r[..., 1] + r[..., 2]], [r[..., 0] + r[..., 1], r[..., 2]])
        ]
        self.phases = torch.cat(kernels).to(self.conv.weight.dtype)  # [4 * out, in, 2, 2]
        self.phases = self.phases.contiguous(memory_format=torch.channels_last)
        self.conv.weight = nn.Parameter(w.new_empty(0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.phases is None:
            doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            return doubled
        channels, height, width = x.shape[1:]
        out = empty(x, channels, 2 * height, 2 * width)
        bias = None if self.conv.bias is None else self.conv.bias.repeat(4)
        for top, bottom, strip in strips(x):
            strip = F.pad(strip, (1, 1, int(top == 0), int(bottom == height)))
            grid = F.conv2d(strip, self.phases, bias)  # rows top..bottom, one more than the strip has
            for phase in range(4):
                down, right = phase // 2, phase % 2
                piece = grid[:, phase * channels : (phase + 1) * channels]
                piece = piece[:, :, down : down + bottom - top, right : right + width]
                out[:, :, 2 * top + down : 2 * bottom : 2, right::2] = piece
        return out


def tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H * W, C], row by row; no copy where x is channels-last."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[1])


def picture(x: Tensor, height: int, width: int) -> Tensor:
    """[B, H * W, C] -> [B, C, H, W], channels-last."""
    return x.reshape(x.shape[0], height, width, x.shape[2]).permute(0, 3, 1, 2)


def fold(module: nn.Module) -> None:
    """Make a network ready for inference alone: no gradients, channels-last, folded upsampling."""
    module.eval().requires_grad_(False)
    for part in module.modules():
        if isinstance(part, Upsample):
            part.fold()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
