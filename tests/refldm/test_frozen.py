"""The gradient through a frozen decoder against torch's own in float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ffhqref.refldm.model import frozen, layers, winograd
from ffhqref.refldm.model.autoencoder import Autoencoder, AutoencoderSize

SIZE = AutoencoderSize(channels=32, multipliers=(1, 2, 2), blocks=1, latent=4, codes=32)
CLOSE = 1e-4  # of the largest value


@pytest.fixture(scope="module")
def autoencoder() -> Any:
    """No weight is zero, no normalisation the identity."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Autoencoder(SIZE)
        for parameter in network.parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, 0.3, 0.3)
    return network.eval().requires_grad_(False)


@pytest.fixture(params=["winograd", "plain"])
def in_strips(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of eight rows, the least, with either convolution."""
    monkeypatch.setattr(layers, "STRIP_BYTES", 1)
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 1)
    monkeypatch.setattr(winograd, "LEAST_PIXELS", 1 if request.param == "winograd" else 1 << 60)


def gradient(autoencoder: Any, z: Any) -> tuple[Any, Any]:
    """A decoded picture, and the gradient at z of a sum of its values with weights from -1 to 1."""
    z = z.clone().requires_grad_()
    made = autoencoder.decode(z, quantize=False)
    weights = torch.linspace(-1, 1, made.numel(), dtype=z.dtype).view_as(made)
    (made * weights).sum().backward()
    return made.detach(), z.grad


@pytest.mark.parametrize("shape", [(16, 24), (12, 20), (6, 10)])
@pytest.mark.usefixtures("in_strips")
def test_pictures_and_gradients_are_torchs_own(shape: tuple[int, int], autoencoder: Any) -> None:
    z = torch.randn(2, 4, *shape, generator=torch.Generator().manual_seed(1))
    trained = copy.deepcopy(autoencoder).double().requires_grad_(True)
    wanted = gradient(trained, z.double())
    assert all(parameter.grad is not None for parameter in trained.decoder.parameters())
    for ours, theirs in zip(gradient(autoencoder, z), wanted, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - theirs).abs().max() <= CLOSE * theirs.abs().max()
    assert all(parameter.grad is None for parameter in autoencoder.parameters())


@pytest.mark.usefixtures("in_strips")
def test_inference_gives_the_same_pictures(autoencoder: Any) -> None:
    z = torch.randn(1, 4, 16, 24, generator=torch.Generator().manual_seed(1))
    made, _ = gradient(autoencoder, z)
    with torch.no_grad():
        pictures = autoencoder.double().decode(z.double(), quantize=False).double()
    autoencoder.float()
    assert (made - pictures).abs().max() <= CLOSE * pictures.abs().max()


def kept(work: Any) -> int:
    """Bytes that a forward pass keeps for the backward one, each tensor once."""
    found: dict[int, int] = {}

    def pack(tensor: Any) -> Any:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(found.values())


def test_only_inputs_are_kept() -> None:
    x = torch.randn(1, 32, 32, 32, requires_grad=True)
    norm, conv = torch.nn.GroupNorm(32, 32), torch.nn.Conv2d(32, 32, 3, padding=1)
    for part in (norm, conv):
        part.requires_grad_(False)
    up = layers.Upsample(32).requires_grad_(False)
    moments = 2 * 8 * 32  # bytes
    assert kept(lambda: frozen.recomputing_norm_act_conv(x, norm, conv)) == 4 * x.numel() + moments
    assert kept(lambda: frozen.upsample(x, up)) == 0
    assert kept(lambda: layers.norm_act_conv(x, norm, conv)) > 8 * x.numel()


def test_what_it_is_added_onto_stays_as_it_was() -> None:
    x = torch.randn(1, 32, 32, 32, requires_grad=True)
    norm, conv = torch.nn.GroupNorm(32, 32), torch.nn.Conv2d(32, 32, 3, padding=1)
    before = x.detach().clone()
    for trained in (True, False):
        for part in (norm, conv):
            part.requires_grad_(trained)
        assert frozen.wanted(x, norm, conv) is not trained
        frozen.recomputing_norm_act_conv(x, norm, conv, onto=x)
        assert torch.equal(x, before)
