"""VQGAN with factor 8: pictures <-> latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffhqref.refldm.model import frozen
from ffhqref.refldm.model.frozen import recomputing_norm_act_conv
from ffhqref.refldm.model.layers import Upsample, halve, normalise, picture, tokens

DISTANCE_BYTES = 64 << 20  # of one block of distances between latents and codes


@dataclass(frozen=True, kw_only=True)
class AutoencoderSize:
    """Widths of the first stage; the defaults are the published ones."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 4)
    blocks: int = 2  # residual blocks a level; the decoder has one more
    latent: int = 8
    codes: int = 8192
    groups: int = 32  # of channels that are normalised together


def _norm(groups: int, channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """Two normalise-activate-convolve and a shortcut: [B, C, H, W] -> [B, out, H, W].

    In inference its input may be overwritten.
    """

    def __init__(self, channels: int, out: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = _norm(groups, channels)
        self.conv1 = nn.Conv2d(channels, out, 3, padding=1)
        self.norm2 = _norm(groups, out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if channels != out:
            self.nin_shortcut = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = recomputing_norm_act_conv(x, self.norm1, self.conv1)
        if hasattr(self, "nin_shortcut"):
            x = self.nin_shortcut(x)
        return recomputing_norm_act_conv(h, self.norm2, self.conv2, onto=x)


class AttnBlock(nn.Module):
    """Self-attention of one head over all positions, added to the input; shape kept."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = _norm(groups, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = normalise(x, self.norm)
        q, k, v = (tokens(layer(h))[:, None] for layer in (self.q, self.k, self.v))
        h = F.scaled_dot_product_attention(q, k, v)[:, 0]  # tiled: no matrix of all pairs
        out: Tensor = x + self.proj_out(picture(h, *x.shape[2:]))
        return out


class AsymmetricDownsample(nn.Module):
    """Halves height and width; zeros are added right and below only, as the weights were trained."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.device.type != "cpu":
            out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
            return out
        return halve(x, self.conv)


class ResolutionBlocks(nn.Module):
    """The residual blocks of one resolution (`block`), then its resampling where there is one."""

    def __init__(self, channels: int, out: int, blocks: int, groups: int, **resample: nn.Module) -> None:
        super().__init__()
        widths = [channels] + [out] * blocks
        self.block = nn.ModuleList(ResnetBlock(widths[i], out, groups) for i in range(blocks))
        self.resample = list(resample)
        for name, module in resample.items():  # `downsample` or `upsample`, as published
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        for name in self.resample:
            layer = self.get_submodule(name)
            x = frozen.upsample(x, layer) if isinstance(layer, Upsample) else layer(x)
        return x


class Middle(nn.Module):
    """Residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Pictures [B, 3, H, W] in [-1, 1] -> [B, latent, H / 8, W / 8]."""

    def __init__(self, size: AutoencoderSize) -> None:
        super().__init__()
        widths = [size.channels * multiplier for multiplier in size.multipliers]
        self.conv_in = nn.Conv2d(3, size.channels, 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[i - 1] if i else size.channels
            resample = {"downsample": AsymmetricDownsample(width)} if i < len(widths) - 1 else {}
            self.down.append(ResolutionBlocks(before, width, size.blocks, size.groups, **resample))
        self.mid = Middle(widths[-1], size.groups)
        self.norm_out = _norm(size.groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], size.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return recomputing_norm_act_conv(self.mid(x), self.norm_out, self.conv_out)


class Decoder(nn.Module):
    """[B, latent, h, w] -> pictures [B, 3, 8h, 8w]; `up` is indexed by level, the last runs first."""

    def __init__(self, size: AutoencoderSize) -> None:
        super().__init__()
        widths = [size.channels * multiplier for multiplier in size.multipliers]
        self.conv_in = nn.Conv2d(size.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], size.groups)
        self.up = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[min(i + 1, len(widths) - 1)]
            resample = {"upsample": Upsample(width)} if i > 0 else {}
            self.up.append(ResolutionBlocks(before, width, size.blocks + 1, size.groups, **resample))
        self.norm_out = _norm(size.groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        return recomputing_norm_act_conv(x, self.norm_out, self.conv_out)


class Quantizer(nn.Module):
    """The codebook: each latent vector is replaced by the nearest of the codes."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, channels)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)

    def indices(self, z: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, h, w] int64: the nearest code by squared distance, the first on ties."""
        flat = tokens(z).reshape(-1, z.shape[1]).float()
        codes = self.embedding.weight.float()
        squares = codes.square().sum(1)
        rows = max(1, DISTANCE_BYTES // (4 * len(codes)))
        # |z|^2 is the same for all codes of a row and does not move the least one
        nearest = [
            torch.addmm(squares, part, codes.T, alpha=-2).argmin(1) for part in torch.split(flat, rows)
        ]
        return torch.cat(nearest).reshape(z.shape[0], *z.shape[2:])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The codes in place of z, with z's gradient (straight-through), and the codebook loss."""
        with torch.no_grad():
            indices = self.indices(z)
        codes = self.embedding(indices).permute(0, 3, 1, 2)
        # the weight 0.25 stands on the codebook's term: so the published weights were trained
        loss = F.mse_loss(codes.detach(), z) + 0.25 * F.mse_loss(codes, z.detach())
        return z + (codes - z).detach(), loss


class Autoencoder(nn.Module):
    """The first stage, with the published parameter names."""

    def __init__(self, size: AutoencoderSize | None = None) -> None:
        super().__init__()
        size = size or AutoencoderSize()
        self.size = size
        self.encoder = Encoder(size)
        self.decoder = Decoder(size)
        self.quantize = Quantizer(size.codes, size.latent)
        self.quant_conv = nn.Conv2d(size.latent, size.latent, 1)
        self.post_quant_conv = nn.Conv2d(size.latent, size.latent, 1)

    @property
    def factor(self) -> int:
        """Picture pixels a latent pixel, on each axis."""
        return int(2 ** (len(self.size.multipliers) - 1))

    def encode(self, pictures: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> continuous latents [B, 8, H / 8, W / 8]."""
        latents: Tensor = self.quant_conv(self.encoder(pictures.to(self.quant_conv.weight.dtype)))
        return latents.float()

    def decode(self, latents: Tensor, quantize: bool = True) -> Tensor:
        """[B, 8, h, w] -> pictures [B, 3, 8h, 8w], about [-1, 1], not clamped; quantised first."""
        if quantize:
            latents = self.quantize(latents)[0]
        latents = latents.to(self.post_quant_conv.weight.dtype)
        pictures: Tensor = self.decoder(self.post_quant_conv(latents))
        return pictures.float()
