"""What the stages are trained for: the noise loss, the identity loss, dropped conditions, a picture's loss.

Pictures are [B, 3, H, W] RGB in about [-1, 1], latents [B, 8, h, w].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ffhqref.refldm.model import schedule

Norm = Literal["l2", "l1"]
Scaling = Literal["sqrt_alpha_bar", "t<500", "t<100", "none"]
Recognise = Callable[[Tensor], Tensor]  # faces [B, 3, S, S] in [-1, 1] -> embeddings [B, D]
Side = int | tuple[int, int]  # px of a square, or height and width
CROP = (0.0625, 0.9375)  # rows and columns that the identity network sees, of the picture's


class Diffusion:
    """The noise schedule's tables on one device, and what follows from them for a batch."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.tables = {name: table.to(device) for name, table in schedule.tables(schedule.betas()).items()}
        self.vlb_weights = _vlb_weights(self.tables)

    def at(self, table: str, t: Tensor) -> Tensor:
        """A table's values at timesteps t [B], as [B, 1, 1, 1]."""
        return self.tables[table][t][:, None, None, None]

    def noised(self, z: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """q(x_t | x_0): latents with the noise of timesteps t [B] int64."""
        return self.at("sqrt_alphas_cumprod", t) * z + self.at("sqrt_one_minus_alphas_cumprod", t) * noise

    def clean(self, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """The x_0 that a predicted noise stands for."""
        return self.at("sqrt_recip_alphas_cumprod", t) * x - self.at("sqrt_recipm1_alphas_cumprod", t) * eps


def _vlb_weights(tables: dict[str, Tensor]) -> Tensor:
    """Of the variational bound [T], which is logged only; the first is infinite, the second serves."""
    beta, bar = tables["betas"], tables["alphas_cumprod"]
    weights = beta**2 / (2 * tables["posterior_variance"] * (1 - beta) * (1 - bar))
    weights[0] = weights[1]
    return weights


def noise_loss(eps: Tensor, noise: Tensor, norm: Norm = "l2") -> Tensor:
    """Mean difference of each sample [B]: L2 is the published code's, L1 the paper's (eq. 1)."""
    difference = eps - noise
    return (difference.square() if norm == "l2" else difference.abs()).flatten(1).mean(1)


def min_snr(bar: Tensor, gamma: float) -> Tensor:
    """Weights of the noise loss by alpha-bar: min(SNR, gamma) / SNR (Hang et al. 2023, for eps).

    With gamma of 1 over the latents' variance every error of x_0 counts alike, from where the noise is as
    strong as they are: what conditions tell is learnt first, and fine noise does not drown it.
    """
    snr = bar / (1 - bar)
    return snr.clamp(max=gamma) / snr


def face_of(pictures: Tensor, side: Side = 112) -> Tensor:
    """The middle of pictures, brought to `side` by area: what the identity network sees."""
    height, width = pictures.shape[2:]
    rows, columns = (slice(*(int(part * size) for part in CROP)) for size in (height, width))
    return F.interpolate(pictures[:, :, rows, columns], size=side, mode="area")


def identity_distance(pictures: Tensor, target: Tensor, recognise: Recognise, side: Side = 112) -> Tensor:
    """1 - cosine [B] between the faces in pictures and the target's embeddings [B, D]."""
    return 1 - F.cosine_similarity(recognise(face_of(pictures, side)), target, dim=1, eps=1e-8)


def identity_weight(scaling: Scaling, t: Tensor, sqrt_bar: Tensor) -> Tensor:
    """How much each sample's identity loss counts at its timestep [B]; the paper's is sqrt(alpha-bar)."""
    if scaling == "sqrt_alpha_bar":
        return sqrt_bar[t]
    if scaling == "none":
        return torch.ones_like(sqrt_bar[t])
    return (t < int(scaling.removeprefix("t<"))).to(sqrt_bar.dtype)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity loss (paper eq. 4): who the predicted clean picture shows.

    `decode` maps latents to pictures, quantised with straight-through gradient; it and `recognise` are
    frozen, but the gradient flows through them.
    """

    decode: Callable[[Tensor], Tensor]
    recognise: Recognise
    weight: float = 0.1
    scaling: Scaling = "sqrt_alpha_bar"
    side: Side = 112  # of the identity network's input

    @torch.no_grad()
    def target(self, latents: Tensor) -> Tensor:
        """Embeddings of the *reconstructed* targets [B, D]: what can be reached through the decoder."""
        return self.recognise(face_of(self.decode(latents), self.side))


@dataclass
class Losses:
    """A batch's loss with its gradient, and the parts that are logged (scalars)."""

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def diffusion_loss(
    diffusion: Diffusion,
    eps: Tensor,
    noise: Tensor,
    x: Tensor,
    t: Tensor,
    norm: Norm = "l2",
    identity: Identity | None = None,
    target: Tensor | None = None,
    snr_gamma: float = 0.0,
) -> Losses:
    """Noise loss, plus the identity loss where one is given with its target embeddings [B, D].

    `eps` is predicted for the noisy latents x at t [B]. `loss_perceptual` is the identity part after the
    scaling by time, before its weight, as the published code logs it. `snr_gamma` above 0 weighs the noise
    loss by `min_snr`.
    """
    each = noise_loss(eps, noise, norm)
    total = simple = each.mean()
    if snr_gamma:
        total = (min_snr(diffusion.tables["alphas_cumprod"][t], snr_gamma) * each).mean()
    parts = {"loss_simple": simple, "loss_vlb": (diffusion.vlb_weights[t] * each).mean()}
    if identity is not None and target is not None:
        pictures = identity.decode(diffusion.clean(x, t, eps))
        distance = identity_distance(pictures, target, identity.recognise, identity.side)
        scale = identity_weight(identity.scaling, t, diffusion.tables["sqrt_alphas_cumprod"])
        parts["loss_perceptual"] = (scale * distance).mean()
        total = total + identity.weight * parts["loss_perceptual"]
    parts["loss"] = total
    return Losses(total, {name: part.detach() for name, part in parts.items()})


def keep_masks(
    count: int, conditions: Sequence[str], generator: torch.Generator, drop: float = 0.1
) -> dict[str, Tensor]:
    """For each condition, in order, which of `count` samples keep it: float 1 or 0, each [count].

    A dropped one is a latent of zeros. All references of a sample are dropped together.
    """
    return {name: (torch.rand(count, generator=generator) > drop).float() for name in conditions}


# ---- the autoencoder -----------------------------------------------------------------------------


class PatchDiscriminator(nn.Sequential):
    """Pictures [B, 3, H, W] -> one score for each patch of 70 px [B, 1, H / 8 - 2, W / 8 - 2]."""

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, 2, 1), nn.LeakyReLU(0.2)]
        width = channels
        for layer in range(1, layers + 1):
            before, width = width, channels * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            parts += [nn.Conv2d(before, width, 4, stride, 1, bias=False), nn.BatchNorm2d(width)]
            parts += [nn.LeakyReLU(0.2)]
        super().__init__(*parts, nn.Conv2d(width, 1, 4, 1, 1))
        for module in self.modules():  # as usual for networks of this kind (Radford et al.)
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)


class UnitRange(nn.Module):
    """A distance that wants pictures in [0, 1], such as pyiqa's LPIPS, for those in [-1, 1]."""

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        self.metric = metric.requires_grad_(False)

    def forward(self, pictures: Tensor, target: Tensor) -> Tensor:
        out: Tensor = self.metric((pictures + 1) / 2, (target + 1) / 2)
        return out


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's: real scores above 1, fake ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """How much the adversarial loss counts: the ratio of both gradients at the decoder's last layer."""
    ours, theirs = (
        torch.autograd.grad(loss, last, retain_graph=True)[0] for loss in (reconstruction, adversarial)
    )
    weight: Tensor = ours.norm() / (theirs.norm() + 1e-4)
    return weight.clamp(0, 1e4).detach()
