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
    """A metric of another library. `names` are pyiqa's; a lower value is better where `lower`."""

    name: str
    package: str
    called: str
    needs_target: bool
    lower: bool


EXTERNAL = {
    one.name: one
    for one in (
        External("lpips", "pyiqa", "lpips-vgg", True, True),
        External("flpips", "pyiqa", "lpips-vgg", True, True),
        External("dists", "pyiqa", "dists", True, True),
        External("niqe", "pyiqa", "niqe", False, True),
        External("musiq", "pyiqa", "musiq", False, False),
        External("clipiqa", "pyiqa", "clipiqa", False, False),
        External("maniqa", "pyiqa", "maniqa", False, False),
        External("qalign", "pyiqa", "qalign", False, False),
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
    if metric == FID:
        missing = [] if find_spec("cleanfid") else ["clean-fid"]
    else:
        either = metric in ("lpips", "flpips") and find_spec("lpips")
        missing = [] if either or find_spec(EXTERNAL[metric].package) else [EXTERNAL[metric].package]
    return f"{metric} needs {missing[0]}, which is not installed: {INSTALL}" if missing else ""


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
    """Frechet Inception distance in clean-fid's mode: of two folders, or to its published statistics.

    `statistics` is clean-fid's `NAME:RESOLUTION:SPLIT`, such as FFHQ:1024:trainval70k; used where not empty.
    """
    cleanfid = import_module("cleanfid.fid")
    common = {"mode": "clean", "num_workers": 0, "verbose": False, "device": device}
    if statistics:
        name, resolution, split = statistics.split(":")
        return float(
            cleanfid.compute_fid(
                str(results), dataset_name=name, dataset_res=int(resolution), dataset_split=split, **common
            )
        )
    return float(cleanfid.compute_fid(str(results), str(targets), **common))


def fid_computed_by(statistics: str) -> str:
    """Library and version, and against what."""
    return f"clean-fid {_version('clean-fid')} against {statistics or 'the targets'}"
