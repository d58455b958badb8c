"""What every test may use: the shared real photographs and networks, skipped where they are absent."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffhqref import build_refs, load_recipe
from ffhqref.core.store import digest_file

SHARED = Path(__file__).parent.parent.parent / "shared"


def _needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} of ../shared is not on this machine")
    return path


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread of torch for a module's tests: tiny networks are faster so, and sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def faces_folder() -> Path:
    """The shared folder of real photographs (photos/, photos.csv) and networks (weights/)."""
    return _needed(SHARED / "faces")


@pytest.fixture(scope="session")
def embedder(faces_folder: Path) -> Path:
    return _needed(faces_folder / "weights" / "w600k_mbf_dequant_fp32.onnx")


@pytest.fixture(scope="session")
def detector(faces_folder: Path) -> Path:
    return _needed(faces_folder / "weights" / "scrfd_2.5g_bnkps.onnx")


@dataclass(frozen=True)
class Known:
    """A shared photograph: its file, the person, the detector's landmarks (5 x 2 px)."""

    path: Path
    set: str
    person: str
    landmarks: np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def known(faces_folder: Path) -> list[Known]:
    """Every shared photograph, in the order of photos.csv."""
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


@dataclass(frozen=True)
class Opaque:
    """All shared photographs in one flat folder under names that say nothing; people by name."""

    folder: Path
    people: dict[str, str]
    sources: dict[str, Known]


@pytest.fixture(scope="session")
def opaque(known: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Opaque:
    """The shared photographs under names drawn from their bytes."""
    folder = tmp_path_factory.mktemp("opaque")
    sources = {}
    for photo in known:
        name = digest_file(photo.path)[:16] + photo.path.suffix
        (folder / name).symlink_to(photo.path)
        sources[name] = photo
    return Opaque(folder, {name: photo.person for name, photo in sources.items()}, sources)


@pytest.fixture(scope="session")
def built(opaque: Opaque, detector: Path, embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of all shared photographs by `build-refs --distance 0.6`; copy it before writing to it."""
    out = tmp_path_factory.mktemp("built") / "mine"
    recipe = load_recipe("photos", detector=str(detector), embedder=str(embedder), distance=0.6)
    build_refs(opaque.folder, out, recipe, device="cpu", workers=2, batch_size=16)
    return out


@pytest.fixture(scope="session")
def networks(detector: Path, embedder: Path) -> list[str]:
    return ["--detector", str(detector), "--embedder", str(embedder), "--device", "cpu"]


@pytest.fixture(scope="session")
def sixty(known: list[Known], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 photographs of twelve people, in folders whose names say nothing."""
    folder = tmp_path_factory.mktemp("sixty")
    people: dict[str, list[Known]] = {}
    for photo in known:
        if photo.set == "celebref512":
            people.setdefault(photo.person, []).append(photo)
    for number, photos in enumerate([p for p in people.values() if len(p) >= 5][:12]):
        for photo in photos[:5]:
            place = folder / f"{(number * 7) % 5}" / f"{len(list(folder.rglob('*.png')))}{photo.path.suffix}"
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(photo.path)
    return folder
