"""`ffhqref doctor`: what is found, and that the command after the arrow is the one that fixes it."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ffhqref import doctor
from ffhqref.cli import app
from ffhqref.core.recipe import Weights, known_weights
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile, load_source
from ffhqref.download.stage import DownloadOptions, download
from tests.download.servers import Doc, Server

CPU, GPU = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
H200 = ["NVIDIA H200, 143771 MiB"]


def installed(**versions: str) -> Callable[[str], str]:
    return lambda name: versions.get(name.replace("-", "_"), "")


@pytest.mark.parametrize(
    ("versions", "providers", "gpus", "verdict", "words", "fix"),
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
    versions: dict[str, str], providers: list[str], gpus: list[str], verdict: str, words: str, fix: str
) -> None:
    line = doctor.runtime(installed(**versions), providers, gpus)
    assert line.verdict == verdict
    assert words in line.finding
    assert fix in line.fix and bool(line.fix) == bool(fix)


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
    assert doctor._run_python("import os; os.abort()") is None
    assert doctor._run_python("print(1)") == "1"


def test_packages_against_what_is_declared() -> None:
    lines = {line.what: line for line in doctor.packages(lambda name: "0.1" if name == "numpy" else "")}
    assert lines["numpy"].verdict == "wrong" and 'pip install "numpy>=' in lines["numpy"].fix
    assert lines["requests"].verdict == "missing"
    assert "torch" not in lines and "pytest" not in lines  # of the extras
    assert all(line.verdict == "ok" for line in doctor.packages(doctor._installed_version))


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


def runs(line: str) -> None:
    """A command as a shell takes it: our own parse, and of others the program is what it should be."""
    group: Any = typer.main.get_command(app)
    assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    for command in re.split(r" && | \| ", line):
        program, *words = shlex.split(command)
        assert program in ("ffhqref", "pip", "mv", "du", "sort", "uv"), line
        if program == "ffhqref":
            group.commands[words[0]].make_context(words[0], words[1:])
            if words[0] == "download" and words[1:]:
                assert ("--accept-terms" in words) == bool(load_source(words[1]).terms)


def test_what_fixes_a_network_runs_as_printed(tmp_path: Path) -> None:
    folder = tmp_path / "my networks; it's"
    folder.mkdir()
    for network in known_weights():
        lines = list(doctor.networks([folder], [network]))
        (folder / network.file).write_bytes(b"another")
        lines += doctor.networks([folder], [network])
        for line in lines:
            assert (line.verdict == "ok") != bool(line.fix)
            if line.fix:
                runs(line.fix)
    unoffered = [network for network in known_weights() if not network.download]
    moves = list(doctor.networks([folder], unoffered))
    assert moves and all(line.verdict == "wrong" for line in moves)
    for line in moves:
        assert subprocess.run(["bash", "-c", line.fix]).returncode == 0
    assert list(doctor.networks([folder], unoffered)) == []


def test_what_fixes_a_machine_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = installed(onnxruntime="1.30", onnxruntime_gpu="1.30", faiss_cpu="1.1", faiss_gpu="1.1")
    lines = [
        doctor.runtime(version, providers, gpus)
        for version in (both, installed(onnxruntime="1.30"), installed(onnxruntime_gpu="1.30"), installed())
        for providers in ([], CPU, GPU)
        for gpus in ([], H200)
    ]
    lines += [doctor.index(version, None, gpus) for version in (both, installed()) for gpus in ([], H200)]
    lines += [
        doctor.torch("", None, []),
        doctor.torch("2", None, []),
        doctor.torch("2", ("2", "", False), H200),
    ]
    lines += doctor.packages(lambda name: "")
    lines += doctor.downloaded([tmp_path / "it's"])
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1e18)
    lines.append(doctor._space(tmp_path / "a b"))
    fixes = {line.fix for line in lines if line.verdict != "ok"}
    assert len(fixes) > 15
    for fix in fixes:
        runs(fix)
    assert "torch>=" in doctor.torch("", None, []).fix and "ffhqref" not in doctor.torch("", None, []).fix


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
    runs(line.fix)
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
    (following,) = re.findall("Next: (.*)", result.output)
    runs(following)
    failed = CliRunner().invoke(app, ["doctor"])
    assert failed.exit_code == 1 and "1 wrong: run the commands" in failed.output


def test_a_dataset_is_held_against_the_removal_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its photographs were downloaded from a source; one of them is on the source's list now."""
    from ffhqref.download.ledger import Entry, Ledger
    from tests.synthetic import people, write_embedded

    vectors, _ = people([3])
    images = write_embedded(tmp_path / "mine", ["00001.png", "00002.png", "00003.png"], vectors)
    found = list(doctor.removals(tmp_path / "mine"))
    assert [(one.verdict, "no removal list" in one.finding) for one in found] == [("ok", True)]
    ledger = Ledger(images)
    ledger.add(Entry(path="list.json", bytes=1, mtime_ns=0, sha256="", md5="", origin=""))
    ledger.close()
    files = (SourceFile(path="list.json"),)
    for removed, verdict in (("00002", "wrong"), ("00009", "ok")):
        source = Source(name="faces", exclude=(removed,), exclude_date="2026-11-27", title="", files=files)
        monkeypatch.setattr(doctor, "sources", lambda: ["faces"])
        monkeypatch.setattr(doctor, "load_source", lambda name, source=source: source)
        (one,) = doctor.removals(tmp_path / "mine")
        assert one.verdict == verdict and "of 3 photos are on the removal list of 2026-11-27" in one.finding
        assert one.fix == (f"ffhqref forget {tmp_path}/mine 00002.png" if verdict == "wrong" else "")
