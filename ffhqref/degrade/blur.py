"""Blur a picture and make it smaller at once: only what the smaller one looks at is computed.

Each new pixel is drawn from four blurred ones (bilinear, half-pixel centres), and most blurred pixels are
looked at by nobody when the picture becomes much smaller. Pictures are uint8 RGB, height x width x 3;
results are BGR in levels, 0..255. Beyond its border a picture is mirrored (reflect 101).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import linalg

Levels = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]
Floats = npt.NDArray[Any]  # float32 or float64
Places = npt.NDArray[np.intp]
Size = tuple[int, int]  # height, width
LookedAt = tuple[Places, Real]  # for each new pixel the old one before it, and how far on it lies (0..1)

MIDDLE = 128  # levels are counted from here: the smaller the numbers, the smaller the errors
RANK_TOLERANCE = {"float64": 1e-9, "float32": 1e-6}  # of a kernel's norm: what its separable parts may miss
TAP_TOLERANCE = 1e-2  # of that again, of a profile's greatest value: outer taps below it are cut off
SPAN = 24  # px: so far apart are the rows of a block; wider: better matrix products that hold more zeros
COLUMNS = 8  # of a block
LINES = 160  # of a channel, one per row and rank, held at once: they stay in the processor's cache
SPECTRUM_COST = 190  # products per pixel and channel that cost as much as the way through the spectrum


class Blur:
    """A picture correlated with a kernel (square, of an odd size, of sum 1), then resized to `size`."""

    def __init__(self, image: Levels, kernel: Real, size: Size) -> None:
        self.kernel, self.size = kernel, size
        self.old = image.shape[0], image.shape[1]
        before, after = len(kernel) // 2, len(kernel) // 2 + 1
        reflected = cv2.copyMakeBorder(image, before, after, before, after, cv2.BORDER_REFLECT_101)
        mirrored = np.asarray(reflected, np.uint8)
        mirrored ^= MIDDLE
        self.mirrored = mirrored.view(np.int8)  # RGB, -128..127
        self.looked_at = [_looked_at(*lengths) for lengths in zip(self.old, size, strict=True)]

    def whole(self, dtype: npt.DTypeLike) -> Floats:
        """rows x columns x 3.

        A kernel is a sum of few separable ones (one if it is isotropic). Each is joined with the bilinear
        weights into bands of two matrices, one per axis, that map the picture straight to the small one.
        Where that would cost more (scales near 1), picture and kernel are multiplied in the spectrum.
        """
        dtype = np.dtype(dtype)
        vertical, horizontal = _profiles(self.kernel, RANK_TOLERANCE[dtype.name])
        (height, width), (rows, columns) = self.old, self.size
        cost = (vertical.size + SPAN * len(vertical)) * rows * width
        cost += horizontal.size * rows * columns + COLUMNS * len(horizontal) * rows * width
        if cost > SPECTRUM_COST * height * width:
            small = self._by_spectrum(dtype)
        else:
            small = self._by_profiles(vertical.astype(dtype), horizontal.astype(dtype))
        small += MIDDLE
        return small

    def at(self, rows: Places, columns: Places, channels: Places) -> Real:
        """Some of its values, straight from the definition."""
        taps = len(self.kernel)
        (row, down), (column, right) = self.looked_at
        windows = np.lib.stride_tricks.sliding_window_view(self.mirrored, (taps + 1, taps + 1), axis=(0, 1))
        seen = windows[row[rows], column[columns], 2 - channels].reshape(len(rows), -1)
        corners = np.zeros((2, 2, taps + 1, taps + 1))  # the kernel at each of the four blurred pixels
        for y, x in np.ndindex(2, 2):
            corners[y, x, y : y + taps, x : x + taps] = self.kernel
        four = (seen.astype(np.float64) @ corners.reshape(4, -1).T).reshape(-1, 2, 2)
        two = four[:, :, 0] + right[columns, None] * (four[:, :, 1] - four[:, :, 0])
        return np.asarray(two[:, 0] + down[rows] * (two[:, 1] - two[:, 0]) + MIDDLE)

    def _by_profiles(self, vertical: Floats, horizontal: Floats) -> Floats:
        (height, width), (rows, columns), taps = self.old, self.size, len(self.kernel)
        block = max(round(SPAN * rows / height), 1)
        down = _bands(vertical, taps, height + taps, self.looked_at[0], block)
        across = _bands(horizontal, taps, width + taps, self.looked_at[1], COLUMNS)
        planes = np.empty((3, height + taps, width + taps), vertical.dtype)
        for channel, plane in enumerate(cv2.split(self.mirrored)):
            planes[2 - channel] = plane
        small = np.empty((3, rows, columns), vertical.dtype)
        step = max(LINES // down[0].weights[:, :, 0].size, 1)
        for first in range(0, len(down), step):
            group = down[first : first + step]
            small[:, group[0].new.start : group[-1].new.stop] = _by_columns(_by_rows(planes, group), across)
        return small.transpose(1, 2, 0)

    def _by_spectrum(self, dtype: np.dtype[Any]) -> Floats:
        (height, width), (rows, columns), taps = self.old, self.size, len(self.kernel)
        shape = cv2.getOptimalDFTSize(height + taps), cv2.getOptimalDFTSize(width + taps)
        transfer, plane = np.zeros(shape, dtype), np.empty(shape, dtype)
        transfer[:taps, :taps] = self.kernel / plane.size
        cv2.dft(transfer, transfer, nonzeroRows=taps)
        small = np.empty((rows, columns, 3), dtype)
        for channel, levels in enumerate(cv2.split(self.mirrored)):
            plane.fill(0)
            plane[: height + taps, : width + taps] = levels
            cv2.dft(plane, plane)
            cv2.mulSpectrums(plane, transfer, 0, plane, conjB=True)  # a correlation
            cv2.dft(plane, plane, cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
            small[:, :, 2 - channel] = cv2.resize(plane[:height, :width], (columns, rows))
        return small


class Band(NamedTuple):
    """A block of a banded matrix that maps the pixels of a mirrored line to few new ones."""

    new: slice
    old: slice
    weights: Floats  # new x rank x old


def _looked_at(old: int, new: int) -> LookedAt:
    """Where each of `new` pixels lies on a line of `old`."""
    position = (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5  # half-pixel centres, as in OpenCV
    before = np.floor(position).astype(np.intp)
    fraction = np.where((before < 0) | (before >= old - 1), 0, position - before)
    return np.clip(before, 0, old - 1), fraction


def _profiles(kernel: Real, tolerance: float) -> tuple[Real, Real]:
    """Vertical and horizontal profiles, rank x taps each, whose outer products sum to the kernel."""
    down, across = kernel.sum(axis=1), kernel.sum(axis=0)
    if np.abs(kernel - np.outer(down, across)).max() < 1e-15:
        vertical, horizontal = down[None], across[None]
    else:
        factors, order, scales, *_ = linalg.lapack.dgeqp3(kernel)  # QR with pivoting
        right = np.triu(factors)
        missed = np.cumsum((right**2).sum(axis=1)[::-1])[::-1]  # squared norm of this row and the next ones
        rank = int((missed > tolerance**2 * missed[0]).sum())
        vertical = linalg.lapack.dorgqr(factors[:, :rank], scales[:rank])[0].T
        horizontal = right[:rank, np.argsort(order)]
    return _trim(vertical, TAP_TOLERANCE * tolerance), _trim(horizontal, TAP_TOLERANCE * tolerance)


def _trim(profiles: Real, tolerance: float) -> Real:
    """Cut off outer taps, the same number on both sides, that are nothing on every profile."""
    used = np.flatnonzero((np.abs(profiles) > tolerance * np.abs(profiles).max()).any(axis=0))
    cut = min(used[0], profiles.shape[1] - 1 - used[-1])
    return profiles[:, cut : profiles.shape[1] - cut]


def _bands(profiles: Floats, size: int, length: int, looked_at: LookedAt, block: int) -> list[Band]:
    """Blur by each profile and sample a mirrored line of `length` pixels, `block` new ones at a time.

    It is mirrored for a kernel of `size` taps, of which the profiles have kept those in the middle.
    """
    (rank, taps), (before, fraction) = profiles.shape, looked_at
    new, first = len(before), before + (size - taps) // 2
    moved = fraction[:, None, None].astype(profiles.dtype) * profiles
    weights = np.zeros((new, rank, taps + 1), profiles.dtype)
    weights[:, :, :-1] = profiles - moved
    weights[:, :, 1:] += moved
    starts = np.arange(0, new, block)
    width = int((first[np.minimum(starts + block, new) - 1] - first[starts]).max()) + taps + 1
    lows = np.minimum(first[starts], length - width)
    matrix = np.zeros((new, rank, width), profiles.dtype)
    for row, place, weight in zip(
        matrix, (first - np.repeat(lows, block)[:new]).tolist(), weights, strict=True
    ):
        row[:, place : place + taps + 1] = weight
    return [
        Band(slice(start, min(start + block, new)), slice(low, low + width), matrix[start : start + block])
        for start, low in zip(starts.tolist(), lows.tolist(), strict=True)
    ]


def _by_rows(planes: Floats, bands: list[Band]) -> Floats:
    """3 x height x width => 3 x rows x rank x width, for the rows of these bands."""
    channels, _, width = planes.shape
    start, rank = bands[0].new.start, bands[0].weights.shape[1]
    lines = np.empty((channels, bands[-1].new.stop - start, rank, width), planes.dtype)
    for new, old, weights in bands:
        out = lines[:, new.start - start : new.stop - start].reshape(channels, -1, width)
        np.matmul(weights.reshape(-1, weights.shape[2]), planes[:, old], out=out)
    return lines


def _by_columns(lines: Floats, bands: list[Band]) -> Floats:
    """3 x rows x rank x width => 3 x rows x columns, summed over the rank."""
    channels, rows, rank, width = lines.shape
    each = lines.reshape(-1, rank, width).transpose(1, 0, 2)
    small = np.empty((channels * rows, bands[-1].new.stop), lines.dtype)
    for new, old, weights in bands:
        (each[:, :, old] @ weights.transpose(1, 2, 0)).sum(axis=0, out=small[:, new])
    return small.reshape(channels, rows, -1)
