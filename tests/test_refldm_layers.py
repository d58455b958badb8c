"""The layers that both networks are made of, against float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")

from ffhqref.refldm.layers import MOMENTS_BYTES, normalise  # noqa: E402


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
