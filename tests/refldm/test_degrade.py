"""The batched degradation against the one for the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra `train`)")

from ffhqref.core import images  # noqa: E402
from ffhqref.degrade.levels import load_level  # noqa: E402
from ffhqref.degrade import operators  # noqa: E402
from ffhqref.degrade.operators import Degradation  # noqa: E402
from ffhqref.refldm.training.degrade import blur, degrade  # noqa: E402

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def batch(count: int, height: int, width: int) -> list[images.Rgb]:
    rng = np.random.default_rng(4)
    patches = [rng.uniform(0, 255, (9, 9, 3)).astype(np.float32) for _ in range(count)]
    large = [cv2.resize(patch, (width, height), interpolation=cv2.INTER_CUBIC) for patch in patches]
    return [np.clip(one + rng.normal(0, 10, one.shape), 0, 255).astype(np.uint8) for one in large]


def tensor(pictures: list[images.Rgb], device: str) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).to(device) / 255


def arrays(low: torch.Tensor) -> list[images.Rgb]:
    levels = low.mul(255)
    assert (levels - levels.round()).abs().max() < 1e-3  # steps of 1/255
    return list(levels.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def draws(level: str, pictures: list[images.Rgb]) -> tuple[list[Degradation], list[operators.Noise]]:
    drawn = [operators.sample(load_level(level), 3, str(n)) for n in range(len(pictures))]
    shapes = [(*operators.small_size(*pictures[0].shape[:2], one.scale), 3) for one in drawn]
    return drawn, [operators.draw_noise(one.seed, shape) for one, shape in zip(drawn, shapes, strict=True)]


def without_jpeg(image: images.Rgb, drawn: Degradation, noise: operators.Noise) -> images.Rgb:
    noisy = operators.add_noise(operators.blur_downscale(image, drawn), drawn.noise, noise)
    return operators.upscale(np.rint(noisy * 255).astype(np.uint8), *image.shape[:2])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("height", "width"), [(128, 128), (70, 131)])
@pytest.mark.parametrize("level", ["moderate", "train", "gfpgan"])
def test_within_two_levels_without_jpeg(level: str, height: int, width: int, device: str) -> None:
    pictures = batch(12, height, width)
    drawn, noise = draws(level, pictures)
    made = arrays(degrade(tensor(pictures, device), drawn, jpeg=None, noise=noise))
    for ours, image, one, unit in zip(made, pictures, drawn, noise, strict=True):
        difference = np.abs(ours.astype(int) - without_jpeg(image, one, unit).astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_through_a_real_codec(device: str) -> None:
    pictures = batch(12, 128, 128)
    drawn, noise = draws("train", pictures)
    made = arrays(
        degrade(tensor(pictures, device), drawn, jpeg=operators.through_jpeg, noise=noise)
    )  # one level before the codec can be several after it, on a block
    for ours, image, one, unit in zip(made, pictures, drawn, noise, strict=True):
        whole = operators.apply(image, one, unit)
        assert np.abs(ours.astype(int) - whole.astype(int)).mean() < 0.1
        assert np.abs(ours.astype(int) - without_jpeg(image, one, unit).astype(int)).mean() > 0.3


def test_the_blur_at_every_border_and_size() -> None:
    for height, width in [(41, 60), (5, 33), (1, 1)]:
        pictures = batch(3, height, width)
        drawn, _ = draws("train", pictures)
        kernels = np.stack([operators.kernel_of(one) for one in drawn])
        ours = blur(tensor(pictures, "cpu"), torch.from_numpy(kernels).float())
        for number, image in enumerate(pictures):
            wanted = operators.blur(image / 255.0, kernels[number]).transpose(2, 0, 1)
            np.testing.assert_allclose(ours[number].numpy(), wanted, rtol=0, atol=1e-5)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    pictures = batch(6, 64, 64)
    drawn, noise = draws("train", pictures)
    together = degrade(tensor(pictures, "cpu"), drawn, jpeg=None, noise=noise)
    for number in range(6):
        part = slice(number, number + 1)
        alone = degrade(tensor(pictures[part], "cpu"), drawn[part], jpeg=None, noise=noise[part])
        assert (together[part] - alone).abs().mul(255).max() < 1.5
        assert (together[part] != alone).float().mean() < 0.01


def test_noise_of_the_device_follows_its_generator_and_strength() -> None:
    grey = torch.full((2, 3, 64, 64), 0.4)
    drawn = [
        Degradation(kernel="iso", sigma_x=1, sigma_y=1, theta=0, scale=1, noise=noise, quality=90)
        for noise in (0, 12)
    ]
    first, again, other = (
        degrade(grey, drawn, jpeg=None, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first[0].min() == first[0].max() and 11 < first[1].std() * 255 < 13
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the numbers stay float32
        low = degrade(grey, drawn, jpeg=None, generator=torch.Generator().manual_seed(1))
    assert torch.equal(low, first)


def test_a_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="batch x 3"):
        degrade(torch.zeros(2, 3, 8, 8), [], jpeg=None)
