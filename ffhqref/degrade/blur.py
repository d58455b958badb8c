"""Blur a picture and make it smaller at once: only what the smaller picture samples is computed.

The published procedure correlates the picture X with a kernel K and samples the result bilinearly, each
new pixel from four blurred ones. When the picture becomes much smaller, most blurred pixels are sampled by
no new one. Two ways leave them out, or make them cheap; both give the plain result but for rounding:

Profiles. K is a sum of few separable kernels, K = sum_r v_r h_r^T (one where it is isotropic; Treitel and
Shanks, "The design of multistage separable planar filters", 1971). Correlating and sampling are linear and
act on each axis by itself, so the small picture is sum_r V_r X H_r^T: row i of V_r holds v_r twice, shifted
by one pixel and weighted with the two bilinear weights of new row i, and is zero elsewhere; H_r likewise for
columns. These matrices are banded and are multiplied block by block.

Spectrum. By the correlation theorem, DFT(X correlated with K) = DFT(X) conj(DFT(K)). That repeats the
picture periodically, but the mirrored border is as wide as the kernel reaches, so nothing that is kept
comes from a repetition. It costs the same at every scale, and less than profiles at scales near 1.

Levels are counted from their middle, 128, which is added at the end: kernel and bilinear weights each have
the sum 1, so a constant passes through unchanged, and smaller numbers have smaller rounding errors.

Pictures are uint8 RGB, height x width x 3; results are BGR in levels, 0..255. Beyond its border a picture is
mirrored (OpenCV's reflect 101: without repeating the outermost pixel).
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from scipy import linalg

from ffhqref.core.arrays import Float64, UInt8

Floating = npt.NDArray[np.floating]  # float32 or float64, as the caller asks
Indices = npt.NDArray[np.intp]
Size = tuple[int, int]  # height, width
Positions = tuple[Indices, Float64]  # of each new pixel: the old one before it, and how far on it lies (0..1)

MIDDLE = 128
RANK_TOLERANCE = {"float64": 1e-9, "float32": 1e-6}  # of a kernel's norm: what its profiles may miss
TAP_TOLERANCE = 1e-2  # of that again, of a profile's greatest value: outer taps below it are cut off
BLOCK_SPAN = 24  # px that a block of rows spans: wider blocks multiply faster but hold more zeros
BLOCK_COLUMNS = 8  # new columns of a block
LINES = 160  # of a channel, one per row and rank, held at once: they stay in the processor's cache
SPECTRUM_COST = 190  # products per pixel and channel that take as long as the way through the spectrum


class Blur:
    """A picture correlated with a kernel (square, of an odd size, of sum 1), then resized to `size`."""

    def __init__(self, image: UInt8, kernel: Float64, size: Size) -> None:
        self.kernel, self.size = kernel, size
        self.old = image.shape[0], image.shape[1]
        before, after = len(kernel) // 2, len(kernel) // 2 + 1
        reflected = cv2.copyMakeBorder(image, before, after, before, after, cv2.BORDER_REFLECT_101)
        mirrored = np.asarray(reflected, np.uint8)
        mirrored ^= MIDDLE
        self.mirrored = mirrored.view(np.int8)  # RGB, -128..127: x ^ 128 as a signed byte is x - 128
        self.positions = [_positions(*lengths) for lengths in zip(self.old, size, strict=True)]

    def whole(self, dtype: npt.DTypeLike) -> Floating:
        """The small picture, rows x columns x 3, float32 or float64, by the cheaper of the two ways."""
        dtype = np.dtype(dtype)
        vertical, horizontal = _profiles(self.kernel, RANK_TOLERANCE[dtype.name])
        (height, width), (rows, columns) = self.old, self.size
        cost = (vertical.size + BLOCK_SPAN * len(vertical)) * rows * width
        cost += horizontal.size * rows * columns + BLOCK_COLUMNS * len(horizontal) * rows * width
        if cost > SPECTRUM_COST * height * width:
            small = self._by_spectrum(dtype)
        else:
            small = self._by_profiles(vertical.astype(dtype), horizontal.astype(dtype))
        small += MIDDLE
        return small

    def at(self, rows: Indices, columns: Indices, channels: Indices) -> Float64:
        """Some of its values in float64, straight from the definition: four blurred pixels each."""
        taps = len(self.kernel)
        (row, down), (column, right) = self.positions
        windows = np.lib.stride_tricks.sliding_window_view(self.mirrored, (taps + 1, taps + 1), axis=(0, 1))
        patches = windows[row[rows], column[columns], 2 - channels].reshape(len(rows), -1)
        corners = np.zeros((2, 2, taps + 1, taps + 1))  # the kernel at each of the four blurred pixels
        for y, x in np.ndindex(2, 2):
            corners[y, x, y : y + taps, x : x + taps] = self.kernel
        four = (patches.astype(np.float64) @ corners.reshape(4, -1).T).reshape(-1, 2, 2)
        two = four[:, :, 0] + right[columns, None] * (four[:, :, 1] - four[:, :, 0])
        return np.asarray(two[:, 0] + down[rows] * (two[:, 1] - two[:, 0]) + MIDDLE)

    def _by_profiles(self, vertical: Floating, horizontal: Floating) -> Floating:
        (height, width), (rows, columns), taps = self.old, self.size, len(self.kernel)
        block = max(round(BLOCK_SPAN * rows / height), 1)
        down = _bands(vertical, taps, height + taps, self.positions[0], block)
        across = _bands(horizontal, taps, width + taps, self.positions[1], BLOCK_COLUMNS)
        planes = np.empty((3, height + taps, width + taps), vertical.dtype)
        for channel, plane in enumerate(cv2.split(self.mirrored)):
            planes[2 - channel] = plane
        small = np.empty((3, rows, columns), vertical.dtype)
        step = max(LINES // down[0].weights[:, :, 0].size, 1)
        for first in range(0, len(down), step):
            group = down[first : first + step]
            small[:, group[0].new.start : group[-1].new.stop] = _by_columns(_by_rows(planes, group), across)
        return small.transpose(1, 2, 0)

    def _by_spectrum(self, dtype: npt.DTypeLike) -> Floating:
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
    weights: Floating  # new x rank x old


def _positions(old: int, new: int) -> Positions:
    """Where the centre of each of `new` pixels lies on a line of `old` ones (at a border: on its pixel)."""
    position = (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5  # half-pixel centres, as in OpenCV
    before = np.floor(position).astype(np.intp)
    fraction = np.where((before < 0) | (before >= old - 1), 0, position - before)
    return np.clip(before, 0, old - 1), fraction


def _profiles(kernel: Float64, tolerance: float) -> tuple[Float64, Float64]:
    """Vertical and horizontal profiles, rank x taps each, whose outer products sum to the kernel.

    QR with column pivoting (LAPACK's geqp3), K P = Q R, gives K as the sum of the columns of Q times the
    rows of R P^T, the weightiest first. Q and P keep the norm, so leaving out the last rows of R misses a
    kernel of exactly their norm: as many are left out as stay within `tolerance` of the norm of K.
    """
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
    return _trim_taps(vertical, TAP_TOLERANCE * tolerance), _trim_taps(horizontal, TAP_TOLERANCE * tolerance)


def _trim_taps(profiles: Float64, tolerance: float) -> Float64:
    """Cut off outer taps, the same number on both sides, that are next to nothing in every profile."""
    used = np.flatnonzero((np.abs(profiles) > tolerance * np.abs(profiles).max()).any(axis=0))
    cut = min(used[0], profiles.shape[1] - 1 - used[-1])
    return profiles[:, cut : profiles.shape[1] - cut]


def _bands(profiles: Floating, size: int, length: int, positions: Positions, block: int) -> list[Band]:
    """Blur by each profile and sample a mirrored line of `length` pixels, `block` new ones at a time.

    It is mirrored for a kernel of `size` taps, of which the profiles have kept those in the middle. A new
    pixel at p + f (0 <= f < 1) is (1 - f) B[p] + f B[p + 1] of the blurred line B: taps + 1 weights,
    (1 - f) v at p and f v one pixel further.
    """
    (rank, taps), (before, fraction) = profiles.shape, positions
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


def _by_rows(planes: Floating, bands: list[Band]) -> Floating:
    """3 x height x width => 3 x rows x rank x width, for the rows of these bands."""
    channels, _, width = planes.shape
    start, rank = bands[0].new.start, bands[0].weights.shape[1]
    lines = np.empty((channels, bands[-1].new.stop - start, rank, width), planes.dtype)
    for new, old, weights in bands:
        out = lines[:, new.start - start : new.stop - start].reshape(channels, -1, width)
        np.matmul(weights.reshape(-1, weights.shape[2]), planes[:, old], out=out)
    return lines


def _by_columns(lines: Floating, bands: list[Band]) -> Floating:
    """3 x rows x rank x width => 3 x rows x columns, summed over the rank."""
    channels, rows, rank, width = lines.shape
    each = lines.reshape(-1, rank, width).transpose(1, 0, 2)
    small = np.empty((channels * rows, bands[-1].new.stop), lines.dtype)
    for new, old, weights in bands:
        (each[:, :, old] @ weights.transpose(1, 2, 0)).sum(axis=0, out=small[:, new])
    return small.reshape(channels, rows, -1)
