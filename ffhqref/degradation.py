"""One picture made worse: blur, downscale, noise, JPEG, upscale (the paper's degradation equation).

LQ = { JPEG_q [ (HQ * k_sigma) downscaled by r, plus noise n_delta ] } upscaled by r. Inside, pictures
are BGR, float64 in [0, 1], height x width x 3; outside they are uint8 RGB. The numbers are those of the
published procedure to the last bit of 8; `blur_downscale` only leaves out what nobody will look at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from ffhqref.images import Rgb
from ffhqref.recipe import Level, load_level
from ffhqref.store import seed_for

Real = npt.NDArray[np.float64]
Levels = npt.NDArray[np.uint8]  # BGR
Noise = npt.NDArray[np.float32]  # standard normal, the small picture's height x width x 3 (BGR)
Kernel = Literal["iso", "aniso"]

KERNEL_SIZE = 41  # px
PUBLISHED_SEED = 2024  # of the published low-quality images
LEAST_SIGMA = 1e-6  # px; the covariance matrix is singular at 0
RANK_TOLERANCE = 1e-9  # of the greatest singular value: far below what could turn one of 256 levels
TAP_TOLERANCE = 1e-11  # of a profile's greatest value: taps below it on every profile are cut off
DENSE_COST = 250  # products per pixel and channel that cost as much as the whole blur by `filter2D`


@dataclass(frozen=True, kw_only=True)
class Degradation:
    """The drawn parameters of one low-quality image."""

    kernel: Kernel
    sigma_x: float  # px in the target, along the first axis of the kernel
    sigma_y: float  # the same as sigma_x for iso
    theta: float  # radians from the columns' axis; 0 for iso
    scale: float  # r: how many times smaller
    noise: float  # delta: standard deviation, of 255
    quality: int  # q: of the JPEG, 1..100
    seed: int = 0  # of the noise, where `apply` draws it

    def __post_init__(self) -> None:
        finite = all(map(math.isfinite, (self.sigma_x, self.sigma_y, self.theta)))
        blurs = self.kernel in ("iso", "aniso") and finite and min(self.sigma_x, self.sigma_y) >= 0
        rest = 0.25 <= self.scale <= 1024 and 0 <= self.noise <= 255 and 1 <= self.quality <= 100
        if not (blurs and rest and self.seed >= 0):
            raise ValueError(f"no such degradation: {self}")


def sample(level: Level, seed: int, name: str, copy: int = 0) -> Degradation:
    """Draw the degradation of image `name`: the same for the same four, whatever else is drawn."""
    purpose = f"degradation {level.name} {copy}"
    stream = np.random.RandomState(np.random.PCG64(seed_for(seed, name, purpose)))
    drawn = _draw(level, stream, bool(stream.random_sample() < level.isotropic))
    noise_seed = seed_for(seed, name, f"{purpose} noise") >> 1  # 63 bits: a signed column holds it
    return replace(drawn, quality=int(stream.uniform(*level.quality)), seed=noise_seed)


def _draw(level: Level, stream: np.random.RandomState, iso: bool) -> Degradation:
    """All but quality and seed, in the published order."""
    sigma_x = stream.uniform(*level.sigma)
    sigma_y, theta = (sigma_x, 0.0) if iso else (stream.uniform(*level.sigma), stream.uniform(-np.pi, np.pi))
    scale, noise = stream.uniform(*level.scale), stream.uniform(*level.noise)
    kernel: Kernel = "iso" if iso else "aniso"
    return Degradation(
        kernel=kernel, sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, scale=scale, noise=noise, quality=100
    )


@dataclass(frozen=True)
class Sampler:
    """Degrades pictures on the fly: a callable that can be sent to a trainer's worker processes."""

    level: Level
    seed: int = 0

    def __call__(self, image: Rgb, name: str, copy: int = 0) -> Rgb:
        """The low-quality version of `image` (uint8 RGB), decided by (seed, name, copy) alone."""
        return apply(image, self.draw(name, copy))

    def draw(self, name: str, copy: int = 0) -> Degradation:
        """Its parameters, e.g. for `ffhqref.refldm.degrade`; `copy` can be the epoch or the step."""
        return sample(self.level, self.seed, name, copy)


def sampler(level: Level | str, seed: int = 0) -> Sampler:
    """A `Sampler` of a level, or of the one that `--level` would find by this text."""
    return Sampler(load_level(level) if isinstance(level, str) else level, seed)


@dataclass(frozen=True, eq=False)
class Replayed:
    """One step of the published order of draws, and the noise that belongs to it."""

    degradation: Degradation
    state: Mapping[str, Any]  # of the NumPy generator just before the noise
    shape: tuple[int, int, int]

    def noise(self) -> Noise:
        """The noise of this step (standard normal, float32)."""
        stream = np.random.RandomState()
        stream.set_state(dict(self.state))
        return stream.standard_normal(self.shape).astype(np.float32)


def replay(level: Level, height: int, width: int, seed: int = PUBLISHED_SEED) -> Iterator[Replayed]:
    """The published draws for targets of height x width, one after another without end.

    The kernel's kind comes from Python's generator, all else from NumPy's, in the order sigma_x,
    (sigma_y, theta), scale, noise, one number that is not used, the noise itself, quality.
    """
    kinds, stream = random.Random(seed), np.random.RandomState(seed)
    while True:
        iso = kinds.choices([True, False], [level.isotropic, 1 - level.isotropic])[0]
        drawn = _draw(level, stream, iso)
        stream.uniform()  # the published code asks here whether the noise is grey: never
        state = stream.get_state(legacy=False)
        small = small_size(height, width, drawn.scale)
        stream.standard_normal((*small, 3))
        quality = int(stream.uniform(*level.quality))
        yield Replayed(replace(drawn, quality=quality, seed=seed), state, (*small, 3))


def gaussian_kernel(sigma_x: float, sigma_y: float, theta: float = 0.0, size: int = KERNEL_SIZE) -> Real:
    """A size x size Gaussian of sum 1 whose first axis is turned by `theta` from the columns' axis."""
    steps = np.arange(size) - size // 2
    columns, rows = steps[None, :], steps[:, None]
    first = (columns * np.cos(theta) + rows * np.sin(theta)) / max(sigma_x, LEAST_SIGMA)
    second = (rows * np.cos(theta) - columns * np.sin(theta)) / max(sigma_y, LEAST_SIGMA)
    weights = np.exp(-0.5 * (first**2 + second**2))
    return np.asarray(weights / weights.sum())


def to_bgr(image: Rgb) -> Real:
    """uint8 RGB => float64 BGR in [0, 1]."""
    return np.ascontiguousarray(image[:, :, ::-1]) / 255.0


def blur(image: Real, kernel: Real) -> Real:
    """Correlate with the kernel; beyond its border the picture is mirrored (reflect 101)."""
    return np.asarray(cv2.filter2D(image, -1, kernel), np.float64)


def small_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width after downscaling, at least 1 x 1."""
    return max(int(height // scale), 1), max(int(width // scale), 1)


def downscale(image: Real, scale: float) -> Real:
    """Bilinear, half-pixel centres, no smoothing: each new pixel is drawn from four old ones."""
    height, width = small_size(image.shape[0], image.shape[1], scale)
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)


def draw_noise(seed: int, shape: tuple[int, ...]) -> Noise:
    """Standard normal noise of a degradation's seed, from a stream that NumPy keeps for good."""
    stream = np.random.RandomState(np.random.PCG64(seed))
    return stream.standard_normal(shape).astype(np.float32)


def add_noise(image: Real, noise: float, unit: Noise) -> Real:
    """Add standard normal `unit` times noise / 255 and clip to [0, 1]."""
    return np.clip(image + unit * noise / 255.0, 0, 1)


def jpeg(image: Real, quality: int) -> Levels:
    """Through a JPEG of this quality (4:2:0): BGR in [0, 1] => uint8 BGR."""
    return through_jpeg(np.rint(image * 255.0).astype(np.uint8), quality)


def through_jpeg(levels: Levels, quality: int) -> Levels:
    """Encode and decode uint8 BGR: the codec for `ffhqref.refldm.degrade`."""
    _, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def upscale(small: Levels, height: int, width: int) -> Rgb:
    """Bilinear: uint8 BGR => uint8 RGB of height x width, rounded half to even."""
    bgr = small.astype(np.float32) / np.float32(255)  # in this order: resize rounds by the channel's place
    large = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = cv2.convertScaleAbs(large, alpha=255.0)  # rounds half to even and clips in one pass
    return np.asarray(cv2.cvtColor(levels, cv2.COLOR_BGR2RGB), np.uint8)


def apply(image: Rgb, degradation: Degradation, noise: Noise | None = None) -> Rgb:
    """The low-quality version of a picture (uint8 RGB, height x width x 3), in its size.

    `noise` is standard normal, of the small picture's size (`small_size`), BGR; without it, it is drawn
    from the degradation's seed.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"need a uint8 picture of height x width x 3, not {image.dtype} {image.shape}")
    small = blur_downscale(image, degradation)
    unit = draw_noise(degradation.seed, small.shape) if noise is None else noise
    noisy = add_noise(small, degradation.noise, unit)
    return upscale(jpeg(noisy, degradation.quality), *image.shape[:2])


# ---- the blur, only where the downscale looks ----------------------------------------------------


def blur_downscale(image: Rgb, degradation: Degradation) -> Real:
    """`downscale(blur(to_bgr(image), kernel), scale)` without the pixels that nobody samples.

    A kernel is a sum of few separable ones (its singular vectors; one if it is isotropic). Each is
    joined with the bilinear weights into bands of two matrices, one per axis, that map the picture
    straight to the small one. Where that would cost more (scales near 1), the plain way is taken.
    """
    height, width = image.shape[:2]
    rows, columns = small_size(height, width, degradation.scale)
    vertical, horizontal = _profiles(degradation)
    # band and block width as in _bands; the second axis sees only the rows that are left
    cost = (vertical.size + 24 * len(vertical)) * rows * width
    cost += (horizontal.size + 48 * len(horizontal)) * rows * columns
    if cost > DENSE_COST * height * width:
        return downscale(blur(to_bgr(image), kernel_of(degradation)), degradation.scale)
    planes = np.empty((height, 3, width))
    for channel, plane in enumerate(cv2.split(image)):
        planes[:, 2 - channel] = plane
    small = _by_columns(_by_rows(planes, vertical, rows), horizontal, columns)
    return small / 255.0


def kernel_of(degradation: Degradation) -> Real:
    """The 41 x 41 blur kernel of a degradation."""
    return gaussian_kernel(degradation.sigma_x, degradation.sigma_y, degradation.theta)


def _profiles(degradation: Degradation) -> tuple[Real, Real]:
    """Vertical and horizontal profiles, rank x taps each, whose outer products sum to the kernel."""
    if degradation.kernel == "iso":
        steps = np.arange(KERNEL_SIZE) - KERNEL_SIZE // 2
        bell = np.exp(-0.5 * (steps / max(degradation.sigma_x, LEAST_SIGMA)) ** 2)[None]
        return _trim(bell / bell.sum()), _trim(bell / bell.sum())
    left, strength, right = np.linalg.svd(kernel_of(degradation))
    rank = int((strength > RANK_TOLERANCE * strength[0]).sum())
    return _trim((left[:, :rank] * strength[:rank]).T), _trim(right[:rank])


def _trim(profiles: Real) -> Real:
    """Cut off outer taps, the same number on both sides, that are nothing on every profile."""
    used = np.flatnonzero((np.abs(profiles) > TAP_TOLERANCE * np.abs(profiles).max()).any(axis=0))
    cut = min(used[0], profiles.shape[1] - 1 - used[-1])
    return profiles[:, cut : profiles.shape[1] - cut]


Band = tuple[slice, slice, Real]  # new pixels, old pixels, weights new x rank x old


def _bands(profiles: Real, old: int, new: int, span: int) -> Iterator[Band]:
    """Blur by each profile and sample `new` of `old` pixels of a line, as blocks of a banded matrix.

    `span`: about how many old pixels the new ones of a block are apart; wider blocks make better use of
    matrix products and hold more zeros.
    """
    rank, taps = profiles.shape
    position = (np.arange(new) + 0.5) * (1 / (new / old)) - 0.5  # half-pixel centres, as in OpenCV
    base = np.floor(position).astype(int)
    fraction = np.where((base < 0) | (base >= old - 1), 0, position - base)[:, None, None]
    base = np.clip(base, 0, old - 1)
    weights = np.zeros((new, rank, taps + 1))
    weights[:, :, :-1] = (1 - fraction) * profiles
    weights[:, :, 1:] += fraction * profiles
    places = base[:, None] + np.arange(-(taps // 2), taps // 2 + 2)
    mirrored = _mirror(places, old)
    inside = (places[:, 0] >= 0) & (places[:, -1] < old)
    block = max(int(span * new / old), 1)
    for start in range(0, new, block):
        stop = min(start + block, new)
        if block == 1 and inside[start]:  # the weights are the block as they are
            yield (
                slice(start, stop),
                slice(int(places[start, 0]), int(places[start, -1]) + 1),
                weights[start:stop],
            )
            continue
        low, high = int(mirrored[start:stop].min()), int(mirrored[start:stop].max()) + 1
        matrix = np.zeros((stop - start, rank, high - low))
        for pixel in range(start, stop):
            if inside[pixel]:
                first = places[pixel, 0]
                matrix[pixel - start, :, first - low : first - low + taps + 1] = weights[pixel]
            else:  # several taps may meet on one pixel
                np.add.at(matrix[pixel - start].T, mirrored[pixel] - low, weights[pixel].T)
        yield slice(start, stop), slice(low, high), matrix


def _mirror(places: npt.NDArray[np.int_], length: int) -> npt.NDArray[np.int_]:
    """Reflect 101: places beyond a line of `length` pixels come back from its ends."""
    if length == 1:
        return np.zeros_like(places)
    return np.abs((places + length - 1) % (2 * (length - 1)) - (length - 1))


def _by_rows(planes: Real, profiles: Real, rows: int) -> Real:
    """height x 3 x width => rows x 3 x width x rank: so the rank and the width make one matrix product."""
    height, _, width = planes.shape
    flat = planes.reshape(height, 3 * width)
    out = np.empty((rows, 3, width, len(profiles)))
    for new, old, weights in _bands(profiles, height, rows, span=1):
        for row, matrix in zip(range(new.start, new.stop), weights, strict=True):
            np.matmul(flat[old].T, matrix.T, out=out[row].reshape(3 * width, -1))
    return out


def _by_columns(lines: Real, profiles: Real, columns: int) -> Real:
    """rows x 3 x width x rank => rows x columns x 3, summed over the rank."""
    rows, _, width, rank = lines.shape
    flat = lines.reshape(rows * 3, width * rank)
    out = np.empty((rows, 3, columns))
    for new, old, weights in _bands(profiles, width, columns, span=32):
        matrix = weights.transpose(2, 1, 0).reshape(-1, len(weights))  # old x rank, new
        part = flat[:, old.start * rank : old.stop * rank]
        out[:, :, new] = (part @ matrix).reshape(rows, 3, -1)
    return out.transpose(0, 2, 1)
