"""The degradation of a training batch on its device: blur, downscale, noise, JPEG, upscale.

The parameters and the JPEG codec come from outside (`ffhqref.degrade.operators` has both); the steps are the
published ones. All but the JPEG run on the device for the whole batch at once, though every picture has
a small size of its own: the resizes are products with matrices that are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

KERNEL_SIZE = 41  # px
LEAST_SIGMA = 1e-6  # px
U8 = npt.NDArray[np.uint8]
Jpeg = Callable[[U8, int], U8]  # uint8 BGR height x width x 3 and a quality => the same, encoded and decoded


class Drawn(Protocol):
    """The parameters of one picture's degradation: what `ffhqref.degrade.operators.Degradation` has."""

    @property
    def sigma_x(self) -> float: ...
    @property
    def sigma_y(self) -> float: ...
    @property
    def theta(self) -> float: ...
    @property
    def scale(self) -> float: ...
    @property
    def noise(self) -> float: ...
    @property
    def quality(self) -> int: ...


@torch.no_grad()
def degrade(
    images: Tensor,
    drawn: Sequence[Drawn],
    *,
    jpeg: Jpeg | None,
    noise: Sequence[npt.NDArray[np.float32]] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Degrade a batch x 3 x height x width, RGB in [0, 1]; the result is in steps of 1/255.

    `noise` holds standard normal arrays of each picture's small height x width x 3 in BGR, as the CPU
    version takes them; without it the noise is drawn on the device, by `generator` where given. `jpeg`
    None leaves the codec out, and keeps the rounding to 8 bits before it.
    """
    if images.ndim != 4 or images.shape[1] != 3 or len(images) != len(drawn):
        raise ValueError(f"need batch x 3 x height x width and as many draws, not {tuple(images.shape)}")
    height, width = images.shape[2:]
    heights = [max(int(height // one.scale), 1) for one in drawn]
    widths = [max(int(width // one.scale), 1) for one in drawn]
    with torch.autocast(images.device.type, enabled=False):
        bgr = blur(images.float().flip(1), gaussian_kernels(drawn, images.device))
        small = _resize(bgr, [height] * len(drawn), heights, [width] * len(drawn), widths)
        unit = _padded(noise, small) if noise else torch.randn(
            small.shape, generator=generator, device=small.device
        )  # fmt: skip
        strength = torch.tensor([one.noise / 255 for one in drawn], device=small.device)
        levels = (small + unit * strength[:, None, None, None]).clip(0, 1).mul(255).round()
        if jpeg is not None:
            levels = _through(jpeg, levels, heights, widths, [one.quality for one in drawn])
        large = _resize(levels / 255, heights, [height] * len(drawn), widths, [width] * len(drawn))
        return large.mul(255).round().clip(0, 255).div(255).flip(1)


def gaussian_kernels(drawn: Sequence[Drawn], device: torch.device, size: int = KERNEL_SIZE) -> Tensor:
    """batch x size x size, each of sum 1, float32."""
    numbers = [[max(one.sigma_x, LEAST_SIGMA), max(one.sigma_y, LEAST_SIGMA), one.theta] for one in drawn]
    sigma_x, sigma_y, theta = torch.tensor(numbers, dtype=torch.float64, device=device).T[:, :, None, None]
    steps = torch.arange(size, dtype=torch.float64, device=device) - size // 2
    columns, rows = steps[None, None, :], steps[None, :, None]
    first = (columns * theta.cos() + rows * theta.sin()) / sigma_x
    second = (rows * theta.cos() - columns * theta.sin()) / sigma_y
    weights = torch.exp(-0.5 * (first**2 + second**2))
    return (weights / weights.sum((1, 2), keepdim=True)).float()


def blur(images: Tensor, kernels: Tensor) -> Tensor:
    """Each picture of batch x 3 x height x width by its own kernel; mirrored at the border (reflect 101)."""
    height, width = images.shape[2:]
    reach = kernels.shape[1] // 2
    rows, columns = _mirror(height, reach, images.device), _mirror(width, reach, images.device)
    wide = images[:, :, rows][:, :, :, columns]
    shape = (_smooth(wide.shape[2]), _smooth(wide.shape[3]))  # the wrap-around stays in what is cut off
    product = torch.fft.rfft2(wide, s=shape) * torch.fft.rfft2(kernels, s=shape)[:, None]
    blurred: Tensor = torch.fft.irfft2(product, s=shape)
    return blurred[:, :, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]


def _mirror(length: int, reach: int, device: torch.device) -> Tensor:
    places = torch.arange(-reach, length + reach, device=device)
    period = max(2 * (length - 1), 1)
    folded = ((places + length - 1) % period - (length - 1)).abs()
    return folded if length > 1 else torch.zeros_like(places)


def _smooth(length: int) -> int:
    """The next length of only the factors 2, 3 and 5, for which the FFT is fast."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1


def _resize(
    images: Tensor, heights: Sequence[int], to_heights: Sequence[int], widths: Sequence[int],
    to_widths: Sequence[int],
) -> Tensor:  # fmt: skip
    """Bilinear with half-pixel centres; picture b is heights[b] x widths[b] in a larger frame of zeros."""
    rows = _weights(heights, to_heights, images.shape[2], images.device)
    columns = _weights(widths, to_widths, images.shape[3], images.device)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _weights(old: Sequence[int], new: Sequence[int], frame: int, device: torch.device) -> Tensor:
    """batch x max(new) x frame: row i holds the weights of new pixel i, zeros beyond new[b]."""
    before = torch.tensor(old, dtype=torch.float64, device=device)[:, None]
    after = torch.tensor(new, dtype=torch.float64, device=device)[:, None]
    target = torch.arange(max(new), dtype=torch.float64, device=device)[None]
    position = ((target + 0.5) * (before / after) - 0.5).clip(min=0).minimum(before - 1)
    source = torch.arange(frame, dtype=torch.float64, device=device)
    weights = (1 - (position[:, :, None] - source).abs()).clip(min=0)
    return (weights * (target < after)[:, :, None]).float()


def _padded(noise: Sequence[npt.NDArray[np.float32]], small: Tensor) -> Tensor:
    """Arrays of each height x width x 3 in one frame like `small`."""
    frame = torch.zeros(small.shape)
    for number, one in enumerate(noise):
        frame[number, :, : one.shape[0], : one.shape[1]] = torch.from_numpy(one).permute(2, 0, 1)
    return frame.to(small.device)


def _through(
    jpeg: Jpeg, levels: Tensor, heights: Sequence[int], widths: Sequence[int], qualities: Sequence[int]
) -> Tensor:
    """Levels 0..255 (BGR) through the codec, which runs on the CPU, a thread a picture."""
    frame = levels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()  # NCHW => NHWC
    out = np.zeros_like(frame)

    def one(number: int) -> None:
        part = np.s_[number, : heights[number], : widths[number]]
        out[part] = jpeg(np.ascontiguousarray(frame[part]), qualities[number])

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, range(len(frame))))
    return torch.from_numpy(out).to(levels.device).permute(0, 3, 1, 2).to(levels.dtype)
