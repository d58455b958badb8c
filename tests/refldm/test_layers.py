"""The layers that both networks are made of, against float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ffhqref.core.store import UserError
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize
from ffhqref.refldm.model.checkpoint import FIRST_STAGE, RAW, Architecture, convert, load_networks
from ffhqref.refldm.model.layers import MOMENTS_BYTES, affine, moments, normalise
from ffhqref.refldm.model.publish import publish
from ffhqref.refldm.model.unet import UNet, UNetSize


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("side", [16, 128])
def test_normalisation_keeps_its_digits_where_the_mean_is_great(side: int, grad: bool) -> None:
    generator = torch.Generator().manual_seed(side)
    x = 30 + torch.randn((2, 64, side, side), generator=generator)
    x = x.contiguous(memory_format=torch.channels_last)
    assert (x[0].numel() * 4 > MOMENTS_BYTES) == (side == 128)  # both ways are tried
    norm = torch.nn.GroupNorm(32, 64)
    torch.nn.init.normal_(norm.weight, generator=generator)
    with torch.set_grad_enabled(grad):
        ours = normalise(x, norm)
    theirs = norm.double()(x.double())
    assert float((ours - theirs).detach().abs().max()) <= 2e-5  # torch's kernel: 2e-3 and 2e-2


@pytest.mark.parametrize("groups", [8, 16])
def test_networks_normalise_in_the_groups_that_their_size_asks_for(groups: int) -> None:
    stage = Autoencoder(AutoencoderSize(channels=32, multipliers=(1, 2), blocks=1, codes=16, groups=groups))
    unet = UNet(UNetSize(channels=32, multipliers=(1, 2), blocks=1, head_channels=16, groups=groups))
    norms = [part for network in (stage, unet) for part in network.modules()
             if isinstance(part, torch.nn.GroupNorm)]  # fmt: skip
    assert len(norms) > 40 and {norm.num_groups for norm in norms} == {groups}
    assert AutoencoderSize().groups == UNetSize().groups == 32  # published


def test_groups_stand_in_the_header_and_only_32_are_published(tmp_path: Path) -> None:
    stage = AutoencoderSize(channels=32, multipliers=(1, 2), blocks=1, codes=16, groups=8)
    architecture = Architecture(autoencoder=stage, unet=UNetSize(channels=32, multipliers=(1, 2), blocks=1))
    tensors = {RAW + k: v for k, v in UNet(architecture.unet).state_dict().items()}
    tensors |= {FIRST_STAGE + k: v for k, v in Autoencoder(stage).state_dict().items()}
    save_file(tensors, tmp_path / "raw.safetensors")
    convert(tmp_path / "raw.safetensors", tmp_path / "own.safetensors", None, architecture)
    assert load_networks(tmp_path / "own.safetensors").architecture == architecture
    with pytest.raises(UserError, match="normalises in 8 groups"):
        publish(tmp_path / "own.safetensors", tmp_path / "out.ckpt")
    assert not (tmp_path / "out.ckpt").exists()


def test_next_to_constant_groups_are_rounded_as_by_torch() -> None:
    """Zeros give such groups; their mean is hundreds of deviations, and so is what rounding does."""
    generator = torch.Generator().manual_seed(5)
    norm = torch.nn.GroupNorm(32, 32)
    torch.nn.init.normal_(norm.weight, 1, 0.2, generator)
    torch.nn.init.normal_(norm.bias, 0, 0.1, generator)
    x = torch.randn((1, 32, 1, 1), generator=generator).expand(1, 32, 8, 12)
    with torch.no_grad():
        scale, shift = affine(*moments(x.clone(), norm), norm, x.dtype)
        difference = torch.addcmul(shift, x, scale) - norm(x.contiguous())
    assert difference.abs().max() < 1e-6
