"""`ffhqref doctor`: what is found, and that the command after the arrow is the one that fixes it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref import doctor
from ffhqref.cli import app
from ffhqref.core.recipe import Weights
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile
from ffhqref.download.stage import DownloadOptions, download
from tests.download.servers import Doc, Server

CPU, GPU = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
H200 = ["NVIDIA H200, 143771 MiB"]


def installed(**versions: str) -> Callable[[str], str]:
    return lambda name: versions.get(name.replace("-", "_"), "")


@pytest.mark.parametrize(
    ("versions", "providers", "gpus", "verdict", "words", "mend"),
    [
        (dict(onnxruntime="1.30"), CPU, [], "ok", "CPU", ""),
        (dict(onnxruntime_gpu="1.30"), GPU, H200, "ok", "CUDA", ""),
        (dict(onnxruntime="1.30"), CPU, H200, "wrong", "with a GPU here", "install"),
        (dict(onnxruntime_gpu="1.30"), CPU, H200, "wrong", "does not find CUDA", "[cuda,cudnn]"),
        (
            dict(onnxruntime="1.30", onnxruntime_gpu="1.30"),
            GPU,
            H200,
            "wrong",
            "both",
            "onnxruntime-gpu>=1.20",
        ),
        (
            dict(onnxruntime="1.30", onnxruntime_gpu="1.30"),
            CPU,
            [],
            "wrong",
            "both",
            "uninstall -y onnxruntime-gpu",
        ),
        ({}, [], [], "missing", "not installed", "onnxruntime>="),
    ],
)
def test_onnx_runtime(
    versions: dict[str, str], providers: list[str], gpus: list[str], verdict: str, words: str, mend: str
) -> None:
    line = doctor.runtime(installed(**versions), providers, gpus)
    assert line.verdict == verdict
    assert words in line.finding
    assert mend in line.fix and bool(line.fix) == bool(mend)


def test_faiss() -> None:
    assert doctor.index(installed(faiss_cpu="1.11"), 0, []).verdict == "ok"
    both = doctor.index(installed(faiss_cpu="1.11", faiss_gpu="1.14"), 1, H200)
    assert both.verdict == "wrong" and both.fix.endswith("pip install faiss-gpu")
    assert doctor.index(installed(), None, []).verdict == "missing"


def test_torch() -> None:
    assert doctor.torch("", None, H200).verdict == "missing"
    assert doctor.torch("2.8", None, []).verdict == "wrong"
    assert doctor.torch("2.8", ("2.8+cpu", "", False), []).verdict == "ok"
    assert doctor.torch("2.8", ("2.8+cu126", "12.6", True), H200).finding.endswith("NVIDIA H200, 143771 MiB")
    cpu_build = doctor.torch("2.8", ("2.8+cpu", "", False), H200)
    assert cpu_build.verdict == "wrong" and "a CPU build" in cpu_build.finding
    assert "whl/cu126" in cpu_build.fix


def test_a_build_that_crashes_is_reported_and_does_not_take_us_along() -> None:
    assert doctor._ask("import os; os.abort()") is None
    assert doctor._ask("print(1)") == "1"


def test_packages_against_what_is_declared() -> None:
    lines = {line.what: line for line in doctor.packages(lambda name: "0.1" if name == "numpy" else "")}
    assert lines["numpy"].verdict == "wrong" and 'pip install "numpy>=' in lines["numpy"].fix
    assert lines["requests"].verdict == "missing"
    assert "torch" not in lines and "pytest" not in lines  # of the extras
    assert all(line.verdict == "ok" for line in doctor.packages(doctor._version))


def test_networks(tmp_path: Path) -> None:
    right = hashlib.sha256(b"right").hexdigest()
    known = [
        Weights(name="a", kind="embedder", file="a.onnx", sha256=right, download="buffalo_l"),
        Weights(name="b", kind="detector", file="b.onnx", download="buffalo_sc"),
        Weights(name="own", kind="detector", file="own.onnx"),
    ]
    lines = list(doctor.networks([tmp_path / "nowhere", tmp_path], known))
    assert [line.verdict for line in lines] == ["missing", "missing"]
    assert lines[0].fix == "ffhqref download buffalo_l --out weights --accept-terms"
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.onnx").write_bytes(b"wrong")
    (tmp_path / "b.onnx").write_bytes(b"any")
    lines = list(doctor.networks([tmp_path], known))
    assert [line.verdict for line in lines] == ["wrong", "ok"]
    (tmp_path / "a.onnx").write_bytes(b"right")
    assert [line.verdict for line in doctor.networks([tmp_path], known)] == ["ok", "ok"]


@pytest.fixture
def lfw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Server]]:
    """A folder with a small source called lfw in it, as `download` leaves it."""
    with Server() as server:
        server.docs["/pairs.txt"] = Doc(b"10 300\n")
        file = SourceFile(path="pairs.txt", urls=(f"{server.url}/pairs.txt",))
        source = Source(name="lfw", title="lfw", files=(file,))
        monkeypatch.setattr(doctor, "sources", lambda: ["lfw"])
        monkeypatch.setattr(doctor, "load_source", lambda name: source)
        assert download([source], tmp_path, DownloadOptions(manners=Manners())).missing == []
        yield tmp_path, server


def test_downloads(lfw: tuple[Path, Server]) -> None:
    folder, _ = lfw
    (line,) = doctor.downloaded([folder])
    assert line.verdict == "ok" and "1 files as they were verified" in line.finding
    path = folder / "pairs.txt"
    stat = path.stat()
    path.write_bytes(b"10 301\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # only reading it tells
    assert [line.verdict for line in doctor.downloaded([folder])] == ["ok"]
    (line,) = doctor.downloaded([folder], verify=True)
    assert line.verdict == "wrong" and line.fix == f"ffhqref download lfw --out {folder} --verify"
    path.unlink()
    (line,) = doctor.downloaded([folder])
    assert line.verdict == "wrong" and "pairs.txt" in line.finding
    (line,) = doctor.downloaded([folder / "empty"])
    assert line.verdict == "missing"


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "_gpus", lambda: [])
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    lines = result.output.splitlines()
    assert {line.split()[0] for line in lines[:-1]} <= {"ok", "missing", "wrong", "->"}
    for place, line in enumerate(lines[:-1]):
        if line.startswith(("missing", "wrong")):
            assert lines[place + 1].strip().startswith("-> ")
    for what in ("Python:", "ONNX Runtime:", "FAISS:", "PyTorch:", "disk:", "network webface12m-r50:"):
        assert any(what in line for line in lines)
    monkeypatch.setattr(doctor, "_providers", lambda: [])
    monkeypatch.setattr(doctor, "_faiss_gpus", lambda: 0)
    monkeypatch.setattr(doctor, "_torch_state", lambda: ("2.8", "", False))
    monkeypatch.setattr(doctor, "runtime", lambda *_: doctor.Check("wrong", "x", "y", "z"))
    failed = CliRunner().invoke(app, ["doctor"])
    assert failed.exit_code == 1 and "1 wrong: run the commands" in failed.output
