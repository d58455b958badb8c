"""A small built dataset of random pictures, with everything that exports read, and no network."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core import images, lists, tables
from ffhqref.core.store import write_text
from tests.synthetic import unit, write_embedded

SIDE = 64
PEOPLE: dict[str, list[list[str]]] = {
    "train": [
        ["00000.png", "00001.png", "00002.png", "deep/c.jpg"],
        ["00010.png", "00011.png"],
        ["alone.png"],
    ],
    "val": [["00020.png", "00021.png"]],
    "test": [["00030.png", "00031.png", "00032.png"], ["00040.png", "00041.png"]],
}


def draw(path: Path, seed: int, width: int = SIDE, height: int = SIDE) -> None:
    small = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    images.write(path, images.resize(small, width, height))


def write_dataset(place: Path, people: Mapping[str, Sequence[Sequence[str]]] = PEOPLE) -> Path:
    """`place`/mine and `place`/photos: everyone of a person is a reference of everyone else."""
    out = place / "mine"
    names = [name for groups in people.values() for group in groups for name in group]
    vectors = unit(np.random.default_rng(1).standard_normal((len(names), 32)))
    photos = write_embedded(out, names, vectors)
    for number, name in enumerate(names):
        draw(photos / name, number)
    owner, rows = {}, []
    for split, groups in people.items():
        owner |= {name: (group[0], split) for group in groups for name in group}
        mapping = [(name, [o for o in group if o != name]) for group in groups for name in group]
        mapping = sorted(row for row in mapping if row[1])
        text = lists.reference_csv(mapping, with_lq=split != "train")
        write_text(out / "reference_mapping" / f"{split}_references.csv", text)
        write_text(
            out / "id_based_ffhq_split" / f"{split}_image.txt",
            "".join(f"{n}\n" for n in sorted(owner) if owner[n][1] == split),
        )
        if split != "train":
            for number, (name, _) in enumerate(mapping):
                draw(out / f"{split}_images" / "severe_degrad" / images.png_name(name), 100 + number)
    rows = [(name, *owner[name]) for name in sorted(owner)]
    tables.write_rows(tables.path_of(out, "splits"), tables.SPLIT_TABLE, rows)
    return out


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files, each flushed to the disk, would be most of the time here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture(scope="session")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mine/ and photos/, not to be written to."""
    place = tmp_path_factory.mktemp("handed")
    write_dataset(place)
    return place


@pytest.fixture
def own(handed: Path, tmp_path: Path) -> Path:
    """The same, to be spoiled."""
    return Path(shutil.copytree(handed, tmp_path / "own"))


@pytest.fixture(scope="session")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FFHQ's JSON with 68 points of every numbered image but 00032."""
    entries = {}
    for stem in (
        "00000",
        "00001",
        "00002",
        "00010",
        "00011",
        "00020",
        "00021",
        "00030",
        "00031",
        "00040",
        "00041",
    ):
        points = np.random.default_rng(int(stem)).uniform(0, 1024, (68, 2)).round(2)
        entries[str(int(stem))] = {"image": {"face_landmarks": points.tolist()}}
    path = tmp_path_factory.mktemp("metadata") / "ffhq-dataset-v2.json"
    path.write_text(json.dumps(entries))
    return path


def photos_of(split: str) -> list[str]:
    return [name for group in PEOPLE[split] for name in group]


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file but the lock, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".ffhqref.lock"
    }
