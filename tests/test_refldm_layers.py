"""The layers that both networks are made of, against float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")

from ffhqref.refldm.layers import MOMENTS_BYTES, affine, moments, normalise  # noqa: E402


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
