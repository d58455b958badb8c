"""Low-quality pictures + references -> restored pictures. Pictures are uint8, RGB, height x width x 3."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError
from ffhqref.refldm.model import schedule, solvers
from ffhqref.refldm.model.checkpoint import Networks, keep_memory
from ffhqref.refldm.model.tensor_files import text_line
from ffhqref.refldm.model.unet import ReferenceCache, UNet

Encoding = Literal["wide", "separate"]
Watch = Callable[[Tensor, Tensor], object]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How to sample; the defaults are those of the published single-picture script."""

    steps: int = 50
    schedule: schedule.Schedule = "uniform_trailing"
    solver: solvers.Solver = "ddim"
    guidance: float = 1.5  # towards the references; 1 leaves the null condition out
    guidance_from: int = 0  # guided are the timesteps from this one
    guidance_to: int = 999  # to this one
    encoding: Encoding = "wide"

    def guides(self, t: int) -> bool:
        """Whether a timestep is guided."""
        return self.guidance != 1.0 and self.guidance_from <= t <= self.guidance_to


def check_options(options: SamplingOptions, device: str) -> None:
    """UserError where the options cannot work, before anything is loaded."""
    try:
        schedule.timesteps(options.schedule, options.steps)
    except ValueError as error:
        raise UserError(f"--steps {options.steps}: {error}.") from None
    if options.guidance_from > options.guidance_to:
        raise UserError(
            f"--guidance-from {options.guidance_from} is above --guidance-to {options.guidance_to}: give the "
            "lower timestep first, or --guidance 1 for none."
        )
    check_device(device)


def check_device(device: str) -> None:
    """UserError where this machine has no such device."""
    kind, colon, number = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = not colon if kind == "cpu" else kind == "cuda" and count > 0
    if colon and there:
        there = number.isascii() and number.isdigit() and len(number) < 5 and int(number) < count
    if not there:
        others = " or ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise UserError(f"--device {device}: there is no such device here; give {others}.")


def versions() -> dict[str, str]:
    """Of what the numbers come from."""
    return {"torch": torch.__version__, "numpy": np.__version__}


@dataclass(frozen=True)
class Prepared:
    """The denoiser on its device, and what follows from its weights alone."""

    unet: UNet
    denoise: Callable[..., Tensor]  # `unet`, compiled where that was asked for
    own: list[int]  # tokens of each attention layer


@dataclass(frozen=True)
class Plan:
    """What a pass of the denoiser is given: rows of the batch, those that are guided first."""

    guides: bool
    guided: list[int]
    rows: list[int]
    lq: Tensor
    cache: list[ReferenceCache]


class Restorer:
    """Both networks on one device. It holds no state of a picture: threads may share it.

    `dtype` is that of weights and sums inside the networks; latents between them are float32. Networks
    are taken over: a narrower `dtype` changes them in place.
    """

    def __init__(
        self,
        networks: Networks,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        self.device, self.dtype, self.compiled = torch.device(device), dtype, compiled
        self.autoencoder = networks.autoencoder.to(self.device, dtype)
        self.size = (networks.architecture.height, networks.architecture.width)
        factor = self.autoencoder.factor
        self.latent = (networks.architecture.unet.out_channels, *(side // factor for side in self.size))
        self.alpha_bar = schedule.tables(schedule.betas())["alphas_cumprod"]
        self._networks, self._preparing = networks, threading.Lock()
        self._prepared: Prepared | None = None
        self._null: ReferenceCache | None = None

    @property
    def prepared(self) -> Prepared:
        """The denoiser, from its first use on: what is encoded before has its memory."""
        with self._preparing:
            if self._prepared is None:
                self._prepared = self._prepare()
            return self._prepared

    @torch.no_grad()
    def _prepare(self) -> Prepared:
        unet = self._networks.unet.to(self.device)
        if self.dtype != torch.float32:
            # zeros make normalisation divide by next to nothing: there narrow sums lose the most
            self._null = self._null_cache(unet).to(self.dtype)
            unet.to(self.dtype)
        call = torch.compile(unet) if self.compiled else unet
        return Prepared(unet, call, unet.own_tokens(*self.latent[1:]))

    def _null_cache(self, unet: UNet) -> ReferenceCache:
        """What the null condition sees: one reference whose latent is zero."""
        return unet.cache_references(torch.zeros(1, *self.latent, device=self.device), self.latent[2])

    @torch.no_grad()
    def null(self) -> ReferenceCache:
        """The cache of the null condition. Once per model, and only where guidance asks for it."""
        prepared = self.prepared
        if self._null is None:
            self._null = self._null_cache(prepared.unet)
        return self._null

    def noise(self, seed: int) -> Tensor:
        """x_T [1, 8, h, w] of a seed, drawn on the CPU: the same on every device."""
        return torch.randn((1, *self.latent), generator=torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def encode(self, pictures: Rgb) -> Tensor:
        """[B, H, W, 3] uint8 -> latents [B, 8, H / 8, W / 8] float32."""
        values = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2)
        return self.autoencoder.encode(values.float() / 127.5 - 1)

    def encode_references(self, pictures: Sequence[Rgb], encoding: Encoding = "wide") -> Tensor:
        """References -> their latents side by side [1, 8, h, n * w].

        `wide` encodes them as one wide picture, as published: the encoder then sees across the seams, and
        their order counts a little. `separate` encodes each alone: less memory, another function.
        """
        if encoding == "wide":
            return self.encode(np.concatenate(pictures, axis=1)[None])
        return torch.cat([self.encode(picture[None]) for picture in pictures], 3)

    @torch.no_grad()
    def cache_latents(self, latents: Tensor) -> ReferenceCache:
        """The cache of the references of one person, from their latents [1, 8, h, n * w]."""
        return self.prepared.unet.cache_references(latents.to(self.device), self.latent[2])

    def cache_references(self, pictures: Sequence[Rgb], encoding: Encoding = "wide") -> ReferenceCache:
        """The cache of references; of none, an empty one. It serves for all pictures of the person."""
        with explained():
            if not pictures:
                return ReferenceCache()
            return self.cache_latents(self.encode_references(pictures, encoding))

    def denoiser(
        self, lq: Tensor, references: Sequence[ReferenceCache], options: SamplingOptions
    ) -> Callable[[Tensor, int], Tensor]:
        """denoise(x, t): the guided noise of rows with these low-quality latents and references.

        Only rows with references are guided, at the timesteps that `options` names: the batch has them a
        second time, with the null cache. For one thread at a time.
        """
        if len(references) > 1 and self.device.type == "cpu":
            keep_memory()
        plan: Plan | None = None  # one at a time: each holds its own keys and values

        def denoise(x: Tensor, t: int) -> Tensor:
            nonlocal plan
            if plan is None or plan.guides != options.guides(t):
                plan = None
                plan = self._plan(lq, references, options.guides(t))
            times = torch.full((len(plan.rows),), t, device=self.device)
            eps = self.prepared.denoise(x[plan.rows], times, plan.lq, plan.cache).float()
            null, eps = eps[: len(plan.guided)], eps[len(plan.guided) :]
            eps[plan.guided] = null + options.guidance * (eps[plan.guided] - null)
            return eps

        return denoise

    def _plan(self, lq: Tensor, references: Sequence[ReferenceCache], guides: bool) -> Plan:
        guided = [i for i, cached in enumerate(references) if cached.layers and guides]
        rows = guided + list(range(len(references)))  # those of the null condition first
        caches = [self._null_like(references[i]) for i in guided] + list(references)
        cache = [cached.with_room(self.prepared.own) for cached in _groups(caches)]
        if self.compiled:
            _any_count(cache)
        return Plan(guides, guided, rows, lq.to(self.device)[rows], cache)

    @torch.no_grad()
    def sample(
        self,
        x: Tensor,
        lq: Tensor,
        references: Sequence[ReferenceCache],
        options: SamplingOptions,
        eta: float = 0.0,
        noise: Callable[[int], Tensor] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """Latents [B, 8, h, w] from x_T, low-quality latents and each row's references.

        `eta` and `noise` are for DDIM alone: the other solvers draw nothing.
        """
        chosen = schedule.timesteps(options.schedule, options.steps)
        denoise, x = self.denoiser(lq, references, options), x.to(self.device)
        if options.solver == "ddim":
            return schedule.ddim(denoise, x, chosen, self.alpha_bar, eta, noise, watch)
        return solvers.SOLVERS[options.solver](denoise, x, chosen, self.alpha_bar, watch)

    def _null_like(self, cached: ReferenceCache) -> ReferenceCache:
        """The null condition with as many references as `cached` has."""
        count = round(cached.layers[0][0].shape[2] / self.prepared.own[0])
        return ReferenceCache(layers=self.null().layers, copies=count)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Rgb]:
        """Latents -> pictures; one at a time, which bounds the memory. Values are cut off, not rounded."""
        return [as_picture(self.autoencoder.decode(latent[None])[0]) for latent in latents]

    def restore(
        self,
        pictures: Sequence[Rgb],
        references: Sequence[ReferenceCache],
        noises: Sequence[Tensor],
        options: SamplingOptions,
        watch: Watch | None = None,
    ) -> list[Rgb]:
        """Restore a batch: pictures of the network's size, each with its references and its x_T."""
        with explained():
            lq = torch.cat([self.encode(picture[None]) for picture in pictures])
            latents = self.sample(torch.cat(list(noises)), lq, references, options, watch=watch)
            if not bool(torch.isfinite(latents).all()):
                raise UserError(
                    "The restoration left the range of finite numbers: use --precision fp32, or another "
                    "checkpoint."
                )
            return self.decode(latents)


@contextmanager
def explained() -> Iterator[None]:
    """UserError, a sentence, where the memory did not suffice or torch could not compile."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise UserError(sentence) from error


def _sentence(error: RuntimeError | MemoryError) -> str | None:
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return (
            "Out of memory: lower --batch-size or --max-references, or use --reference-encoding separate, "
            "--precision bf16 or another --device."
        )
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return (
            "--compile needs a C++ compiler such as g++, and Triton on a GPU, but torch could not compile "
            f"({text_line(error)}): install them or leave --compile out."
        )
    return None


def _any_count(cache: Sequence[ReferenceCache]) -> None:
    """Have the compiler keep the number of tokens open: one program for any number of references."""
    for cached in cache:
        marked = [(bias, 3) for bias in cached.bias] + [(kv, 2) for layer in cached.layers for kv in layer]
        for tensor, tokens in marked:
            torch._dynamo.maybe_mark_dynamic(tensor, tokens)


def _groups(cached: Sequence[ReferenceCache]) -> list[ReferenceCache]:
    """Successive rows with the same references are one group."""
    groups = []
    for _, same in groupby(cached, key=lambda one: (id(one.layers) if one.layers else 0, one.copies)):
        rows = list(same)
        groups.append(ReferenceCache(rows=len(rows), layers=rows[0].layers, copies=rows[0].copies))
    return groups


def as_picture(values: Tensor) -> Rgb:
    """[3, H, W] in about [-1, 1] -> uint8 [H, W, 3], cut off as published."""
    levels = ((values.float() + 1) / 2).clamp(0, 1) * 255
    return levels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def resize_bicubic(picture: Rgb, height: int, width: int) -> Rgb:
    """The picture at the network's size, resized as published: Pillow's bicubic filter."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
