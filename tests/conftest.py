"""What every test may use: the shared real photographs and networks, skipped where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parent.parent.parent / "shared"


def _needed(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path.name} of ../shared is not on this machine")
    return path


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
