"""The degradation against arrays computed by the published code, stage by stage and whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffhqref.degrade import operators
from ffhqref.degrade.levels import load_level
from ffhqref.degrade.operators import Degradation
from tests.degrade import plain
from tests.golden_cases import CASES

KINDS = ("iso", "aniso")
FLOAT = 1e-5  # tolerance of stages stored as float32


def archives(pattern: str) -> list[Path]:
    return sorted(CASES.glob(pattern))


def stages() -> Iterator[Any]:
    for path in archives("degrade_*.npz"):
        if not path.stem.startswith("degrade_random"):
            with np.load(path) as file:
                names = [name.removesuffix("_params") for name in file.files if name.endswith("_params")]
            for name in names:
                yield pytest.param(path, name, id=f"{path.stem}-{name}")


def whole() -> Iterator[Any]:
    for path in archives("degrade_random_*.npz"):
        with np.load(path) as file:
            names = [name.removesuffix("_seed") for name in file.files if name.endswith("_seed")]
        for name in names:
            yield pytest.param(path, name, id=f"{path.stem}-{name}")


class Stage:
    """One setting of a degrade_*.npz file, with its kernel's parameters."""

    def __init__(self, path: Path, name: str) -> None:
        with np.load(path) as file:
            self.image = file["image_u8"]
            prefix = f"{name}_"
            self.arrays = {
                key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)
            }
        with np.load(CASES / "blur_kernels.npz") as file:
            number, self.scale, self.noise, quality = self.arrays["params"].tolist()
            kind, *numbers = file["params"][int(number)].tolist()
        self.quality = int(quality)
        sigma_x, sigma_y, theta = numbers if kind else (numbers[0], numbers[0], 0.0)
        self.drawn = Degradation(
            kernel=KINDS[int(kind)], sigma_x=sigma_x, sigma_y=sigma_y, theta=theta, scale=self.scale,
            noise=self.noise, quality=self.quality,
        )  # fmt: skip

    def has(self, key: str) -> bool:
        return key in self.arrays and self.arrays[key].size > 0

    def cut(self, array: np.ndarray, key: str) -> np.ndarray:
        """The part of a full-size array that the file stores."""
        stored = self.arrays[key]
        if stored.shape == array.shape:
            return array
        if key.startswith("down"):
            return array[: stored.shape[0], : stored.shape[1]]
        return array[200:264, 150:214]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Stage:
    return Stage(*request.param)


def each_stage(*needed: str) -> Any:
    """Every setting that stores these arrays; so none is passed over without being seen."""
    found = []
    for param in stages():
        if all(Stage(*param.values).has(key) for key in needed):
            found.append(param.values)
    ids = [f"{path.stem}-{name}" for path, name in found]
    return pytest.mark.parametrize("stage", found, indirect=True, ids=ids)


def test_the_folder_holds_cases() -> None:
    assert list(stages()) and list(whole())


def kernels() -> list[int]:
    path = CASES / "blur_kernels.npz"
    if not path.is_file():
        return []
    with np.load(path) as file:
        return list(range(len(file["params"])))


@pytest.mark.parametrize("number", kernels())
def test_kernels(number: int) -> None:
    with np.load(CASES / "blur_kernels.npz") as file:
        wanted, (kind, sigma_x, sigma_y, theta) = file[f"kernel_{number}"], file["params"][number]
    ours = operators.gaussian_kernel(sigma_x, sigma_y if kind else sigma_x, theta if kind else 0, len(wanted))
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-10)


def test_a_small_kernel() -> None:
    with np.load(CASES / "blur_kernels.npz") as file:
        small = [name for name in file.files if name.startswith("kernel_small")]
        assert small
        _, sigma_x, sigma_y, theta = file["params"][3]
        for name in small:
            ours = operators.gaussian_kernel(sigma_x, sigma_y, theta, size=int(name.rpartition("_")[2]))
            np.testing.assert_allclose(ours, file[name], rtol=0, atol=1e-10)


@each_stage("blur_bgr")
def test_blur(stage: Stage) -> None:
    image = plain.to_bgr(stage.image)
    blurred = plain.blur(image, operators.kernel_of(stage.drawn))
    stats = [blurred.mean(), blurred.std(), blurred[0, 0, 0], blurred[-1, -1, 2], blurred[0, -1, 1]]
    np.testing.assert_allclose(stats, stage.arrays["blur_stats"], rtol=0, atol=1e-10)
    np.testing.assert_allclose(stage.cut(blurred, "blur_bgr"), stage.arrays["blur_bgr"], rtol=0, atol=FLOAT)


@each_stage("down_bgr")
def test_downscale_and_its_short_cut(stage: Stage) -> None:
    blurred = plain.blur(plain.to_bgr(stage.image), operators.kernel_of(stage.drawn))
    whole = plain.downscale(blurred, stage.scale)
    short = plain.ours(stage.image, stage.drawn)
    for ours in (whole, short):
        assert ours.shape == tuple(stage.arrays["down_shape"])
        np.testing.assert_allclose(stage.cut(ours, "down_bgr"), stage.arrays["down_bgr"], rtol=0, atol=FLOAT)
    np.testing.assert_allclose(short, whole, rtol=0, atol=1e-9)


@each_stage("noisy_bgr")
def test_noise(stage: Stage) -> None:
    small = stage.arrays["down_bgr"].astype(np.float64)
    ours = operators.add_noise(small, stage.noise, stage.arrays["noise_unit"])
    np.testing.assert_allclose(ours, stage.arrays["noisy_bgr"], rtol=0, atol=FLOAT)


@each_stage("jpeg_u8_bgr")
def test_jpeg(stage: Stage) -> None:
    ours = plain.jpeg(stage.arrays["noisy_bgr"].astype(np.float64), stage.quality)
    close(ours, stage.arrays["jpeg_u8_bgr"])


@each_stage("jpeg_u8_bgr", "final_u8_rgb")
def test_upscale(stage: Stage) -> None:
    large = operators.upscale(stage.arrays["jpeg_u8_bgr"], *stage.image.shape[:2])
    close(stage.cut(large, "final_u8_rgb"), stage.arrays["final_u8_rgb"])
    assert large.mean() == pytest.approx(float(stage.arrays["final_mean"]), abs=0.1)


@each_stage("noise_unit", "final_u8_rgb")
def test_all_stages_together(stage: Stage) -> None:
    low = operators.apply(stage.image, stage.drawn, stage.arrays["noise_unit"])
    close(stage.cut(low, "final_u8_rgb"), stage.arrays["final_u8_rgb"])


@pytest.mark.parametrize(("path", "name"), list(whole()))
def test_the_published_order_of_draws(path: Path, name: str) -> None:
    with np.load(path) as file:
        image, seed = file["image_u8"], int(file[f"{name}_seed"])
        kind, numbers = str(file[f"{name}_kind"]), file[f"{name}_params"]
        unit, low = file[f"{name}_noise_unit"], file[f"{name}_lq_u8"]
    step = next(operators.replay(load_level("train"), *image.shape[:2], seed=seed))
    drawn = step.degradation
    assert drawn.kernel == kind
    ours = [drawn.sigma_x, drawn.sigma_y, drawn.theta, drawn.scale, drawn.noise]
    assert ours == numbers[:5].tolist()
    assert drawn.quality == int(numbers[5])
    np.testing.assert_array_equal(step.noise(), unit)
    close(operators.apply(image, drawn, step.noise()), low)


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Within 2 levels, 0.1 on average: what another JPEG library or OpenCV may change."""
    difference = np.abs(ours.astype(int) - theirs.astype(int))
    assert difference.max() <= 2
    assert difference.mean() <= 0.1
