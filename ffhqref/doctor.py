"""This machine -> what is there, what is missing or wrong, and the command that fixes it."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffhqref.core.recipe import Weights, known_weights
from ffhqref.core.store import below, digest_file, free_space, read_receipt
from ffhqref.download.ledger import LEDGER, Entry, Ledger, known_right, read_entry
from ffhqref.download.selection import Selection
from ffhqref.download.sources import Source, SourceFile, load_source, sources

Verdict = Literal["ok", "missing", "wrong"]

NEEDED_PYTHON = (3, 11)
LITTLE_SPACE = 5e9  # bytes; a set of networks with room to unpack them
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
INDEXES = ("faiss-cpu", "faiss-gpu")
BOTH_BUILDS = "the CPU and the GPU build are both installed and hide each other"
CUDA_PROVIDER = "CUDAExecutionProvider"


@dataclass(frozen=True)
class Check:
    """One thing that was examined; `fix` is the command that makes it ok, empty where it is."""

    verdict: Verdict
    what: str
    finding: str
    fix: str = ""


def examine(folders: Sequence[Path], verify: bool = False) -> Iterator[Check]:
    """Examine this machine and folders that were downloaded to; `verify` reads every file again."""
    yield _python()
    yield from packages(_installed_version)
    gpus = _gpus()
    yield runtime(_installed_version, _providers(), gpus)
    yield index(_installed_version, _faiss_gpus(), gpus)
    yield torch(_installed_version("torch"), _torch_state() if _installed_version("torch") else None, gpus)
    yield _space(folders[0] if folders else Path.cwd())
    models = Path.home() / ".insightface" / "models"
    yield from networks([*folders, models], known_weights())
    datasets = [folder for folder in folders if read_receipt(folder, "embed")]
    yield from downloaded([folder for folder in folders if folder not in datasets], verify)
    for folder in datasets:
        yield from removals(folder)


def _python() -> Check:
    found = platform.python_version()
    if sys.version_info < NEEDED_PYTHON:
        return Check("wrong", "Python", f"{found}; 3.11 or newer is needed", "uv venv --python 3.12")
    return Check("ok", "Python", f"{found} on {platform.system()} {platform.machine()}")


def _installed_version(package: str) -> str:
    """The installed version of a distribution, or empty."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def packages(version: Callable[[str], str]) -> Iterator[Check]:
    """The packages that the installed ffhqref declares, against the versions it declares for them."""
    from packaging.requirements import Requirement

    for text in importlib.metadata.requires("ffhqref") or []:
        needed = Requirement(text)
        of_an_extra = needed.marker and not needed.marker.evaluate({"extra": ""})
        if of_an_extra or needed.name in (*RUNTIMES, *INDEXES):
            continue
        found = version(needed.name)
        fix = f'pip install "{needed.name}{needed.specifier}"'
        if not found:
            yield Check("missing", needed.name, "not installed", fix)
        elif found not in needed.specifier:
            yield Check("wrong", needed.name, f"{found}; {needed.specifier} is needed", fix)
        else:
            yield Check("ok", needed.name, found)


def runtime(version: Callable[[str], str], providers: Sequence[str], gpus: Sequence[str]) -> Check:
    """ONNX Runtime: one build, and with an NVIDIA GPU the one that can use it.

    The CPU and the GPU build share one module: installed together, whichever came last wins, silently.
    """
    found = {name: version(name) for name in RUNTIMES if version(name)}
    what = "ONNX Runtime"
    gpu_build = 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "onnxruntime-gpu>=1.20"'
    if len(found) > 1:
        cpu_build = "pip uninstall -y onnxruntime-gpu && pip install --force-reinstall onnxruntime"
        return Check("wrong", what, BOTH_BUILDS, gpu_build if gpus else cpu_build)
    if not found or not providers:
        return Check("missing", what, "not installed or cannot be loaded", 'pip install "onnxruntime>=1.18"')
    name, number = next(iter(found.items()))
    known = ", ".join(provider.removesuffix("ExecutionProvider") for provider in providers)
    if gpus and CUDA_PROVIDER not in providers:
        if name == "onnxruntime":
            return Check("wrong", what, f"{number}, {known}: the CPU build, with a GPU here", gpu_build)
        finding = f"{name} {number}, {known}: it does not find CUDA and cuDNN"
        return Check("wrong", what, finding, 'pip install "onnxruntime-gpu[cuda,cudnn]"')
    return Check("ok", what, f"{name} {number}: {known}")


def index(version: Callable[[str], str], faiss_gpus: int | None, gpus: Sequence[str]) -> Check:
    """FAISS, with the number of GPUs it can use (None: it cannot be loaded)."""
    found = {name: version(name) for name in INDEXES if version(name)}
    if len(found) > 1:
        fix = f"pip uninstall -y faiss-cpu faiss-gpu && pip install {'faiss-gpu' if gpus else 'faiss-cpu'}"
        return Check("wrong", "FAISS", BOTH_BUILDS, fix)
    if faiss_gpus is None:
        return Check("missing", "FAISS", "not installed or cannot be loaded", 'pip install "faiss-cpu>=1.9"')
    name = ", ".join(f"{one} {number}" for one, number in found.items()) or "a build of its own"
    return Check("ok", "FAISS", f"{name}, {faiss_gpus} GPUs")


def _run_python(program: str) -> str | None:
    """What a small program prints; None where it fails. A broken native build may crash: not here."""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _providers() -> list[str]:
    answer = _run_python("import ffhqref.faces, onnxruntime; print(*onnxruntime.get_available_providers())")
    return answer.split() if answer else []


def _faiss_gpus() -> int | None:
    answer = _run_python("import faiss; print(faiss.get_num_gpus() if hasattr(faiss, 'get_num_gpus') else 0)")
    return int(answer) if answer and answer.isdigit() else None


def _gpus() -> list[str]:
    """The names of NVIDIA's GPUs, as their driver tells them."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    try:
        command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _torch_state() -> tuple[str, str, bool] | None:
    """PyTorch's version, the CUDA it was built for (or empty), and whether that works; None: it fails."""
    program = "import torch; print(torch.__version__, torch.version.cuda or '-', torch.cuda.is_available())"
    words = (_run_python(program) or "").split()
    return (words[0], words[1].strip("-"), words[2] == "True") if len(words) == 3 else None


def torch(version: str, state: tuple[str, str, bool] | None, gpus: Sequence[str]) -> Check:
    """PyTorch, installed in `version` (or empty), as `_torch_state` found it."""
    what = "PyTorch"
    if not version:
        finding = "not installed: only train, restore and some metrics need it"
        return Check("missing", what, finding, f"pip install {_train_packages()}")
    if state is None:
        return Check("wrong", what, f"{version} cannot be loaded", "pip install --force-reinstall torch")
    number, cuda, works = state
    if gpus and not works:
        reason = f"CUDA {cuda} does not start" if cuda else "a CPU build"
        fix = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
        return Check("wrong", what, f"{number}: {reason}, with a GPU here", fix)
    return Check("ok", what, f"{number}: {f'CUDA {cuda}, ' + ', '.join(gpus) if works else 'CPU'}")


def _train_packages() -> str:
    """What the extra `train` asks for, quoted for a shell: the package itself need not be on PyPI."""
    from packaging.requirements import Requirement

    needed = [Requirement(text) for text in importlib.metadata.requires("ffhqref") or []]
    return " ".join(
        shlex.quote(f"{one.name}{one.specifier}")
        for one in needed
        if one.marker and one.marker.evaluate({"extra": "train"}) and not one.marker.evaluate({"extra": ""})
    )


def _space(folder: Path) -> Check:
    free, there = free_space(folder)
    finding = f"{free / 1e9:.1f} GB free at {there}"
    if free < LITTLE_SPACE:
        return Check("wrong", "disk", finding, f"du -h -d 1 {shlex.quote(str(there))} | sort -h")
    return Check("ok", "disk", finding)


def networks(folders: Sequence[Path], known: Sequence[Weights]) -> Iterator[Check]:
    """The networks of weights.toml: right by digest where one is known, by name else."""
    files = [
        path for folder in folders if folder.is_dir() for path in folder.rglob("*.onnx") if path.is_file()
    ]
    for network in known:
        named = [path for path in files if path.name == network.file]
        what = f"network {network.name}"
        if not named and network.download:
            yield Check("missing", what, f"no {network.file}", _fetch(network.download, Path("weights")))
        elif not named:
            continue  # nobody offers it for download
        elif not network.sha256:
            yield Check("ok", what, f"{named[0]} (by its name: nobody published a digest)")
        elif any(digest_file(path) == network.sha256 for path in named):
            yield Check("ok", what, f"{named[0]}")
        else:
            yield Check("wrong", what, f"{named[0]} has another sha256", _replace(named[0], network))


def _replace(file: Path, network: Weights) -> str:
    """The command that puts a file of a network's name aside, and brings the network where that can be."""
    aside = f"mv -- {shlex.quote(str(file))} {shlex.quote(f'{file}.other')}"
    return f"{aside} && {_fetch(network.download, Path('weights'))}" if network.download else aside


def _fetch(name: str, out: Path, verify: bool = False) -> str:
    """The command that downloads a source; its terms are shown, and accepted by running it."""
    terms = " --accept-terms" if load_source(name).terms else ""
    return f"ffhqref download {name} --out {shlex.quote(str(out))}{' --verify' * verify}{terms}"


def downloaded(folders: Sequence[Path], verify: bool = False) -> Iterator[Check]:
    """Every shipped source that some folder holds a file of, and whether its files are there and right."""
    for folder in folders:
        if not (folder / LEDGER).is_file():
            yield Check(
                "missing", f"downloads in {folder}", "nothing was downloaded to it", "ffhqref download"
            )
            continue
        ledger = Ledger(folder)
        for name in sources():
            source = load_source(name)
            paths = [entry.path for entry in ledger.entries() if entry.bytes >= 0]
            origins = {file.path for file in source.files}
            if origins & set(paths) or any(entry.origin in origins for entry in ledger.entries()):
                yield _source(source, folder, ledger, verify)


def _belongs(entry: Entry, own: Mapping[str, SourceFile], folder: Path) -> bool:
    """Whether a file of the ledger is of the source: an archive may go once it is unpacked."""
    file = own.get(entry.path)
    if file is None:
        return entry.origin in own
    return not file.unpack or below(folder, entry.path).exists()


def _is_right(file: SourceFile, entry: Entry, folder: Path, ledger: Ledger, verify: bool) -> bool:
    """Whether a file is what the source says and what was downloaded; `verify` reads its bytes again."""
    if not (known_right(file, entry) and ledger.unchanged(entry)):
        return False
    now = read_entry(file, below(folder, entry.path)) if verify else entry
    return (now.sha256, now.md5) == (entry.sha256, entry.md5)


def _source(source: Source, folder: Path, ledger: Ledger, verify: bool) -> Check:
    """One source in one folder: its own files and the members of its archives that were extracted."""
    own = {file.path: file for file in source.files}
    entries = [entry for entry in ledger.entries() if _belongs(entry, own, folder)]
    bad = [
        entry.path
        for entry in entries
        if not _is_right(own.get(entry.path) or SourceFile(path=entry.path), entry, folder, ledger, verify)
    ]
    checked = len(entries)
    missing = [path for path, file in own.items() if ledger.get(path) is None and not file.unpack]
    command = _fetch(source.name, folder, verify=True)
    what = f"{source.name} in {folder}"
    if bad:
        return Check("wrong", what, f"{len(bad)} of {checked} files are gone or changed ({bad[0]})", command)
    if missing:
        return Check("missing", what, f"{', '.join(missing)} not there", command)
    return Check("ok", what, f"{checked} files as they were verified")


def removals(dataset: Path) -> Iterator[Check]:
    """A dataset, held now against the removal lists of what its photographs were downloaded from."""
    from ffhqref.core import tables

    receipt = read_receipt(dataset, "embed")
    photos = Path(str(receipt.notes.get("images", ""))) if receipt else Path()
    origins = [name for name in sources() if _comes_from(load_source(name), photos)]
    listed = [source for source in map(load_source, origins) if source.exclude_date]
    if not receipt or not listed:
        finding = "no removal list is known for its photographs: remove who asks (`ffhqref forget`)"
        yield Check("ok", f"dataset {dataset}", finding)
        return
    shards = [
        tables.read(below(dataset, name), tables.EMBEDDINGS, [tables.IMAGE]) for name in receipt.outputs
    ]
    names = [name for shard in shards for name in tables.texts(shard, tables.IMAGE)]
    for source in listed:
        removed = [name for name in names if Selection.make((), source, ()).excludes(name)]
        finding = f"{len(removed)} of {len(names)} photos are on the removal list of {source.exclude_date}"
        what = f"dataset {dataset}, {source.name}"
        if removed:
            yield Check("wrong", what, finding, "ffhqref forget " + shlex.join([str(dataset), *removed]))
        else:
            yield Check("ok", what, finding)


def _comes_from(source: Source, photos: Path) -> bool:
    """Whether a folder of photographs, or one up to three above it, was downloaded from this source."""
    if not photos.is_absolute():
        return False
    for folder in (photos, *photos.parents[:3]):
        if (folder / LEDGER).is_file():
            origins = {file.path for file in source.files}
            return any({entry.path, entry.origin} & origins for entry in Ledger(folder).entries())
    return False
