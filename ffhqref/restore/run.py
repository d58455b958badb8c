"""Jobs -> restored pictures on disk: resumable, with run.json and sheets beside them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ffhqref.core import images
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.sheets import Panel, compose
from ffhqref.core.store import UserError, digest_file, seed_for
from ffhqref.core.terminal import progress_bar
from ffhqref.restore import jobs as collecting
from ffhqref.restore.jobs import Job, Jobs, shard
from ffhqref.restore.reading import READERS, Reading
from ffhqref.restore.record import (
    Record,
    RestoreOutcome,
    ResultSettings,
    sheet_name,
    spare_inputs,
    writer,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ffhqref.refldm.model.checkpoint import Architecture
    from ffhqref.refldm.model.schedule import Schedule
    from ffhqref.refldm.model.solvers import Solver
    from ffhqref.refldm.model.unet import ReferenceCache
    from ffhqref.refldm.restorer import Encoding, Restorer, SamplingOptions
    from ffhqref.restore.align import FaceAligner, Paste

TRIAL_AFTER = 10  # s: only a longer run is told what another precision would bring
PANEL_SIDE = 256  # px of a picture in a sheet


@dataclass(frozen=True, kw_only=True)
class RestoreOptions:
    """How pictures are restored; the defaults are those of the published single-picture script."""

    steps: int = 50
    schedule: Schedule = "uniform_trailing"
    solver: Solver = "ddim"
    guidance: float = 1.5  # towards the references; 1 is off
    guidance_from: int = 0  # the timesteps that are guided, of 0 to 999
    guidance_to: int = 999
    reference_encoding: Encoding = "wide"
    max_references: int = 5
    seed: int = 2024  # of the noise that sampling starts from
    noise: Literal["shared", "per-image"] = "shared"
    precision: str = "fp32"  # fp32, tf32, bf16, fp16 or auto
    device: str = "cpu"
    batch_size: int = 1
    compiled: bool = False  # the denoiser, by torch.compile
    sheets: bool = False  # also write everything side by side
    read: Reading = "whole"  # published: EXIF orientation is not applied, see `reading`
    detector: Path | None = None  # SCRFD (ONNX): faces are found and framed first
    squeeze: bool = False  # take pictures that are far from square, too
    paste_back: bool = False  # with a detector: results go back into the photographs
    autoencoder: Path | None = None  # first stage, where the checkpoint holds none
    architecture: Architecture | None = None  # where the checkpoint is of another size than the published
    shard: str | None = None  # i/n: every n-th picture from the i-th on

    def sampling(self) -> SamplingOptions:
        """What of it the restorer samples by."""
        from ffhqref.refldm.restorer import SamplingOptions

        return SamplingOptions(
            steps=self.steps, schedule=self.schedule, solver=self.solver, guidance=self.guidance,
            guidance_from=self.guidance_from, guidance_to=self.guidance_to, encoding=self.reference_encoding,
        )  # fmt: skip


def has_torch() -> bool:
    """Whether what the restorer runs on is installed."""
    return all(find_spec(name) for name in ("torch", "safetensors"))


def need_torch() -> None:
    """UserError where the restorer's libraries are not installed."""
    if not has_torch():
        raise UserError("The restorer needs torch: `pip install 'ffhqref[train]'`.")
    wait_passively()


def wait_passively() -> None:
    """Before torch is loaded: its threads then sleep while they wait, unless the user has it otherwise.

    Those that spin take the cores from whatever else runs on the machine, and from each other.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def restored_folder(dataset: Path, level: str) -> Path:
    """Where the restored pictures of a dataset's level lie, if nothing else is said."""
    return dataset / "restored" / level


def restore_dataset(
    dataset: Path,
    checkpoint: Path,
    *,
    level: str,
    photos: Path,
    split: str = "test",
    out: Path | None = None,
    references_of: collecting.ReferencesOf = "own",
    options: RestoreOptions | None = None,
) -> RestoreOutcome:
    """Restore the low-quality pictures of a built dataset with its references, best first.

    Results are PNGs of the checkpoint's size under the targets' names in `out`, by default
    `dataset`/restored/`level`, with run.json beside them; finished ones are kept when it is run again.
    `photos` is the folder of the targets and references. With `references_of` wrong each picture gets those
    of another person: a control. UserError where dataset, checkpoint or options
    do not allow it; a picture that fails is named in the outcome and the others go on.
    """
    options = options or RestoreOptions()
    most = options.max_references
    found = collecting.of_dataset(dataset, level, photos, split=split, most=most, of=references_of)
    return restore_jobs(found, checkpoint, out or restored_folder(dataset, level), options)


def restore_pictures(
    lq: Path,
    checkpoint: Path,
    *,
    out: Path,
    references: Sequence[Path] = (),
    refs_dir: Path | None = None,
    mapping: Path | None = None,
    photos: Path | None = None,
    options: RestoreOptions | None = None,
) -> RestoreOutcome:
    """Restore a low-quality picture, or every one of a folder, into `out`; see `restore_dataset`.

    At most one of: `references` of one person for all, `refs_dir` with a folder of references for each name,
    `mapping` (a reference CSV) with the folder `photos` that its names are below. Without any, pictures are
    restored from themselves alone.
    """
    options = options or RestoreOptions()
    found = collecting.of_pictures(
        lq,
        references=references,
        refs_dir=refs_dir,
        mapping=mapping,
        photos=photos,
        most=options.max_references,
    )
    return restore_jobs(found, checkpoint, out, options)


def restore_jobs(jobs: Jobs, checkpoint: Path, out: Path, options: RestoreOptions) -> RestoreOutcome:
    """Restore what is not finished yet; UserError where checkpoint or options do not allow it."""
    need_torch()
    from ffhqref.refldm.model import checkpoint as checkpoints
    from ffhqref.refldm.model import precision, schedule
    from ffhqref.refldm.restorer import Restorer, check_options, explained, versions

    sampling = options.sampling()
    check_options(sampling, options.device)
    chosen = precision.resolve(options.precision, options.device)
    mine = shard(jobs.jobs, options.shard)
    spare_inputs(jobs.jobs, out, options.sheets)
    with writer(out, options.shard), explained(), precision.arithmetic(chosen):
        networks = checkpoints.load_networks(checkpoint, options.autoencoder, options.architecture)
        aligner = _aligner(options.detector)
        if aligner is None:
            _refuse_squeeze(mine, options.squeeze, networks.architecture)
        settings = ResultSettings(
            checkpoint=digest_file(checkpoint),
            autoencoder=digest_file(options.autoencoder) if options.autoencoder else None,
            weights=networks.weights, architecture=asdict(networks.architecture), options=sampling,
            seed=options.seed, noise=options.noise, precision=chosen, device=options.device,
            align=aligner.digest if aligner else "", paste_back=options.paste_back, read=options.read,
        )  # fmt: skip
        record = Record(out, settings, options.shard)
        record.claim(mine, options.sheets)
        outcome = RestoreOutcome(failed=dict(jobs.failed))
        outcome.kept = [job.name for job in mine if record.done(job)]
        record.save(outcome, versions())
        todo = {job.name for job in mine} - set(outcome.kept)
        steps = len(schedule.timesteps(sampling.schedule, sampling.steps))
        with progress_bar("restore", "step", len(todo) * steps) as bar:
            restorer = Restorer(networks, options.device, precision.DTYPES[chosen], options.compiled)
            runner = Runner(restorer, record, outcome, options, aligner, bar.update)
            runner.run([job for job in mine if job.name in todo], versions())
            elapsed = bar.format_dict["elapsed"]
        runner.lay_out([job for job in mine if job.name not in todo])
        record.save(outcome, versions())
    if options.precision == "fp32" and elapsed > TRIAL_AFTER:
        outcome.gain = precision.gain(options.device)
    return outcome


def _refuse_squeeze(jobs: Sequence[Job], squeeze: bool, size: Architecture) -> None:
    """UserError where pictures are not of the networks' shape, unless they may be squeezed."""
    given = dict.fromkeys(path for job in jobs for path in (job.lq, *job.references))
    remedy = "--align finds and crops faces as FFHQ does"
    images.refuse_squeeze(given, squeeze, remedy, size.width / size.height)


def _aligner(detector: Path | None) -> FaceAligner | None:
    if detector is None:
        return None
    from ffhqref.restore.align import FaceAligner

    return FaceAligner(detector)


class Runner:
    """Restores jobs batch by batch; a picture that fails is noted and the others go on."""

    def __init__(
        self,
        restorer: Restorer,
        record: Record,
        outcome: RestoreOutcome,
        options: RestoreOptions,
        aligner: FaceAligner | None,
        advance: Callable[[int], object],
    ) -> None:
        self.restorer, self.record, self.outcome = restorer, record, outcome
        self.options, self.aligner, self.advance = options, aligner, advance
        self.settings = record.settings
        self._last_cached: tuple[tuple[Path, ...], ReferenceCache, list[Rgb]] | None = None

    def run(self, jobs: Sequence[Job], versions: Mapping[str, str]) -> None:
        """People one after another, so that their references are encoded once."""
        ordered = sorted(jobs, key=lambda job: (job.references, job.name))
        for start in range(0, len(ordered), self.options.batch_size):
            self._batch(ordered[start : start + self.options.batch_size])
            self.record.save(self.outcome, versions)

    def _batch(self, jobs: Sequence[Job]) -> None:
        ready = []
        for references, same in groupby(jobs, key=lambda job: job.references):
            for job in same:
                try:
                    cached, shown = self._cached(references)
                    ready.append((job, cached, shown, *self._fitted(job.lq, True)))
                except (BadImage, _BadReference) as error:
                    self._fail(job, str(error))
        if not ready:
            return
        restored = self.restorer.restore(
            [lq for *_, lq, _ in ready], [cached for _, cached, *_ in ready],
            [self._noise(job) for job, *_ in ready], self.settings.options,
            watch=lambda x, _: self.advance(len(x)),
        )  # fmt: skip
        for (job, _, shown, lq, back), picture in zip(ready, restored, strict=True):
            self._write(job, shown, lq, back, picture)

    def _fail(self, job: Job, reason: str) -> None:
        self.outcome.failed[job.name] = reason
        self.advance(0)

    def _noise(self, job: Job) -> Tensor:
        seed = self.settings.seed
        if self.settings.noise == "per-image":
            seed = seed_for(seed, job.name, "x_T") >> 1  # torch's generator takes 63 bits
        return self.restorer.noise(seed)

    def _cached(self, paths: tuple[Path, ...]) -> tuple[ReferenceCache, list[Rgb]]:
        """The cache of these references, kept until others come."""
        if self._last_cached is None or self._last_cached[0] != paths:
            pictures = []
            for path in paths:
                try:
                    pictures.append(self._fitted(path, False)[0])
                except BadImage as error:
                    raise _BadReference(f"its reference {path} {error}") from None
            cached = self.restorer.cache_references(pictures, self.settings.options.encoding)
            self._last_cached = (paths, cached, pictures)
        return self._last_cached[1], self._last_cached[2]

    def _fitted(self, path: Path, note: bool) -> tuple[Rgb, Paste | None]:
        """The picture at the network's size, and what pastes a result back (None where not aligned)."""
        from ffhqref.refldm.restorer import resize_bicubic

        picture = READERS[self.options.read](path)
        if self.aligner is not None:
            return self.aligner.crop(picture, self.restorer.size)
        height, width = self.restorer.size
        if note and picture.shape[0] * width != picture.shape[1] * height:
            self.outcome.odd.append(str(path))
        return resize_bicubic(picture, height, width), None

    def _write(self, job: Job, shown: list[Rgb], lq: Rgb, back: Paste | None, picture: Rgb) -> None:
        result = back(picture) if back is not None and self.settings.paste_back else picture
        images.write(self.record.out / job.name, result)
        if self.options.sheets:
            self._sheet(job, shown, lq, picture)
        self.record.note(job)
        self.outcome.restored.append(job.name)

    def lay_out(self, jobs: Sequence[Job]) -> None:
        """Draw the sheets of finished jobs that have none yet."""
        for job in jobs if self.options.sheets else ():
            if (self.record.out / sheet_name(job)).is_file():
                continue
            shown = [self._fitted(path, False)[0] for path in job.references]
            result = images.read(self.record.out / job.name)
            self._sheet(job, shown, self._fitted(job.lq, False)[0], result)

    def _sheet(self, job: Job, shown: list[Rgb], lq: Rgb, picture: Rgb) -> None:
        truth: dict[str, Rgb] = {}
        if job.truth is not None:
            with suppress(BadImage):  # it is for the sheet alone
                truth["target"] = self._fitted(job.truth, False)[0]
        references = {f"reference {i}": one for i, one in enumerate(shown, 1)}
        columns = {"low quality": lq, **references, "restored": picture, **truth}
        sheet = compose([[Panel(one) for one in columns.values()]], list(columns), side=PANEL_SIDE, gap=8)
        images.write(self.record.out / sheet_name(job), sheet)


class _BadReference(Exception):
    """A reference that cannot be read, named."""
