"""The wheel works outside the checkout and brings what it needs: manifests and types, no pictures."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_an_installed_wheel_finds_its_manifests(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.stat().st_size < 10_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "ffhqref/py.typed" in names
    assert [name for name in names if name.endswith((".jpg", ".jpeg", ".png", ".webp", ".gif"))] == []
    for manifest in (ROOT / "manifests").rglob("*.toml"):
        assert f"ffhqref/manifests/{manifest.relative_to(ROOT / 'manifests').as_posix()}" in names
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv/bin/python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = tmp_path / "venv/lib" / version / "site-packages"
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--target", site, wheel], check=True)
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"])  # what it needs is there already
    code = (
        "import ffhqref, ffhqref.core.recipe as r; print(ffhqref.__file__); "
        "print(r.load_recipe('photos').grouping, len(r.known_weights()) > 0)"
    )
    run = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert str(site) in run.stdout.splitlines()[0]
    assert run.stdout.splitlines()[1] == "average True"
    shown = subprocess.run(
        [python, "-m", "ffhqref", "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.stdout.startswith("ffhqref ")
