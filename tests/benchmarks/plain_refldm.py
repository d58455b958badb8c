"""The plain way to run the same weights, as SPEC.md sections 4 to 7 describe the published behaviour.

One reference after another through the whole denoiser, twice (zeros and latents); explicit softmax
matrices; keys and values joined anew at every step and layer; NCHW; raw, EMA and swapped weights held.
It walks the modules of `ffhqref.refldm` for their parameters and uses none of their forward passes, in
whatever precision the parameters have: in float64 it is the oracle of tests/refldm/imitated_golden.py.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ffhqref.refldm.model import schedule
from ffhqref.refldm.model.autoencoder import AttnBlock, Autoencoder, ResnetBlock
from ffhqref.refldm.model.layers import Upsample
from ffhqref.refldm.model.unet import AttentionBlock, Downsample, ResBlock, UNet


def up(layer: Upsample, x: Tensor) -> Tensor:
    return layer.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def norm(layer: torch.nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation. In float64 too it is x * scale + shift with the mean and both in float32.

    For that is what the published numbers come from. With zeros for a picture some groups have next to no
    deviation; then this rounding, alone of all, is seen in the results (1e-4 of them).
    """
    if x.dtype != torch.float64:
        return layer(x)
    groups = x.reshape(len(x), layer.num_groups, -1)
    mean, rstd = groups.mean(2), (groups.var(2, unbiased=False) + layer.eps).rsqrt()
    mean, rstd = (rounded(v).repeat_interleave(x.shape[1] // layer.num_groups, 1) for v in (mean, rstd))
    scale = rounded(rstd * layer.weight)
    shift = rounded(layer.bias - mean * scale)
    shape = (*scale.shape, *[1] * (x.dim() - 2))
    return x * scale.reshape(shape) + shift.reshape(shape)


def rounded(x: Tensor) -> Tensor:
    """To float32, with the gradient of the whole."""
    return x + (x.float().double() - x).detach()


# The first stage


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def resnet(block: ResnetBlock, x: Tensor) -> Tensor:
    h = block.conv1(swish(norm(block.norm1, x)))
    h = block.conv2(swish(norm(block.norm2, h)))
    return (block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x) + h


def attn(block: AttnBlock, x: Tensor) -> Tensor:
    b, c, height, width = x.shape
    h = norm(block.norm, x)
    q, k, v = (layer(h).reshape(b, c, -1) for layer in (block.q, block.k, block.v))
    weights = torch.bmm(q.permute(0, 2, 1), k) * c**-0.5
    weights = F.softmax(weights, dim=2)
    h = torch.bmm(v, weights.permute(0, 2, 1)).reshape(b, c, height, width)
    return x + block.proj_out(h)


def middle(mid: torch.nn.Module, x: Tensor) -> Tensor:
    return resnet(mid.block_2, attn(mid.attn_1, resnet(mid.block_1, x)))


def encode(stage: Autoencoder, x: Tensor) -> Tensor:
    net = stage.encoder
    h = net.conv_in(x.contiguous())  # NCHW throughout: a picture permuted from HWC would be channels-last
    for level in net.down:
        for block in level.block:
            h = resnet(block, h)
        if hasattr(level, "downsample"):
            h = level.downsample.conv(F.pad(h, (0, 1, 0, 1)))
    h = net.conv_out(swish(norm(net.norm_out, middle(net.mid, h))))
    return stage.quant_conv(h)


def distances(codes: Tensor, z: Tensor) -> Tensor:
    """Of every latent vector, in the order of (b, h, w), to every code: squares."""
    flat = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    return flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.t()


def quantise(stage: Autoencoder, z: Tensor) -> Tensor:
    """The nearest codes, with the gradient of z."""
    codes = stage.quantize.embedding.weight
    nearest = codes[distances(codes, z).argmin(1)]
    nearest = nearest.reshape(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2).contiguous()
    return z + (nearest - z).detach()


def decode(stage: Autoencoder, z: Tensor, quantised: bool = True) -> Tensor:
    if quantised:
        z = quantise(stage, z)
    net = stage.decoder
    h = middle(net.mid, net.conv_in(stage.post_quant_conv(z)))
    for level in reversed(net.up):
        for block in level.block:
            h = resnet(block, h)
        if hasattr(level, "upsample"):
            h = up(level.upsample, h)
    return net.conv_out(swish(norm(net.norm_out, h)))


# The denoiser


class State:
    """Which of the three modes the attention layers are in, what they stored; every block's last output."""

    def __init__(self) -> None:
        self.mode = "none"
        self.stored: dict[int, list[tuple[Tensor, Tensor]]] = {}
        self.outputs: dict[torch.nn.Module, Tensor] | None = None  # kept where there is a dict


def attention(block: AttentionBlock, x: Tensor, state: State) -> Tensor:
    b, c, height, width = x.shape
    flat = x.reshape(b, c, -1)
    qkv = block.qkv(norm(block.norm, flat))
    q, k, v = qkv.reshape(b * block.heads, 3 * (c // block.heads), -1).split(c // block.heads, dim=1)
    if state.mode == "save":
        state.stored.setdefault(block.layer, []).append((k, v))
    elif state.mode == "use":
        k = torch.cat([k, *(one for one, _ in state.stored[block.layer])], dim=2)
        v = torch.cat([v, *(one for _, one in state.stored[block.layer])], dim=2)
    scale = (c // block.heads) ** -0.25
    scores = torch.einsum("bct,bcs->bts", q * scale, k * scale)
    weights = torch.softmax(scores.to(torch.promote_types(scores.dtype, torch.float32)), dim=-1)
    h = torch.einsum("bts,bcs->bct", weights, v).reshape(b, c, -1)
    return (flat + block.proj_out(h)).reshape(b, c, height, width)


def res(block: ResBlock, x: Tensor, emb: Tensor) -> Tensor:
    h = block.in_layers[2](F.silu(norm(block.in_layers[0], x)))
    h = h + block.emb_layers(emb)[:, :, None, None]
    h = block.out_layers[3](F.silu(norm(block.out_layers[0], h)))
    return block.skip_connection(x) + h


def run(unet: UNet, block: torch.nn.Module, h: Tensor, emb: Tensor, state: State) -> Tensor:
    for layer in block.children():
        if isinstance(layer, ResBlock):
            h = res(layer, h, emb)
        elif isinstance(layer, AttentionBlock):
            h = attention(layer, h, state)
        elif isinstance(layer, Downsample):
            h = layer.op(h)
        elif isinstance(layer, Upsample):
            h = up(layer, h)
        else:
            h = layer(h)
    if state.outputs is not None:
        state.outputs[block] = h
    return h


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Cosines, then sines. The published angles are products of float32, whatever comes after."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([f(t.float()[:, None] * frequencies[None]) for f in (torch.cos, torch.sin)], 1)


def embed(unet: UNet, t: Tensor) -> Tensor:
    first, _, second = unet.time_embed
    return second(swish(first(sinusoid(t, unet.size.channels).to(first.weight.dtype))))


def denoise(unet: UNet, x: Tensor, t: Tensor, state: State) -> Tensor:
    emb = embed(unet, t)
    h, skips = x, []
    for block in unet.input_blocks:
        h = run(unet, block, h, emb, state)
        skips.append(h)
    h = run(unet, unet.middle_block, h, emb, state)
    for block in unet.output_blocks:
        h = run(unet, block, torch.cat([h, skips.pop()], 1), emb, state)
    return unet.out[2](features(unet, h))


def features(unet: UNet, h: Tensor) -> Tensor:
    """What the last convolution reads."""
    return F.silu(norm(unet.out[0], h))


def eps(unet: UNet, x: Tensor, t: Tensor, lq: Tensor, wide: Tensor, state: State) -> Tensor:
    if state.mode != "use" and wide.shape[3]:
        state.mode = "save"
        for piece in wide.split(x.shape[3], dim=3):
            padded = torch.cat([piece, torch.zeros_like(piece)], 1)
            denoise(unet, padded, torch.zeros_like(t), state)
        state.mode = "use"
    return denoise(unet, torch.cat([x, lq], 1), t, state)


def sampler(unet: UNet, lq: Tensor, wide: Tensor, guidance: float):  # type: ignore[no-untyped-def]
    """denoise(x, t) with guidance; the first call runs the references."""
    state = State()
    if guidance == 1.0:
        return lambda x, t: eps(unet, x, torch.full((len(x),), t), lq, wide, state)
    lqs, wides = torch.cat([lq, lq]), torch.cat([wide * 0, wide])

    def guided(x: Tensor, t: int) -> Tensor:
        times = torch.full((2 * len(x),), t)
        null, given = eps(unet, torch.cat([x, x]), times, lqs, wides, state).chunk(2)
        return null + guidance * (given - null)

    return guided


class Plain:
    """The chain of section 7 with the memory habits of section 10, item 9."""

    def __init__(self, unet: UNet, stage: Autoencoder) -> None:
        self.ema, self.stage = unet.eval(), stage.eval()
        self.raw = copy.deepcopy(unet)
        self.bar = schedule.tables(schedule.betas())["alphas_cumprod"]

    def sampler(self, lq: Tensor, wide: Tensor, guidance: float):  # type: ignore[no-untyped-def]
        return sampler(self.ema, lq, wide, guidance)
