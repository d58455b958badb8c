"""Configuration + dataset -> a run folder. Accelerate carries devices, processes and precision."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader
from tqdm import tqdm

from ffhqref.core.store import UserError
from ffhqref.refldm.model import checkpoint
from ffhqref.refldm.model.checkpoint import keep_memory
from ffhqref.refldm.model.precision import arithmetic
from ffhqref.refldm.training.config import Config, changed
from ffhqref.refldm.training.data import (
    Batch,
    Sample,
    Samples,
    StepBatchSampler,
    TrainingSource,
    collate,
    draw_seed,
    validation_samples,
)
from ffhqref.refldm.training.first_stage import AutoencoderTrainee
from ffhqref.refldm.training.runs import Log, RunFolder
from ffhqref.refldm.training.signals import signals
from ffhqref.refldm.training.stages import (
    DiffusionTrainee,
    Diverged,
    Perceptual,
    Recogniser,
    Trainee,
    first_stage,
    learning_rate,
)

PRECISIONS = {"fp32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a run starts from, and the networks that it is not to know of itself."""

    init: Path | None = None  # checkpoint whose weights are the first ones
    autoencoder: Path | None = None  # first stage of the LDM and ReF-LDM, where `init` holds none
    recognise: Recogniser | None = None
    perceptual: Perceptual | None = None


@dataclass
class TrainingResult:
    """Where a run stands."""

    step: int
    checkpoint: Path
    best: int | None
    stopped: bool = False  # by a signal, before its last step
    losses: dict[str, float] = field(default_factory=dict)
    skipped: int = 0  # samples whose pictures could not be read


def train(
    config: Config,
    source: TrainingSource,
    out: Path,
    given: Given | None = None,
    *,
    resume: bool = False,
    device: str = "auto",
    workers: int = 0,
) -> TrainingResult:
    """Train one stage; the same configuration, data and number of processes give the same weights.

    That is to the last bit on a CPU. On GPUs of one kind, with one version of torch, it holds as far as torch
    has deterministic kernels, which are asked for; it warns of operations that have none.
    `resume` goes on from the last whole checkpoint as if nothing had happened. UserError where the
    run cannot start, the loss is no number any more, or a checkpoint cannot be written.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at CUDA's start: else sums vary
    AcceleratorState._reset_state()  # an earlier run of this process may have had another precision
    accelerator = Accelerator(
        mixed_precision=PRECISIONS[config.precision], cpu=device == "cpu",
        gradient_accumulation_steps=config.accumulate,
    )  # fmt: skip
    if accelerator.device.type == "cpu":
        keep_memory()
    if config.precision == "tf32" and accelerator.device.type == "cpu":
        raise UserError("--precision tf32 is for GPUs: on a CPU give fp32 or bf16.")
    if config.batch_size % (accelerator.num_processes * config.accumulate):
        raise UserError(
            f"batch_size {config.batch_size} must be a multiple of {accelerator.num_processes} processes x "
            f"{config.accumulate} accumulated parts: change --batch-size."
        )
    given = given or Given()
    if config.stage != "autoencoder" and config.identity_weight and given.recognise is None:
        raise UserError(
            "The identity loss needs a recogniser: give --identity FILE, or --set identity_weight=0."
        )
    folder = RunFolder(out)
    recogniser = getattr(given.recognise, "digest", "") if config.identity_weight else ""
    table = {"config": config.table(), "data": source.digest(), "recogniser": recogniser}
    resumed = _resumed_step(folder, config, table, resume)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(config.seed, 0, "first weights"))
        trainee = make(config, accelerator, given, folder if resumed else None)
    run = TrainingRun(config, source, folder, accelerator, trainee, device_workers=workers)
    if resumed:
        run.restore(resumed)
    elif accelerator.is_main_process:
        folder.write_config(table)
    return run.go()


@contextmanager
def numerics(accelerator: Accelerator, config: Config) -> Iterator[None]:
    """fp32 without TF32, and on GPUs deterministic kernels, while a run goes on."""
    with arithmetic(config.precision):
        if accelerator.device.type == "cpu":
            yield
            return
        asked = torch.are_deterministic_algorithms_enabled()
        warned = torch.is_deterministic_algorithms_warn_only_enabled()
        benchmark = torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False  # which would choose kernels by their time
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(asked, warn_only=warned)
            torch.backends.cudnn.benchmark = benchmark


def _resumed_step(folder: RunFolder, config: Config, table: Mapping[str, object], resume: bool) -> int:
    """The step to go on from, 0 for a new run; UserError where the folder does not fit the request."""
    steps = folder.steps()
    if not resume:
        if steps:
            raise UserError(
                f"{folder.root} already holds a run at step {steps[-1]}: add --resume to go on with it, "
                "or give another --out."
            )
        return 0
    before = folder.read_config()
    old = folder.read_settings()
    keys = changed(old, config.table())
    if config.schedule == "cosine" and old.get("steps") != config.steps:
        keys.append("steps (which the cosine schedule depends on)")
    if keys:
        raise UserError(
            f"{folder.root} was started with another {', '.join(keys)}: go on with the same, or start "
            "a new run."
        )
    for key, what in (("data", "on other data or another level"), ("recogniser", "with another recogniser")):
        if before.get(key) != table[key]:
            raise UserError(f"{folder.root} was started {what}: give the same, or start a new run.")
    return steps[-1] if steps else 0


def make(config: Config, accelerator: Accelerator, given: Given, resumed: RunFolder | None) -> Trainee:
    """The stage's networks: with first weights, or (to be filled) as a checkpoint has them."""
    tensors = checkpoint.read_tensors(given.init)[0] if given.init and not resumed else None
    if config.stage == "autoencoder":
        return AutoencoderTrainee(config, accelerator, tensors, given.perceptual)
    if resumed:
        own = resumed.load(resumed.steps()[-1]).model
        return DiffusionTrainee(config, accelerator, first_stage(config, None, own), None, given.recognise)
    if config.stage == "refldm" and tensors is None:
        raise UserError("ReF-LDM starts from an LDM: give --init with a checkpoint of `ffhqref train ldm`.")
    frozen = first_stage(config, given.autoencoder, tensors or {})
    return DiffusionTrainee(config, accelerator, frozen, tensors, given.recognise)


class TrainingRun:
    """The loop: steps, reports, checkpoints."""

    def __init__(
        self,
        config: Config,
        source: TrainingSource,
        folder: RunFolder,
        accelerator: Accelerator,
        trainee: Trainee,
        device_workers: int = 0,
    ) -> None:
        self.config, self.source, self.folder = config, source, folder
        self.accelerator, self.trainee, self.workers = accelerator, trainee, device_workers
        self.main = bool(accelerator.is_main_process)
        self.step, self.saved_at, self.skipped = 0, -1, 0  # steps done
        self.best: tuple[float, int] | None = None
        self.parts: dict[str, torch.Tensor] = {}  # of the last step's loss
        self.last: dict[str, float] = {}  # the same as numbers, at the last report
        self.seen = 0  # pictures since the last report, and when that was
        self.since = time.monotonic()
        size, factor = config.architecture, 2 ** (len(config.architecture.autoencoder.multipliers) - 1)
        self.latent = (size.autoencoder.latent, size.height // factor, size.width // factor)

    def restore(self, step: int) -> None:
        """Go back to a checkpoint."""
        saved = self.folder.load(step)
        try:
            self.trainee.restore(saved)
            best = saved.state.get("best")
            self.best = (float(best[0]), int(best[1])) if best else None
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
            raise UserError(f"{self.folder.of(step)} is damaged ({error}): remove this folder.") from None
        self.step = self.saved_at = step

    def batches(self) -> Iterator[Batch]:
        """Parts of steps from the present one on, without end."""
        config, accelerator = self.config, self.accelerator
        numbers = StepBatchSampler(
            config.batch_size,
            config.accumulate,
            accelerator.num_processes,
            accelerator.process_index,
            self.step,
        )
        loader: DataLoader[Sample] = DataLoader(
            Samples(self.source, config, self.latent), batch_sampler=numbers, collate_fn=collate,
            num_workers=self.workers, multiprocessing_context="spawn" if self.workers else None,
            worker_init_fn=_ignore_signals if self.workers else None,
        )  # fmt: skip
        for batch in loader:
            yield batch.to(accelerator.device)

    def go(self) -> TrainingResult:
        """Train until the last step or a signal; what was reached is saved either way."""
        log = Log(self.folder.root, self.step) if self.main else None
        bar = tqdm(total=self.config.steps, initial=self.step, unit="step", desc=f"train {self.config.stage}",
                   disable=None if self.main else True)  # fmt: skip
        try:
            waiting = self._waiting if self.main else None
            with signals(waiting) as asked, numerics(self.accelerator, self.config):
                stopped = self._steps(log, bar, asked)
        except Diverged as error:
            raise UserError(f"{error}: {self._last_good()}") from None
        finally:
            bar.close()
            if log:
                log.close()
        best = self.best[1] if self.best else None
        return TrainingResult(self.step, self.folder.of(self.step), best, stopped, self.last, self.skipped)

    def _waiting(self) -> str:
        """What a signal waits for, and what the next one would cost."""
        steps = self.folder.steps()
        lost = f"what came after step {steps[-1]:,}" if steps else "all that was trained"
        return (
            f"Stopping: step {self.step + 1:,} is being finished and then saved, which takes as long as a "
            f"step does. Once more leaves at once and loses {lost}."
        )

    def _last_good(self) -> str:
        steps = self.folder.steps()
        if not steps:
            return "nothing was saved yet; lower --lr, or look at the pictures and --init."
        return (
            f"{self.folder.of(steps[-1])} is the last good checkpoint; lower --lr, or use --precision fp32."
        )

    def _steps(self, log: Log | None, bar: tqdm[NoReturn], asked: Callable[[], bool]) -> bool:
        batches = self.batches()
        while self.step < self.config.steps:
            self._one(batches, bar)
            step, last = self.step, self.step == self.config.steps
            if step % self.config.log_every == 0 or last:
                self._report(log, bar)
            stopped = self._any(asked()) and not last
            due = step % self.config.validate_every == 0 or last
            if due and not stopped and self.source.validation:
                self._validate(log)
            if stopped or last or due or step % self.config.save_every == 0:
                self._save()
            if stopped:
                return True
        if self.saved_at != self.step:
            self._save()
        return False

    def _any(self, asked: bool) -> bool:
        """Whether any process was told to stop: all of them must leave after the same step."""
        if self.accelerator.num_processes == 1:
            return asked
        flag = torch.tensor(int(asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _one(self, batches: Iterator[Batch], bar: tqdm[NoReturn]) -> None:
        """One optimizer step."""
        for optimizer in self.trainee.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(self.config, self.step)
        sums: dict[str, torch.Tensor] = {}
        for _ in range(self.config.accumulate):
            batch = next(batches)
            self._note(batch, bar)
            with self.accelerator.accumulate(*self.trainee.trained):
                parts = self.trainee.training_step(batch, self.step)
            for name, value in parts.items():
                share = 1 if name == "gradient_norm" else self.config.accumulate
                sums[name] = sums.get(name, 0) + value.float() / share
        self.parts = sums
        self.step += 1
        self.seen += self.config.batch_size
        bar.update()

    def _note(self, batch: Batch, bar: tqdm[NoReturn]) -> None:
        if batch.skipped:
            self.skipped += len(batch.skipped)
            self.folder.left_out(batch.skipped)
            bar.set_description_str(f"train {self.config.stage} ({self.skipped} left out)")

    def _report(self, log: Log | None, bar: tqdm[NoReturn]) -> None:
        """Losses as the mean over processes, rates; the loss must be a number."""
        names = sorted(self.parts)
        means = self.accelerator.reduce(torch.stack([self.parts[name] for name in names]), "mean")
        self.last = dict(zip(names, means.tolist(), strict=True))
        if not torch.isfinite(means).all():
            raise Diverged(self.step)
        now = time.monotonic()
        speed, self.seen, self.since = self.seen / max(now - self.since, 1e-9), 0, now
        bar.set_postfix_str(f"loss {self.last['loss']:.4f}, {speed:.2f} images/s")
        if log:
            memory = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
            more = {"gpu_gigabytes": round(memory, 3)} if memory else {}
            lr = learning_rate(self.config, self.step - 1)
            log.write(self.step, {**self.last, "lr": lr, "images_per_second": round(speed, 3), **more})

    def _validate(self, log: Log | None) -> None:
        if log:
            found = self.trainee.validate(validation_samples(self.source, self.config, self.latent))
            log.write(self.step, found.numbers)
            log.picture(self.step, "validation", found.sheet)
            self.folder.write_picture(self.step, found.sheet)
            if self.best is None or found.value < self.best[0]:
                self.best = (found.value, self.step)
            self.since = time.monotonic()
        self.accelerator.wait_for_everyone()

    def _save(self) -> None:
        if self.main:
            saved = self.trainee.saved(self.step)
            saved.state["best"] = self.best
            self.folder.save(saved, self.config.architecture)
            self.folder.rotate(self.config.keep, self.best[1] if self.best else None)
        self.saved_at = self.step
        self.accelerator.wait_for_everyone()


def _ignore_signals(worker: int) -> None:
    """Loading processes leave when the main one does, not by signals that were meant for it."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
