"""One picture made worse: blur, downscale, noise, JPEG, upscale (the paper's degradation equation).

LQ = { JPEG_q [ (HQ * k_sigma) downscaled by r, plus noise n_delta ] } upscaled by r. Inside, pictures
are BGR, float64 in [0, 1], height x width x 3; outside they are uint8 RGB. The numbers are those of the
published procedure to the last bit of 8: `small_levels` leaves out what is never sampled, and computes in
float32 what float32 can decide.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np

from ffhqref.core.arrays import Float32, Float64, UInt8
from ffhqref.core.images import Rgb
from ffhqref.core.store import seed_for
from ffhqref.degrade.blur import Blur, Floating
from ffhqref.degrade.levels import Level, load_level

Noise = Float32  # standard normal, the small picture's height x width x 3 (BGR)
Kernel = Literal["iso", "aniso"]

KERNEL_SIZE = 41  # px
PUBLISHED_SEED = 2024  # of the published low-quality images
LEAST_SIGMA = 1e-6  # px; the covariance matrix is singular at 0
DOUBT = 5e-4  # levels: so near to the middle of two, float32 does not decide; it errs by less than a third
MOST_DOUBTS = 2000  # that are decided one by one; where there are more, all are computed in float64


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


def draw_degradation(level: Level, seed: int, name: str, copy: int = 0) -> Degradation:
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
        """The low-quality version of `image` (uint8 RGB), decided by (seed, name, copy) alone.

        `copy` can be the epoch or the step.
        """
        return apply(image, draw_degradation(self.level, self.seed, name, copy))


def sampler(level: Level | str, seed: int = 0) -> Sampler:
    """A `Sampler` of a level, or of the one that `--level` would find by this text."""
    return Sampler(load_level(level) if isinstance(level, str) else level, seed)


@dataclass(frozen=True, eq=False)
class Replayed:
    """One step of the published order of draws, and the noise that belongs to it."""

    degradation: Degradation
    state: Mapping[str, object]  # of the NumPy generator just before the noise
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


def gaussian_kernel(sigma_x: float, sigma_y: float, theta: float = 0.0, size: int = KERNEL_SIZE) -> Float64:
    """A size x size Gaussian of sum 1 whose first axis is turned by `theta` from the columns' axis."""
    steps = np.arange(size) - size // 2
    columns, rows = steps[None, :], steps[:, None]
    first = (columns * np.cos(theta) + rows * np.sin(theta)) / max(sigma_x, LEAST_SIGMA)
    second = (rows * np.cos(theta) - columns * np.sin(theta)) / max(sigma_y, LEAST_SIGMA)
    weights = np.exp(-0.5 * (first**2 + second**2))
    return np.asarray(weights / weights.sum())


def small_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width after downscaling, at least 1 x 1."""
    return max(int(height // scale), 1), max(int(width // scale), 1)


def draw_noise(seed: int, shape: tuple[int, ...]) -> Noise:
    """Standard normal noise of a degradation's seed, from a stream that NumPy keeps for good."""
    stream = np.random.RandomState(np.random.PCG64(seed))
    return stream.standard_normal(shape).astype(np.float32)


def add_noise(image: Floating, noise: float, unit: Noise) -> Floating:
    """Add standard normal `unit` times noise / 255 and clip to [0, 1]."""
    return np.asarray(np.clip(image + unit * noise / 255.0, 0, 1))


def round_levels(image: Floating) -> UInt8:
    """[0, 1] => 0..255, half to even."""
    return np.asarray(np.rint(image * 255.0), np.uint8)


def through_jpeg(levels: UInt8, quality: int) -> UInt8:
    """Encode and decode uint8 BGR as a JPEG of this quality (4:2:0)."""
    _, data = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def upscale(small: UInt8, height: int, width: int) -> Rgb:
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
    unit = draw_noise(degradation.seed, (*_small(image, degradation), 3)) if noise is None else noise
    levels = small_levels(image, degradation, unit)
    return upscale(through_jpeg(levels, degradation.quality), *image.shape[:2])


def small_levels(image: Rgb, degradation: Degradation, unit: Noise) -> UInt8:
    """Blur, downscale, add the noise and round: the uint8 BGR that the JPEG gets.

    In float32, whose error before rounding stays below a third of `DOUBT`. So float32 and float64 can round
    to different levels only where the value lies within `DOUBT` of the middle of two: those values are
    computed again in float64, each from the definition, and the result is that of float64 throughout.
    """
    blur = Blur(image, kernel_of(degradation), _small(image, degradation))
    noisy = add_noise(blur.whole(np.float32) / 255.0, degradation.noise, unit) * 255.0
    levels = np.rint(noisy)
    doubts = np.nonzero(np.abs(noisy - levels) > 0.5 - DOUBT)
    if len(doubts[0]) > MOST_DOUBTS:
        return round_levels(add_noise(blur.whole(np.float64) / 255.0, degradation.noise, unit))
    if len(doubts[0]):
        levels[doubts] = round_levels(add_noise(blur.at(*doubts) / 255.0, degradation.noise, unit[doubts]))
    return np.asarray(levels, np.uint8)


def kernel_of(degradation: Degradation) -> Float64:
    """The 41 x 41 blur kernel of a degradation."""
    return gaussian_kernel(degradation.sigma_x, degradation.sigma_y, degradation.theta)


def _small(image: Rgb, degradation: Degradation) -> tuple[int, int]:
    return small_size(image.shape[0], image.shape[1], degradation.scale)
