"""Which arithmetic a machine runs fastest."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ffhqref.core.store import UserError
from ffhqref.refldm.model.layers import fold
from ffhqref.refldm.model.unet import AttentionBlock, ReferenceCache, ResBlock

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WORTH = 1.15  # times as fast: below that `auto` keeps fp32


def resolve(asked: str, device: str) -> str:
    """The precision for --precision; UserError where the device has none such."""
    if asked != "auto":
        if asked in ("fp16", "tf32") and device == "cpu":
            raise UserError(f"--precision {asked} is for GPUs: on a CPU give bf16, auto or fp32.")
        return asked
    if device != "cpu":  # without emulation, which is slower than fp16
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if has_bf16() and speedup() >= WORTH else "fp32"


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Inside, float32 products on a GPU are rounded to TF32 for `tf32` alone; outside all is as before.

    torch itself lets convolutions use TF32 on GPUs that have it, with 10 bits of mantissa in place of 23.
    """
    cudnn = torch.backends.cudnn
    with warnings.catch_warnings():  # newer versions prefer other names, which 2.6 does not have
        warnings.simplefilter("ignore")
        before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
        _set_tf32("high" if precision == "tf32" else "highest", precision == "tf32")
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _set_tf32(*before)


def _set_tf32(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def gain(device: str) -> str:
    """A sentence on what `auto` would bring here, or nothing."""
    if device != "cpu":
        return "On a GPU `--precision auto` takes bf16, which is faster."
    if not has_bf16():
        return ""
    times = speedup()
    if times < WORTH:
        return ""
    return f"`--precision auto` would take bf16: about {times:.1f} times as fast here (a trial of one block)."


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX-512 BF16 or AMX)."""
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    return bool(supported() or tiles())


def speedup() -> float:
    """How many times as fast one block of the published width, with four references, is in bf16."""
    return _trial(torch.float32) / _trial(torch.bfloat16)


@torch.no_grad()
def _trial(dtype: torch.dtype) -> float:
    """Seconds of such a block, the least of three runs after a first one."""
    generator = torch.Generator().manual_seed(0)
    res, attention = ResBlock(320, 640, 320), AttentionBlock(320, 32, 0)
    for module in (res, attention):
        fold(module)
        module.to(dtype)
    x = torch.randn((2, 320, 32, 32), generator=generator).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    kv = torch.randn((1, 10, 4096, 32), generator=generator).to(dtype)
    cache = [ReferenceCache(layers=((kv[:, :, :1024], kv[:, :, :1024]),)), ReferenceCache(layers=((kv, kv),))]
    emb = torch.zeros(2, 640, dtype=dtype)
    runs = []
    for _ in range(4):
        start = time.perf_counter()
        h = res(x, emb)
        attention(h, attention.project(h), cache)
        runs.append(time.perf_counter() - start)
    return min(runs[1:])
