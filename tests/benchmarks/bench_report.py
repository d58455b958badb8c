"""The report at FFHQ's size: seconds, memory and bytes for 70,000 photographs, some 20,000 of them targets.

Embeddings are planted in FFHQ's proportions, photographs are fifty drawn thumbnails under 70,000 names, and
the labels are the shared ffhq_features.csv.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import write_receipt
from ffhqref.dataset.build import write_recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.embed import wanted_receipt
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from ffhqref.demo.album import album, photographs
from ffhqref.report.page import ReportOptions
from ffhqref.report.write import write_report
from tests.benchmarks.common import FACES, PAIRS, Row, child, interleave, most_memory, needed
from tests.benchmarks.synthetic import planted

PHOTOS, PEOPLE, DRAWN = 70_000, 7_200, 50  # people of two photos or more
SECONDS, GIGABYTES, MEGABYTES = 60, 2, 15  # what the report may take


def build(folder: Path) -> Path:
    """A dataset of planted people over links to drawn thumbnails."""
    images, drawings, out = folder / "photos", folder / "drawn", folder / "made"
    images.mkdir()
    wanted = album(0, 12)[:DRAWN]
    drawings.mkdir()
    list(photographs(drawings, wanted, 1))
    small = []
    for place, file in enumerate(sorted(drawings.iterdir())):
        small.append(folder / f"{place}.png")
        cv2.imwrite(
            str(small[-1]), cv2.resize(cv2.imread(str(file)), (128, 128), interpolation=cv2.INTER_AREA)
        )
    rng = np.random.default_rng(0)
    share = 0.5 ** np.arange(8)
    vectors, _ = planted(PHOTOS, rng.choice(np.arange(2, 10), PEOPLE, p=share / share.sum()), 1)
    names = [f"{number:05d}.png" for number in range(PHOTOS)]
    for number, name in enumerate(names):
        os.link(small[number % len(small)], images / name)
    points = [48.0, 58.0, 80.0, 58.0, 64.0, 78.0, 51.0, 94.0, 77.0, 94.0]
    shard = tables.embeddings_folder(out) / "shard-00000.parquet"
    columns = [
        names, ["ok"] * PHOTOS, [""] * PHOTOS, [128] * PHOTOS, [128] * PHOTOS, names, [1] * PHOTOS,
        [0.9] * PHOTOS, [points] * PHOTOS, list(vectors),
    ]  # fmt: skip
    tables.write_columns(shard, tables.EMBEDDINGS, columns)
    notes = {"images": str(images), "statuses": {"ok": PHOTOS}}
    write_receipt(out, wanted_receipt([], [], {"embedder": "planted"}), [shard], notes)
    recipe = Recipe(name="bench", distance=0.5, val_identities=300, test_identities=150)
    write_recipe(out, recipe)
    for stage in (find_identities, split_identities, write_references):
        stage(out, recipe)
    return out


def measure(out: Path) -> dict[str, float]:
    """Seconds, GB at the peak, MB of the page and targets, in a process of its own."""
    began, worked = time.perf_counter(), time.process_time()
    options = ReportOptions(labels=FACES / "ffhq_features.csv", label_accuracy=0.9)
    path = write_report(out, options=options).path
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    peak = most_memory()
    rows = [
        lists.read_references(out / f"reference_mapping/{split}_references.csv") for split in tables.SPLITS
    ]
    return {
        "seconds": took,
        "cpu": cpu,  # beside the seconds: on a machine that others use too, it says what is ours
        "gigabytes": peak / 1e9,
        "megabytes": path.stat().st_size / 1e6,
        "targets": float(sum(map(len, rows))),
    }


def run(pairs: int = PAIRS) -> Iterator[Row]:
    needed(FACES / "ffhq_features.csv")
    with tempfile.TemporaryDirectory() as folder:
        out = str(build(Path(folder)))
        runs = interleave(pairs, ours=lambda: child("tests.benchmarks.bench_report", out))
    seconds, cpu, gigabytes, megabytes, targets = (
        [run[key] for run in runs.made["ours"]]
        for key in ("seconds", "cpu", "gigabytes", "megabytes", "targets")
    )
    about = f"{PHOTOS:,} photos, {targets[0]:,.0f} targets; may take"
    yield runs.row("report", seconds, None, "s", f"{about} {SECONDS} s; CPU {median(cpu):.1f} s")
    yield runs.row("report, memory", gigabytes, None, "GB", f"{about} {GIGABYTES} GB")
    yield runs.row("report, size", megabytes, None, "MB", f"{about} {MEGABYTES} MB")


if __name__ == "__main__":
    np.seterr(all="raise")
    print(json.dumps(measure(Path(sys.argv[1]))))
