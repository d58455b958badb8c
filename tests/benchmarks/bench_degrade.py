"""ffhqref degrade against the published per-image procedure, and against reading and writing alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from ffhqref.core import images
from ffhqref.degrade import draws, operators, stage
from ffhqref.degrade.levels import Level, load_level

COUNT = 160  # pictures of each kind of kernel
FILES = 24  # pictures end to end


def published(image: images.Rgb, level: Level, kind: str | None = None) -> images.Rgb:
    """The published procedure as it is described: float64, a 41 x 41 filter2D, global generators."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) / 255.0
    kind = kind or random.choices(["iso", "aniso"], [0.5, 0.5])[0]
    sigma_x = np.random.uniform(*level.sigma)
    sigma_y, theta = sigma_x, 0.0
    if kind == "aniso":
        sigma_y, theta = np.random.uniform(*level.sigma), np.random.uniform(-np.pi, np.pi)
    bgr = cv2.filter2D(bgr, -1, published_kernel(sigma_x, sigma_y, theta))
    height, width = image.shape[:2]
    scale = np.random.uniform(*level.scale)
    size = (int(width // scale), int(height // scale))
    bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
    noise = np.random.uniform(*level.noise)
    np.random.uniform()
    bgr = np.clip(bgr + np.float32(np.random.randn(*bgr.shape)) * noise / 255.0, 0, 1)
    flags = [cv2.IMWRITE_JPEG_QUALITY, int(np.random.uniform(*level.quality))]
    _, data = cv2.imencode(".jpg", np.round(bgr * 255.0).astype(np.uint8), flags)
    bgr = np.float32(cv2.imdecode(data, cv2.IMREAD_COLOR)) / 255.0
    rgb = cv2.cvtColor(cv2.resize(bgr, (width, height), interpolation=cv2.INTER_LINEAR), cv2.COLOR_BGR2RGB)
    return np.clip((rgb * 255.0).round(), 0, 255).astype(np.uint8)


def published_kernel(sigma_x: float, sigma_y: float, theta: float) -> np.ndarray:
    steps = np.arange(-20.0, 21.0)
    grid = np.stack(np.meshgrid(steps, steps), axis=-1)
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    inverse = np.linalg.inv(turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T)
    kernel = np.exp(-0.5 * np.sum((grid @ inverse) * grid, axis=2))
    return kernel / kernel.sum()


@contextmanager
def one_core() -> Iterator[None]:
    """Everything on one core, with one thread in OpenCV and BLAS."""
    cores, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, {min(cores)})
    cv2.setNumThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        os.sched_setaffinity(0, cores)
        cv2.setNumThreads(threads)


def face(side: int, seed: int = 0) -> images.Rgb:
    """A picture with large shapes, edges and grain, about as hard to encode as a photograph."""
    rng = np.random.default_rng(seed)
    patches = rng.uniform(30, 225, (6, 6, 3)).astype(np.float32)
    large = cv2.resize(patches, (side, side), interpolation=cv2.INTER_CUBIC)
    for _ in range(40):
        x, y, radius = rng.integers(0, side, 3).tolist()
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.ellipse(
            large, (x, y), (radius // 6 + 1, radius // 9 + 1), radius, 0, 360, colour, -1, cv2.LINE_AA
        )
    return np.clip(large + rng.normal(0, 2.5, large.shape), 0, 255).astype(np.uint8)


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def check_same(image: images.Rgb, level: Level) -> None:
    """The baseline is no straw man: it makes the very bytes that ours makes."""
    random.seed(operators.PUBLISHED_SEED)
    np.random.seed(operators.PUBLISHED_SEED)
    for _, step in zip(range(20), operators.replay(level, *image.shape[:2]), strict=False):
        ours = operators.apply(image, step.degradation, step.noise())
        np.testing.assert_array_equal(published(image, level), ours)


def rate(who: str, kind: str) -> float:
    """Pictures per second of one core's time, in this process alone."""
    level, image = load_level("train"), face(512)
    if who == "ours":
        sampled = (operators.draw_degradation(level, 0, str(number)) for number in range(10 * COUNT))
        drawn = [one for one in sampled if one.kernel == kind][:COUNT]
        works: list[Callable[[], object]] = [partial(operators.apply, image, one) for one in drawn]
    else:
        np.random.seed(0)
        works = [partial(published, image, level, kind)] * COUNT
    with one_core():
        for work in works[:8]:
            work()
        start = time.process_time()
        for work in works:
            work()
        return len(works) / (time.process_time() - start)


def in_memory(kind: str) -> tuple[float, float]:
    """Ours and the published procedure, each in a process of its own: what one leaves in the allocator
    would change the other's time."""
    rates = []
    for who in ("ours", "theirs"):
        command = [sys.executable, __file__, who, kind]
        rates.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return rates[0], rates[1]


def end_to_end(level: Level, folder: Path) -> tuple[float, float]:
    """ms a picture from a 1024 PNG to a 512 PNG: all of it, and decode, resize, encode, write alone."""
    for number in range(FILES):
        images.write(folder / "photos" / f"{number:05d}.png", face(1024, number))
    paths = sorted((folder / "photos").iterdir())

    def alone() -> None:
        for path in paths:
            with Image.open(path) as file:
                clean = np.asarray(file.convert("RGB").resize((512, 512), Image.Resampling.BICUBIC))
            cv2.imwrite(str(folder / "clean.png"), clean[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])

    def ours(out: str) -> None:
        stage.degrade_folder(level, folder / "photos", folder / out, options=draws.DegradeOptions(workers=1))

    alone()  # warms the files
    cpu = time.process_time  # other work on the machine changes it less than the clock on the wall
    rounds = [
        (seconds(lambda number=number: ours(f"lq-{number}"), cpu), seconds(alone, cpu)) for number in range(3)
    ]
    return tuple(min(times) / FILES * 1e3 for times in zip(*rounds, strict=True))  # type: ignore[return-value]


def by_workers(level: Level, folder: Path) -> tuple[float, float]:
    """Pictures a second with a worker on every core, and with one."""
    rates = []
    for workers in (len(os.sched_getaffinity(0)), 1):
        options = draws.DegradeOptions(workers=workers, seed=workers)
        out = folder / f"workers-{workers}"
        rates.append(
            FILES
            / seconds(lambda o=out, p=options: stage.degrade_folder(level, folder / "photos", o, options=p))
        )
    return rates[0], rates[1]


def run() -> list[dict[str, Any]]:
    level, image = load_level("train"), face(512)
    rows = []

    def add(name: str, ours: float, theirs: float, unit: str, note: str, ratio: float | None = None) -> None:
        values = {
            "ours": round(ours, 1),
            "theirs": round(theirs, 1),
            "ratio": round(ratio or ours / theirs, 2),
        }
        rows.append({"name": name, **values, "unit": unit, "note": note})

    with one_core(), tempfile.TemporaryDirectory() as folder:
        check_same(image, level)
        rates = {}
        for kind, word in [("iso", "isotropic"), ("aniso", "anisotropic")]:
            rates[kind] = in_memory(kind)
            note = "512x512 in memory, level train; both make the same bytes"
            add(f"degrade, {word} kernels", *rates[kind], "images/s of a core", note)
        both = [2 / sum(1 / rates[kind][who] for kind in rates) for who in (0, 1)]
        add("degrade, as drawn (half and half)", both[0], both[1], "images/s of a core", "from the two above")
        ours, alone = end_to_end(level, Path(folder))
        note = "1024 PNG to 512 PNG, one core; theirs: decode, bicubic resize, encode, write, nothing else"
        add("degrade from file to file", ours, alone, "CPU ms/image", note)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(FILES):
            images.write(Path(folder) / "photos" / f"{number:05d}.png", face(1024, number))
        cores = len(os.sched_getaffinity(0))
        note = f"file to file; ours: {cores} workers on {cores} cores, theirs: ours with 1 worker"
        add("degrade with a worker a core", *by_workers(level, Path(folder)), "images/s", note)
    return rows


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(rate(*sys.argv[1:]))
    else:
        for row in run():
            print(row)
