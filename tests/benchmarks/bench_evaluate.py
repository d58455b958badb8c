"""Results scored a second, from files: beside a plain loop that reads both pictures once a metric."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from ffhqref.core import images
from ffhqref.evaluate.cases import Method, of_folders
from ffhqref.evaluate.run import EvaluateOptions, Evaluation, evaluate
from tests.benchmarks.common import FACES, PAIRS, Row, Skip, interleave, needed, seconds

SIDE = "512"  # px: the pictures of this width and height are used
COPIES = 3  # of each picture, so that a run takes seconds
EMBEDDER = "w600k_mbf_dequant_fp32.onnx"


def lay_out(folder: Path, copies: int) -> list[str]:
    """clean/ and restored/ (a JPEG of quality 30 as PNG) of the shared 512 px pictures; their names."""
    with needed(FACES / "photos.csv").open(newline="") as file:
        photos = [photo for photo in csv.DictReader(file) if photo["width"] == photo["height"] == SIDE]
    names = []
    for number, photo in enumerate(photos):
        clean = images.read(FACES / "photos" / photo["file"])
        for copy in range(copies):
            names.append(f"{copy}-{number:04d}.png")
            images.write(folder / "clean" / names[-1], clean)
            again = images.decode(images.encode(clean, ".jpg", 30 + copy))
            images.write(folder / "restored" / names[-1], again)
    return names


def read(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path).convert("RGB"))


def plain_metrics() -> dict[str, Callable[[Any, Any], float]]:
    """scikit-image's PSNR and SSIM (with pyiqa's settings), and the identity score by ONNX Runtime."""
    try:
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    except ImportError:
        raise Skip("scikit-image is not installed") from None
    session = onnxruntime.InferenceSession(
        str(needed(FACES / "weights" / EMBEDDER)), providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def vector(image: Any) -> Any:
        small = image[32:480, 32:480].astype(np.float32).reshape(112, 4, 112, 4, 3).mean((1, 3))
        found = session.run(None, {name: (small / 127.5 - 1).transpose(2, 0, 1)[None]})[0][0]
        return found / np.linalg.norm(found)

    def luma(image: Any) -> Any:
        return np.rint(image @ np.array([0.299, 0.587, 0.114]))

    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return {
        "ids": lambda one, other: float(vector(one) @ vector(other)),
        "psnr": lambda one, other: float(peak_signal_noise_ratio(other, one)),
        "ssim": lambda one, other: float(structural_similarity(luma(one), luma(other), **settings)),
    }


def run(pairs: int = PAIRS, copies: int = COPIES) -> Iterator[Row]:
    metrics = plain_metrics()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = lay_out(folder, copies)
        found: list[Evaluation] = []
        plain: dict[str, dict[str, float]] = {}

        def ours() -> float:
            shutil.rmtree(folder / "out", ignore_errors=True)
            options = EvaluateOptions(embedder=FACES / "weights" / EMBEDDER, device="cpu")
            cases = of_folders(targets=folder / "clean")
            work = lambda: evaluate(cases, [Method("a", folder / "restored")], folder / "out", options)  # noqa: E731
            return seconds(lambda: found.append(work()))

        def theirs() -> float:
            def loop() -> None:
                for metric, measure in metrics.items():
                    plain[metric] = {n: measure(read(folder / "restored" / n), read(folder / "clean" / n))
                                     for n in names}  # fmt: skip

            return seconds(loop)

        times = interleave(pairs, ours=ours, theirs=theirs)
        worst = {
            metric: max(abs(found[-1].values["a"][metric][n] - values[n]) for n in names)
            for metric, values in plain.items()
        }
    if worst["ids"] > 1e-3 or worst["psnr"] > 1e-2 or worst["ssim"] > 1e-3:
        raise AssertionError(f"the two do not measure the same: {worst}")
    note = (
        f"{len(names)} results and targets of 512 px, IDS, PSNR and SSIM, scores.parquet included; beside "
        "Pillow, scikit-image and ONNX Runtime's default session, both pictures read for each metric"
    )
    name, made = "evaluate, three metrics", times.made
    yield times.row(name, made["ours"], made["theirs"], "pictures/s", note, lambda cost: len(names) / cost)
