"""The folder of a training run: checkpoints that never lie, metrics, TensorBoard.

RUN/config.json, metrics.jsonl, tensorboard/, pictures/step-N.png (validation), and
checkpoints/step-N/ with model.safetensors (published names; `restore` reads it as it is),
optimizer.safetensors and state.json. A checkpoint is written beside its place and renamed when whole.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict, cast

from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ffhqref.core import images
from ffhqref.core.images import Rgb
from ffhqref.core.store import UserError, flush, write_text
from ffhqref.refldm.model.checkpoint import METADATA, Architecture
from ffhqref.refldm.model.tensor_files import text_line, write_safetensors

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
PARTIAL = ".partial"  # of the folder of a checkpoint that is still being written
SPARE_BYTES = 64 << 20  # bytes that must stay free on the disk


class State(TypedDict, total=False):
    """The numbers of a checkpoint."""

    ema_updates: int
    scaler: dict[str, float]  # of the loss, in fp16
    best: tuple[float, int] | None  # the least validation value, and its step
    step: int


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds: the networks, the optimizer's tensors, and numbers."""

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: State


@dataclass(frozen=True)
class RunFolder:
    """One run on disk; only its main process writes."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def of(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps of whole checkpoints, ascending."""
        found = self.checkpoints.glob(f"step-*/{STATE}")
        numbers = [path.parent.name.removeprefix("step-") for path in found]
        return sorted(int(number) for number in numbers if number.isdecimal())

    def save(self, saved: Saved, architecture: Architecture) -> Path:
        """Write a checkpoint; UserError where the disk is full, and the older ones stand."""
        place = self.of(saved.step)
        part = place.with_name(f".{place.name}{PARTIAL}")
        self.sweep()
        try:
            part.mkdir(parents=True, exist_ok=True)
            self._need_space(saved)
            header = json.dumps({"architecture": asdict(architecture), "step": saved.step}, sort_keys=True)
            _write_tensors(part / MODEL, saved.model, {METADATA: header})
            _write_tensors(part / OPTIMIZER, saved.optimizer, {})
            (part / STATE).write_text(json.dumps({**saved.state, "step": saved.step}), encoding="utf-8")
            for name in (MODEL, OPTIMIZER, STATE):
                flush(part / name)
            flush(part)
            if place.exists():  # the same step again, e.g. stopped at once after it was resumed
                shutil.rmtree(place)
            os.replace(part, place)
            flush(self.checkpoints)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(part, ignore_errors=True)
            raise UserError(f"Cannot write {place} ({text_line(error)}): {self._stands()}") from None
        return place

    def _stands(self) -> str:
        steps = self.steps()
        if not steps:
            return "free space on its disk, or give another --out."
        return f"{self.of(steps[-1])} stands; free space on its disk, then go on with --resume."

    def _need_space(self, saved: Saved) -> None:
        tensors = [*saved.model.values(), *saved.optimizer.values()]
        wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        free = shutil.disk_usage(self.checkpoints).free
        if free < wanted + SPARE_BYTES:
            raise OSError(f"it needs {wanted / 1e9:.2f} GB and {free / 1e9:.2f} GB are free")

    def load(self, step: int) -> Saved:
        """Read a checkpoint; UserError where it is damaged."""
        place = self.of(step)
        try:
            numbers = json.loads((place / STATE).read_text(encoding="utf-8"))
            model, optimizer = (_read_tensors(place / name) for name in (MODEL, OPTIMIZER))
            if not isinstance(numbers, dict):
                raise ValueError(f"{STATE} holds no object")
        except (OSError, ValueError, SafetensorError, RecursionError) as error:
            raise UserError(
                f"{place} is damaged ({text_line(error)}): remove this folder and go on with --resume from "
                "an older one."
            ) from None
        return Saved(step, model, optimizer, cast(State, numbers))

    def rotate(self, keep: int, best: int | None) -> None:
        """Remove all checkpoints but the last `keep` and the best."""
        for step in self.steps()[:-keep]:
            if step != best:
                shutil.rmtree(self.of(step))

    def sweep(self) -> None:
        """Remove what a killed run left half-written."""
        for part in self.checkpoints.glob(f".step-*{PARTIAL}"):
            shutil.rmtree(part, ignore_errors=True)

    def write_config(self, table: Mapping[str, object]) -> None:
        write_text(self.root / "config.json", json.dumps(table, indent=1, sort_keys=True) + "\n")

    def read_config(self) -> dict[str, object]:
        """What the run was started with; UserError where there is no run."""
        path = self.root / "config.json"
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise UserError(f"{self.root} holds no training run to go on with: leave --resume out.")
        return table

    def read_settings(self) -> dict[str, object]:
        """The configuration of the run, as `Config.table` gave it."""
        settings = self.read_config().get("config")
        return settings if isinstance(settings, dict) else {}

    def left_out(self, lines: Sequence[str]) -> None:
        """Record which pictures could not be read, and why."""
        with (self.root / "left_out.txt").open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)

    def write_picture(self, step: int, picture: Rgb) -> None:
        """The validation pictures of a step, as a PNG."""
        images.write(self.root / "pictures" / f"step-{step:08d}.png", picture)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str]) -> None:
    write_safetensors(path, {n: tensor.detach().cpu().contiguous() for n, tensor in tensors.items()}, header)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


class Log:
    """metrics.jsonl and TensorBoard; lines of steps that will be done again are taken out."""

    def __init__(self, root: Path, start: int) -> None:
        self.path = root / "metrics.jsonl"
        root.mkdir(parents=True, exist_ok=True)
        lines = self._lines()
        if lines:  # there is no file before there is a line
            write_text(self.path, "".join(line for line in lines if _step(line) <= start))
        self.board = SummaryWriter(str(root / "tensorboard"), purge_step=start + 1 if start else None)

    def _lines(self) -> list[str]:
        if not self.path.is_file():
            return []
        return self.path.read_text(encoding="utf-8").splitlines(keepends=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """A line, and a scalar for each number."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Rgb) -> None:
        self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.board.close()


def _step(line: str) -> float:
    """The step of a line; infinite where a killed run left half of one."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf
