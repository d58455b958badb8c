"""The denoiser: a UNet whose self-attention also sees the keys and values of references (CacheKV)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffhqref.refldm.model.layers import Upsample, add, norm_act_conv, normalise, picture, tokens

KeyValue = tuple[Tensor, Tensor]  # of one attention layer, each [rows, heads, tokens, head channels]


@dataclass(frozen=True, kw_only=True)
class UNetSize:
    """Widths of the denoiser; the defaults are the published ones."""

    in_channels: int = 16  # noisy latent, then low-quality latent
    out_channels: int = 8
    channels: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2  # residual blocks a level; one more on the way up
    attention: tuple[int, ...] = (2, 4, 8)  # factors of downsampling at which there is attention
    head_channels: int = 32
    groups: int = 32  # of channels that are normalised together


@dataclass(frozen=True, kw_only=True)
class ReferenceCache:
    """What `rows` successive rows of a batch see beside themselves: keys and values for each layer.

    Their first dimension is `rows`, or 1 where all of them see the same. They count `copies` times:
    n equal references are kept once, with ln(n) added to their scores. No layers: there are no references.
    """

    rows: int = 1
    layers: tuple[KeyValue, ...] = ()
    copies: int = 1
    room: tuple[int, ...] = ()  # per layer: how many tokens of `layers` are room for the rows' own
    bias: tuple[Tensor, ...] = ()  # per layer, with the room: what `copies` adds to the scores

    def to(self, dtype: torch.dtype) -> ReferenceCache:
        """The same keys and values in another type."""
        return replace(self, layers=tuple((k.to(dtype), v.to(dtype)) for k, v in self.layers))

    def with_room(self, own: Sequence[int]) -> ReferenceCache:
        """A copy whose keys and values begin with room for each layer's `own` tokens.

        A step then writes its own tokens there and need not join anything; so it is for one thread.
        """
        if not self.layers:
            return self
        pairs = zip(self.layers, own, strict=True)
        layers = tuple((_room(k, self.rows, n), _room(v, self.rows, n)) for (k, v), n in pairs)
        counted = zip(layers, own, strict=True) if self.copies != 1 else ()
        bias = tuple(_times(keys, n, self.copies) for (keys, _), n in counted)
        return replace(self, layers=layers, room=tuple(own), bias=bias)


def _room(kv: Tensor, rows: int, own: int) -> Tensor:
    room = kv.new_empty((rows, kv.shape[1], own + kv.shape[2], kv.shape[3]))
    room[:, :, own:] = kv
    return room


def _times(keys: Tensor, own: int, copies: int) -> Tensor:
    """What is added to the scores of `keys`, so that all but the first `own` count `copies` times."""
    bias = keys.new_zeros(keys.shape[2])
    bias[own:] = math.log(copies)
    return bias.expand(1, 1, own, -1)


Cache = Sequence[ReferenceCache]  # for successive groups of rows; together they cover the batch


class ResBlock(nn.Module):
    """[B, C, h, w] and the time embedding [B, E] -> [B, out, h, w]."""

    def __init__(self, channels: int, embedding: int, out: int, groups: int = 32) -> None:
        super().__init__()
        self.in_layers = _norm_act_conv(groups, channels, out)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        # a place is left empty where the published network had dropout
        self.out_layers = _norm_act_conv(groups, out, out, nn.Identity())
        _zero(self.out_layers[-1])
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = _through(x, self.in_layers)
        h = add(h, self.emb_layers(emb)[:, :, None, None])
        return add(_through(h, self.out_layers), self.skip_connection(x))


def _norm_act_conv(groups: int, channels: int, out: int, *between: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(channels, out, 3, padding=1)
    return nn.Sequential(nn.GroupNorm(groups, channels), nn.SiLU(), *between, conv)


def _through(x: Tensor, layers: nn.Sequential) -> Tensor:
    return norm_act_conv(x, layers[0], layers[-1])  # type: ignore[arg-type]


def _zero(layer: nn.Module) -> None:
    """Training starts with the branch switched off."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class AttentionBlock(nn.Module):
    """Self-attention over the tokens of a latent and of its references, added to the input."""

    def __init__(self, channels: int, head_channels: int, layer: int, groups: int = 32) -> None:
        super().__init__()
        self.heads, self.layer = channels // head_channels, layer
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        _zero(self.proj_out)

    def project(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> queries, keys, values [3, B, heads, h * w, head channels]."""
        qkv = F.conv2d(normalise(x, self.norm), self.qkv.weight[..., None], self.qkv.bias)
        # the 3C channels are ordered by head, then q, k, v
        by_head = tokens(qkv).reshape(len(x), -1, self.heads, 3, x.shape[1] // self.heads)
        return by_head.permute(3, 0, 2, 1, 4).contiguous()

    def forward(self, x: Tensor, qkv: Tensor, cache: Cache) -> Tensor:
        """`qkv` is `project(x)`; shape of x kept."""
        parts, start = [], 0
        for cached in cache or [ReferenceCache(rows=len(x))]:
            q, k, v = qkv[:, start : start + cached.rows]
            parts.append(self._attend(q, k, v, cached))
            start += cached.rows
        h = parts[0] if len(parts) == 1 else torch.cat(parts)
        h = picture(h.transpose(1, 2).flatten(2), *x.shape[2:])
        return x + F.conv2d(h, self.proj_out.weight[..., None], self.proj_out.bias)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cached: ReferenceCache) -> Tensor:
        """One softmax over own tokens and those of the references."""
        if not cached.layers:
            return F.scaled_dot_product_attention(q, k, v)
        keys, values = cached.layers[self.layer]
        own = k.shape[2]
        if cached.room:
            keys[:, :, :own], values[:, :, :own] = k, v
            bias = cached.bias[self.layer] if cached.bias else None
        else:
            keys, values = (
                torch.cat([a, b.expand(cached.rows, -1, -1, -1)], 2) for a, b in ((k, keys), (v, values))
            )
            bias = _times(keys, own, cached.copies) if cached.copies != 1 else None
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=bias)


class Downsample(nn.Module):
    """Halves height and width; zeros are added on all sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.op(x)
        return out


class UNet(nn.Module):
    """The denoiser, with the published parameter names: predicts the noise in a latent."""

    def __init__(self, size: UNetSize | None = None) -> None:
        super().__init__()
        self.size = size = size or UNetSize()
        embedding = 4 * size.channels
        self.time_embed = nn.Sequential(
            nn.Linear(size.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.attention_layers = 0
        self._build_down(size, embedding)
        self._build_up(size, embedding)
        last = nn.Conv2d(size.channels, size.out_channels, 3, padding=1)
        _zero(last)
        self.out = nn.Sequential(nn.GroupNorm(size.groups, size.channels), nn.SiLU(), last)

    def _attention(self, channels: int, factor: int) -> list[nn.Module]:
        """An attention block where the size asks for one at this factor of downsampling."""
        if factor not in self.size.attention:
            return []
        return [self._next_attention(channels)]

    def _next_attention(self, channels: int) -> AttentionBlock:
        self.attention_layers += 1
        size = self.size
        return AttentionBlock(channels, size.head_channels, self.attention_layers - 1, size.groups)

    def _build_down(self, size: UNetSize, embedding: int) -> None:
        first = nn.Conv2d(size.in_channels, size.channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        self.skips = [size.channels]  # widths of what the way up joins
        channels = size.channels
        for level, multiplier in enumerate(size.multipliers):
            for _ in range(size.blocks):
                out = size.channels * multiplier
                block = [ResBlock(channels, embedding, out, size.groups), *self._attention(out, 2**level)]
                self.input_blocks.append(nn.ModuleList(block))
                self.skips.append(channels := out)
            if level < len(size.multipliers) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                self.skips.append(channels)

    def _build_up(self, size: UNetSize, embedding: int) -> None:
        channels, skips = self.skips[-1], list(self.skips)
        attention = self._next_attention(channels)
        around = [ResBlock(channels, embedding, channels, size.groups) for _ in range(2)]
        self.middle_block = nn.ModuleList([around[0], attention, around[1]])
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(size.multipliers))):
            for i in range(size.blocks + 1):
                out = size.channels * size.multipliers[level]
                res = ResBlock(channels + skips.pop(), embedding, out, size.groups)
                block: list[nn.Module] = [res, *self._attention(out, 2**level)]
                if level and i == size.blocks:
                    block.append(Upsample(out))
                self.output_blocks.append(nn.ModuleList(block))
                channels = out

    def embed(self, t: Tensor) -> Tensor:
        """Timesteps [B] int64, 0..999 -> their embedding [B, 4 * channels]."""
        out: Tensor = self.time_embed(sinusoid(t, self.size.channels).to(self.dtype))
        return out

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and the sums; latents come and go in float32."""
        return next(self.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor, lq: Tensor, cache: Cache = ()) -> Tensor:
        """The noise in x [B, 8, h, w] at timesteps t [B], given the low-quality latents lq [B, 8, h, w]."""
        emb = self.embed(t)
        h = _channels_last(torch.cat([x, lq], 1).to(emb.dtype))
        skips = []
        for block in self.input_blocks:
            h = self._run(block, h, emb, cache)
            skips.append(h)
        h = self._run(self.middle_block, h, emb, cache)
        for block in self.output_blocks:
            h = self._run(block, torch.cat([h, skips.pop()], 1), emb, cache)
        return _through(h, self.out)

    def _run(
        self, block: nn.Module, h: Tensor, emb: Tensor, cache: Cache, kept: list[KeyValue] | None = None
    ) -> Tensor:
        """One block. With `kept` the keys and values are added to it, and after the last it stops."""
        for layer in block.children():
            if isinstance(layer, ResBlock):
                h = layer(h, emb)
            elif isinstance(layer, AttentionBlock):
                qkv = layer.project(h)
                if kept is not None:
                    kept.append((qkv[1].clone(), qkv[2].clone()))  # clones: the queries go
                    if len(kept) == self.attention_layers:
                        return h
                h = layer(h, qkv, cache)
            else:
                h = layer(h)
        return h

    def keys_values(self, latents: Tensor) -> tuple[KeyValue, ...]:
        """What every attention layer keeps of reference latents [R, 8, h, w]: each [R, heads, T, D].

        The pass runs at t = 0 with zeros for the low-quality latent and ends at the last such layer.
        """
        emb = self.embed(latents.new_zeros(len(latents), dtype=torch.int64))
        empty = self.size.in_channels - latents.shape[1]
        h = _channels_last(F.pad(latents, (0, 0, 0, 0, 0, empty)).to(emb.dtype))
        kept: list[KeyValue] = []
        skips = []
        for block in self.input_blocks:
            h = self._run(block, h, emb, (), kept)
            skips.append(h)
        h = self._run(self.middle_block, h, emb, (), kept)
        for block in self.output_blocks:
            if len(kept) == self.attention_layers:
                break
            h = self._run(block, torch.cat([h, skips.pop()], 1), emb, (), kept)
        return tuple(kept)

    def cache_references(self, references: Tensor, width: int) -> ReferenceCache:
        """The cache of wide reference latents [B, 8, h, n * width], row by row: all n in one pass.

        A last piece that is narrower than `width` gives fewer tokens.
        """
        rows = len(references)
        pieces = list(torch.split(references, width, 3))
        narrow = [pieces.pop()] if pieces[-1].shape[3] != width else []
        passes = [self.keys_values(torch.cat(pieces))] if pieces else []
        passes += [self.keys_values(piece) for piece in narrow]
        layers = []
        for layer in zip(*passes, strict=True):
            keys, values = (_side_by_side([kv[i] for kv in layer], rows) for i in (0, 1))
            layers.append((keys, values))
        return ReferenceCache(rows=rows, layers=tuple(layers))

    def own_tokens(self, height: int, width: int) -> list[int]:
        """For each attention layer, the number of tokens of an h x w latent."""
        counts = []
        for block in [*self.input_blocks, self.middle_block, *self.output_blocks]:
            for layer in block:
                if isinstance(layer, AttentionBlock):
                    counts.append(height * width)
                elif isinstance(layer, Downsample):
                    height, width = (height + 1) // 2, (width + 1) // 2
                elif isinstance(layer, Upsample):
                    height, width = 2 * height, 2 * width
        return counts


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _side_by_side(passes: Sequence[Tensor], rows: int) -> Tensor:
    """[n * rows, heads, T, D], references outermost -> [rows, heads, n * T, D]."""
    parts = [part for kv in passes for part in torch.split(kv, rows)]
    return torch.cat(parts, 2)


def sinusoid(t: Tensor, channels: int) -> Tensor:
    """Timesteps [B] -> [B, channels] float32: cosines, then sines, of frequencies 1 down to 1/10000."""
    half = channels // 2
    frequencies = torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    )
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
