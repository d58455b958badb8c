"""What other libraries compute, each behind one small adapter: pictures in, a number out.

LPIPS, DISTS, NIQE, MUSIQ, CLIP-IQA (and MANIQA, Q-Align) by pyiqa, LPIPS also by `lpips`, FID by clean-fid.
They are imported when a metric is asked for; one that is absent is named with the command that installs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ffhqref.core.arrays import Float32
from ffhqref.core.images import Rgb

INSTALL = "pip install 'ffhqref[eval]'"
Pair = Callable[[Rgb, Rgb | None], float]  # a result and its target (None where the metric needs none)


@dataclass(frozen=True)
class External:
    """A metric of another library; `called` is pyiqa's name. A lower value is better where `lower`."""

    name: str
    called: str
    needs_target: bool
    lower: bool


EXTERNAL = {
    one.name: one
    for one in (
        External("lpips", "lpips-vgg", True, True),
        External("flpips", "lpips-vgg", True, True),
        External("dists", "dists", True, True),
        External("niqe", "niqe", False, True),
        External("musiq", "musiq", False, False),
        External("clipiqa", "clipiqa", False, False),
        External("maniqa", "maniqa", False, False),
        External("qalign", "qalign", False, False),
    )
}
FID = "fid"


@dataclass(frozen=True)
class Opened:
    """A metric ready to be called, and what computes it: library, version and its name there."""

    measure: Pair
    computed_by: str


def absent(metric: str) -> str:
    """What a metric lacks, in words with the command that installs it; empty where nothing."""
    if find_spec("pyiqa") or (metric in ("lpips", "flpips") and find_spec("lpips")):
        return ""
    return f"{metric} needs pyiqa, which is not installed: {INSTALL}"


def open_metric(metric: str, device: str) -> Opened:
    """The metric through pyiqa, or LPIPS through `lpips` where pyiqa is not there."""
    about = EXTERNAL[metric]
    if find_spec("pyiqa"):
        network = import_module("pyiqa").create_metric(about.called, device=device)
        return Opened(_pyiqa(network, about, device), computed_by(metric))
    network = import_module("lpips").LPIPS(net="vgg", verbose=False).to(device).eval()
    return Opened(_lpips(network, device), computed_by(metric))


def computed_by(metric: str) -> str:
    """Library, version, and what the metric is called there."""
    if find_spec("pyiqa"):
        return f"pyiqa {_version('pyiqa')} {EXTERNAL[metric].called}"
    return f"lpips {_version('lpips')} vgg"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of unknown version"


def _tensor(image: Rgb, device: str) -> Any:
    """H x W x 3 uint8 -> 1 x 3 x H x W float32 in [0, 1]."""
    import torch

    planes: Float32 = np.ascontiguousarray(image.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    return torch.from_numpy(planes).to(device)


def _pyiqa(network: Any, about: External, device: str) -> Pair:
    def measure(image: Rgb, target: Rgb | None) -> float:
        given = [image, target] if about.needs_target and target is not None else [image]
        return _number(network, [_tensor(one, device) for one in given])

    return measure


def _lpips(network: Any, device: str) -> Pair:
    """The library `lpips` wants pictures in [-1, 1]."""

    def measure(image: Rgb, target: Rgb | None) -> float:
        assert target is not None
        return _number(network, [_tensor(one, device) * 2 - 1 for one in (image, target)])

    return measure


def _number(network: Any, tensors: list[Any]) -> float:
    import torch

    with torch.no_grad():
        return float(network(*tensors).reshape(-1)[0])


def fid(results: Path, targets: Path | None, statistics: str, device: str) -> float:
    """Frechet Inception distance in clean-fid's mode: of two folders, or to published statistics.

    `statistics` is `NAME:RESOLUTION:SPLIT`, used where not empty. Those of FFHQ at 512 px, which the paper
    has, come with pyiqa; without it they are clean-fid's own.
    """
    if not statistics:
        distance = import_module("cleanfid.fid").compute_fid
        return float(
            distance(str(results), str(targets), mode="clean", num_workers=0, verbose=False, device=device)
        )
    name, resolution, split = statistics.split(":")
    known = {"dataset_name": name, "dataset_res": int(resolution), "dataset_split": split, "mode": "clean"}
    if find_spec("pyiqa"):
        metric = import_module("pyiqa").create_metric("fid", device=device)
        return float(metric(str(results), num_workers=0, verbose=False, **known))
    distance = import_module("cleanfid.fid").compute_fid
    return float(distance(str(results), num_workers=0, verbose=False, device=device, **known))


def fid_computed_by(statistics: str) -> str:
    """Library and version, and against what."""
    library = "pyiqa" if statistics and find_spec("pyiqa") else "clean-fid"
    return f"{library} {_version(library)} against {statistics or 'the targets'}"


def fid_absent(statistics: str) -> str:
    """As `absent`, for FID against the targets or against statistics."""
    if find_spec("cleanfid") or (statistics and find_spec("pyiqa")):
        return ""
    return f"fid needs clean-fid, which is not installed: {INSTALL}"
