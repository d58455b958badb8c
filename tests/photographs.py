"""Photographs and networks for the tests: drawn people, and the shared real ones where they are.

What takes long is made once in a session and shared by its workers; copy a dataset before writing to it.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from ffhqref import build_refs, load_recipe
from ffhqref.core import tables
from ffhqref.core.images import read as read_image
from ffhqref.demo import EMBEDDER
from ffhqref.demo.album import Wanted, album
from ffhqref.demo.portrait import traits
from ffhqref.demo.portrait.camera import landmarks_of
from ffhqref.demo.portrait.people import Portrait
from ffhqref.demo.run import render_photos
from tests.faces.stand_in import write_detector

SHARED = Path(__file__).parent.parent.parent / "shared"
PEOPLE, SEED = 12, 156  # 60 photographs, from one to eight a person
Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a folder by its name: the first worker that asks makes it, the others wait and take it."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, finished = root / name, root / f"{name}.finished"
        with FileLock(root / f"{name}.lock"):
            if not finished.exists():
                made.mkdir()
                make(made)
                finished.touch()
        return made

    return folder


@dataclass(frozen=True)
class Known:
    """A photograph: its file, the set it is of, the person, and the landmarks (5 x 2 px)."""

    path: Path
    set: str
    person: str
    landmarks: np.ndarray[Any, Any]


# Drawn people


@pytest.fixture(scope="session")
def drawn(once: Once) -> Path:
    """photos/, labels.csv and landmarks.csv of the demo's twelve people; names say nothing of who it is."""
    return once("drawn", lambda out: render_photos(out, people=PEOPLE, seed=SEED))


@pytest.fixture(scope="session")
def known(drawn: Path) -> list[Known]:
    """The drawn photographs, in the order of their names."""
    with (drawn / "labels.csv").open(encoding="utf-8", newline="") as file:
        people = {row["image"]: row["identity"] for row in csv.DictReader(file)}
    with (drawn / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        return [
            Known(drawn / "photos" / row["image"], "drawn", people[row["image"]], _five(row))
            for row in csv.DictReader(file)
        ]


def _five(row: dict[str, str]) -> np.ndarray[Any, Any]:
    return np.array([row[column] for column in tables.LANDMARK_COLUMNS], np.float32).reshape(5, 2)


@pytest.fixture(scope="session")
def portraits(drawn: Path) -> dict[int, list[Portrait]]:
    """The same by the number of the person, with what they were drawn from."""
    found: dict[int, list[Portrait]] = {}
    for wanted in album(SEED, PEOPLE):
        found.setdefault(wanted.number, []).append(_portrait(drawn / "photos", wanted))
    return found


def _portrait(folder: Path, wanted: Wanted) -> Portrait:
    of = wanted.seed, wanted.number, wanted.photo
    return Portrait(
        read_image(folder / wanted.name), landmarks_of(*of), traits.person(*of[:2]), traits.shot(*of)
    )


@pytest.fixture(scope="session")
def embedder() -> Path:
    """The demo's network, which knows drawn people."""
    return EMBEDDER


@pytest.fixture(scope="session")
def detector(once: Once) -> Path:
    """A network that takes a face for granted where drawn people have it."""
    return once("detector", lambda out: write_detector(out / "stand_in.onnx")) / "stand_in.onnx"


@pytest.fixture(scope="session")
def networks(detector: Path, embedder: Path) -> list[str]:
    """Options of a command for both; drawn photographs of one person lie nearer than real ones."""
    return ["--detector", str(detector), "--embedder", str(embedder), "--device", "cpu",
            "--min-distance", "0.02"]  # fmt: skip


@pytest.fixture(scope="session")
def built(drawn: Path, detector: Path, embedder: Path, once: Once) -> Path:
    """A dataset of the drawn people by the recipe `photos`."""
    recipe = load_recipe("photos", detector=str(detector), embedder=str(embedder), min_distance=0.02)
    folder = once("built", lambda out: build_refs(drawn / "photos", out / "mine", recipe, device="cpu",
                                                  workers=2, batch_size=16))  # fmt: skip
    return folder / "mine"


@pytest.fixture(scope="session")
def sixty(known: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty drawn photographs in five folders."""
    folder = tmp_path_factory.mktemp("sixty")
    for number, photo in enumerate(known):
        place = folder / str(number % 5) / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(photo.path)
    return folder


# Real people: only what needs them takes these


def _needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real photographs and networks ({path.name} of ../shared) are not on this machine")
    return path


@pytest.fixture(scope="session")
def faces_folder() -> Path:
    """The shared folder of real photographs (photos/, photos.csv) and networks (weights/)."""
    return _needed(SHARED / "faces")


@pytest.fixture(scope="session")
def real_embedder(faces_folder: Path) -> Path:
    return _needed(faces_folder / "weights" / "w600k_mbf_dequant_fp32.onnx")


@pytest.fixture(scope="session")
def real_detector(faces_folder: Path) -> Path:
    return _needed(faces_folder / "weights" / "scrfd_2.5g_bnkps.onnx")


@pytest.fixture(scope="session")
def photographs(faces_folder: Path) -> list[Known]:
    """Every shared photograph, in the order of photos.csv; landmarks are a real detector's."""
    with (faces_folder / "photos.csv").open(encoding="utf-8", newline="") as file:
        return [
            Known(
                faces_folder / "photos" / row["file"],
                row["set"],
                f"{row['set']}/{row['identity']}",
                np.array(row["landmarks"].split(), np.float32).reshape(5, 2),
            )
            for row in csv.DictReader(file)
        ]
