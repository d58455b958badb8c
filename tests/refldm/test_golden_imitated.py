"""The golden tests with another set of cases: other sizes, pictures that are not square, other numbers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.golden_cases import GOLDEN, SPEC
from tests.refldm import imitated_golden as imitated
from tests.refldm.published_names import key_table, stage_shapes, unet_shapes

TESTS = Path(__file__).parent.parent
MODULES = [
    "refldm/test_golden.py",
    "refldm/test_train_golden.py",
    "degrade/test_golden.py",
    "restore/test_restore.py",
]
LEAST = 140  # tests of these modules that run with the set


def test_names_and_shapes_are_the_published_ones() -> None:
    """Those of the maker, on the published cases and in full size."""
    config = json.loads((GOLDEN / "config.json").read_text())["model"]
    stage, unet = (config[f"{name}_config"]["params"] for name in ("first_stage", "unet"))
    published = (GOLDEN / "refldm_tiny_keys.txt").read_text()
    buffers = [line.split("\t")[0] for line in published.splitlines()[:12]]
    first = stage_shapes(stage["ddconfig"], stage["n_embed"])
    assert key_table(unet_shapes(unet), first, buffers) == published
    rows = (SPEC / "refldm_state_dict.tsv").read_text().splitlines()[1:]
    size = {"in_channels": 16, "out_channels": 8, "model_channels": 160, "channel_mult": [1, 2, 2, 4],
            "attention_resolutions": [2, 4, 8], "num_res_blocks": 2}  # fmt: skip
    first = stage_shapes({"ch": 128, "ch_mult": [1, 1, 2, 4], "num_res_blocks": 2, "z_channels": 8}, 8192)
    assert key_table(unet_shapes(size), first, buffers).splitlines() == rows


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imitated")
    imitated.make(folder)
    return folder


@pytest.mark.slow
def test_the_set_has_the_published_structure(cases: Path) -> None:
    """Every file and array of the published cases, but for what counts and settings name otherwise."""

    def general(name: str) -> str:
        return re.sub(r"(?<=[A-Za-z_])\d+(\.\d+)?", "N", name)

    def arrays(folder: Path) -> set[str]:
        found = set()
        for path in folder.glob("*.npz"):
            with np.load(path) as file:
                found |= {general(f"{path.stem} {name}") for name in file.files}
        return found

    assert arrays(GOLDEN) == arrays(cases)
    published = {path.name for path in GOLDEN.iterdir() if path.suffix not in ("", ".md", ".npz")}
    assert published == {path.name for path in cases.iterdir() if path.suffix != ".npz"}


@pytest.mark.slow
def test_no_code_is_in_doubt(cases: Path) -> None:
    for name in ("vqgan", "pipeline", "train_loss"):
        with np.load(cases / f"{name}.npz") as file:
            (margin,) = (file[key] for key in file.files if key.endswith("index_margin"))
        assert margin.min() > 1e-3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_golden_tests_pass_with_it(cases: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *(str(TESTS / m) for m in MODULES),
    ]
    done = subprocess.run(
        command, cwd=TESTS.parent, capture_output=True, text=True,
        env={**os.environ, "FFHQREF_GOLDEN": str(cases), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= LEAST, done.stdout[-1000:]
