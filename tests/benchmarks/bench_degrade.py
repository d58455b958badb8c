"""ffhqref degrade against the published per-image procedure, and against reading and writing alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from threadpoolctl import threadpool_limits

from ffhqref.core import images
from ffhqref.degrade import draws, operators, stage
from ffhqref.degrade.levels import Level, load_level
from tests.benchmarks.common import PAIRS, Row, child, interleave, seconds

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


def check_same(image: images.Rgb, level: Level) -> None:
    """The baseline is no straw man: it makes the very bytes that ours makes."""
    random.seed(operators.PUBLISHED_SEED)
    np.random.seed(operators.PUBLISHED_SEED)
    for _, step in zip(range(20), operators.replay(level, *image.shape[:2]), strict=False):
        ours = operators.apply(image, step.degradation, step.noise())
        np.testing.assert_array_equal(published(image, level), ours)


def cost(who: str, kind: str) -> float:
    """Seconds of one core a picture, in this process alone."""
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
        return seconds(lambda: [work() for work in works], time.process_time) / len(works)


def in_memory(pairs: int) -> Iterator[Row]:
    """Ours and the published procedure, each in a process of its own: what one leaves in the allocator
    would change the other's time."""
    runs = {}
    unit, note = "images/s of a core", "512x512 in memory, level train; both make the same bytes"
    for kind, word in [("iso", "isotropic"), ("aniso", "anisotropic")]:
        ways = {
            who: partial(child, "tests.benchmarks.bench_degrade", who, kind) for who in ("ours", "theirs")
        }
        with one_core():
            made = interleave(pairs, **ways)
        runs[kind] = {who: made.costs(who, lambda run: run["seconds"]) for who in ways}
        yield made.row(
            f"degrade, {word} kernels", runs[kind]["ours"], runs[kind]["theirs"], unit, note, reciprocal
        )
    both = [
        [(one + other) / 2 for one, other in zip(runs["iso"][who], runs["aniso"][who], strict=True)]
        for who in ("ours", "theirs")
    ]
    yield made.row("degrade, as drawn (half and half)", *both, unit, "from the two above", reciprocal)


def reciprocal(cost: float) -> float:
    return 1 / cost


def end_to_end(level: Level, folder: Path, pairs: int) -> Row:
    """From a 1024 PNG to a 512 PNG: all of it, and decode, resize, encode, write alone."""
    paths = sorted((folder / "photos").iterdir())

    def alone() -> None:
        for path in paths:
            with Image.open(path) as file:
                clean = np.asarray(file.convert("RGB").resize((512, 512), Image.Resampling.BICUBIC))
            cv2.imwrite(str(folder / "clean.png"), clean[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])

    cpu = time.process_time  # other work on the machine changes it less than the clock on the wall
    with one_core():
        alone()  # warms the files
        times = interleave(
            pairs,
            ours=lambda: degraded(level, folder, 1, cpu),
            theirs=lambda: seconds(alone, cpu),
        )
    ours, theirs = ([cost / FILES * 1e3 for cost in times.made[who]] for who in ("ours", "theirs"))
    note = "1024 PNG to 512 PNG, one core; theirs: decode, bicubic resize, encode, write, nothing else"
    return times.row("degrade from file to file", ours, theirs, "CPU ms/image", note)


def degraded(level: Level, folder: Path, workers: int, clock: Callable[[], float]) -> float:
    """Seconds of `ffhqref degrade` into a folder that goes again."""
    options, out = draws.DegradeOptions(workers=workers), folder / "lq"
    try:
        return seconds(lambda: stage.degrade_folder(level, folder / "photos", out, options=options), clock)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def by_workers(level: Level, folder: Path, pairs: int) -> Row:
    """With a worker on every core, and with one."""
    cores = len(os.sched_getaffinity(0))
    times = interleave(
        pairs,
        ours=lambda: degraded(level, folder, cores, time.perf_counter),
        theirs=lambda: degraded(level, folder, 1, time.perf_counter),
    )
    note = f"file to file; ours: {cores} workers on {cores} cores, theirs: ours with 1 worker"
    name, made = "degrade with a worker a core", times.made
    return times.row(name, made["ours"], made["theirs"], "images/s", note, lambda cost: FILES / cost)


def run(pairs: int = PAIRS) -> Iterator[Row]:
    level = load_level("train")
    with one_core():
        check_same(face(512), level)
    yield from in_memory(pairs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(FILES):
            images.write(folder / "photos" / f"{number:05d}.png", face(1024, number))
        yield end_to_end(level, folder, pairs)
        yield by_workers(level, folder, pairs)


if __name__ == "__main__":
    print(json.dumps({"seconds": cost(*sys.argv[1:])}))
