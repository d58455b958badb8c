"""Jobs -> restored pictures on disk: resumable, with run.json and sheets beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ffhqref import __version__
from ffhqref.core import images, sheets
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.store import UserError, digest, digest_file, lock, seed_for, write_text
from ffhqref.restore.jobs import Job, shard

if TYPE_CHECKING:
    from ffhqref.refldm.model.checkpoint import Architecture, Networks
    from ffhqref.refldm.restorer import Options, Restorer
    from ffhqref.restore.align import Aligner

SHEETS = "sheets"
TRIAL_AFTER = 10  # s: only a longer run is told what another precision would bring
TILE = 256  # px of a picture in a sheet


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the results depend on, and so what a second run compares."""

    checkpoint: str  # SHA-256
    autoencoder: str | None
    weights: str  # ema or raw
    architecture: Mapping[str, Any]
    options: Options
    seed: int
    noise: str  # shared or per-image
    precision: str
    device: str
    align: str = ""  # the detector's SHA-256 where faces are aligned
    paste_back: bool = False


@dataclass
class Outcome:
    """Names of results by what became of them, and warnings."""

    restored: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # not square: resized as published
    gain: str = ""  # what another precision would bring


class Record:
    """run.json: settings, and for each finished name a digest of all that its result depends on."""

    def __init__(self, out: Path, settings: Settings, part: str | None) -> None:
        self.out, self.settings = out, settings
        label = "" if part is None else f"-{part.replace('/', 'of')}"
        self.path = out / f"run{label}.json"
        self.finished: dict[str, str] = {}
        for path in sorted(out.glob("run*.json")):
            self.finished |= _finished(path)
        self._files: dict[Path, str] = {}
        self.mine = _finished(self.path)

    def key(self, job: Job) -> str:
        """Digest of the settings, the picture and its references."""
        settings = asdict(self.settings)
        files = [self._digest(path) for path in (job.lq, *job.references)]
        name = job.name if self.settings.noise == "per-image" else ""
        return digest(json.dumps([settings, files, name], sort_keys=True).encode())

    def _digest(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = digest_file(path)
        return self._files[path]

    def done(self, job: Job) -> bool:
        """Whether the result on disk is this job's."""
        written = (self.out / job.name).is_file() and job.name in self.finished
        return written and self.finished[job.name] == self.key(job)

    def save(self, outcome: Outcome, versions: Mapping[str, str]) -> None:
        """Write the file anew."""
        content = {
            "command": "restore",
            "versions": {"ffhqref": __version__, **versions},
            "settings": asdict(self.settings),
            "failed": outcome.failed,
            "finished": self.mine,
        }
        write_text(self.path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def _finished(path: Path) -> dict[str, str]:
    try:
        finished = json.loads(path.read_text(encoding="utf-8"))["finished"]
        return {str(name): str(key) for name, key in finished.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _spare_inputs(jobs: Sequence[Job], out: Path) -> None:
    """UserError where a result would take the place of a picture that was given."""
    given = {path.resolve() for job in jobs for path in (job.lq, *job.references, job.truth) if path}
    for job in jobs:
        if (out / job.name).resolve() in given:
            raise UserError(f"--out {out} would overwrite {out / job.name}: give another folder.")


@contextmanager
def writer(out: Path, part: str | None) -> Iterator[None]:
    """One process a folder, or one a shard: shards of one run may write the same folder together."""
    place = out if part is None else out / ".shards" / part.replace("/", "of")
    with lock(place, "restore"):
        yield


class Runner:
    """Restores jobs batch by batch; a picture that fails is noted and the others go on."""

    def __init__(
        self,
        restorer: Restorer,
        record: Record,
        outcome: Outcome,
        *,
        batch_size: int,
        sheet: bool,
        aligner: Aligner | None,
        advance: Callable[[int], Any],
    ) -> None:
        self.restorer, self.record, self.outcome = restorer, record, outcome
        self.batch_size, self.sheet, self.aligner, self.advance = batch_size, sheet, aligner, advance
        self.settings = record.settings
        self._last_cached: tuple[tuple[Path, ...], Any, list[Rgb]] | None = None

    def run(self, jobs: Sequence[Job], versions: Mapping[str, str]) -> None:
        """People one after another, so that their references are looked at once."""
        ordered = sorted(jobs, key=lambda job: (job.references, job.name))
        for start in range(0, len(ordered), self.batch_size):
            self._batch(ordered[start : start + self.batch_size])
            self.record.save(self.outcome, versions)

    def _batch(self, jobs: Sequence[Job]) -> None:
        ready = []
        for references, same in groupby(jobs, key=lambda job: job.references):
            for job in same:
                try:
                    cached, shown = self._cached(references)
                    ready.append((job, cached, shown, *self._fitted(job.lq, True)))
                except BadImage as error:
                    self._fail(job, str(error))
                except _BadReference as error:
                    self._fail(job, str(error))
        if not ready:
            return
        noises = [self._noise(job) for job, *_ in ready]
        restored = self.restorer.restore(
            [one[3] for one in ready],
            [one[1] for one in ready],
            noises,
            self.settings.options,
            watch=lambda x, x0: self.advance(len(x)),
        )
        for (job, _, shown, lq, back), picture in zip(ready, restored, strict=True):
            self._write(job, shown, lq, back, picture)

    def _fail(self, job: Job, reason: str) -> None:
        self.outcome.failed[job.name] = reason
        self.advance(0)

    def _noise(self, job: Job) -> Any:
        seed = self.settings.seed
        if self.settings.noise == "per-image":
            seed = seed_for(seed, job.name, "x_T") >> 1  # torch's generator takes 63 bits
        return self.restorer.noise(seed)

    def _cached(self, paths: tuple[Path, ...]) -> tuple[Any, list[Rgb]]:
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

    def _fitted(self, path: Path, note: bool) -> tuple[Rgb, Any]:
        """The picture at the network's size, and what pastes a result back (None where not aligned)."""
        from ffhqref.refldm.restorer import fit

        picture = images.read(path)
        if self.aligner is not None:
            return self.aligner.crop(picture, self.restorer.size)
        height, width = self.restorer.size
        if note and picture.shape[0] * width != picture.shape[1] * height:
            self.outcome.odd.append(str(path))
        return fit(picture, height, width), None

    def _write(self, job: Job, shown: list[Rgb], lq: Rgb, back: Any, picture: Rgb) -> None:
        result = back(picture) if back is not None and self.settings.paste_back else picture
        images.write(self.record.out / job.name, result)
        if self.sheet:
            truth = []
            if job.truth is not None:
                truth = [("truth", self._fitted(job.truth, False)[0])]
            references = [(f"reference {i}", one) for i, one in enumerate(shown, 1)]
            columns = [("low quality", lq), *references, ("restored", picture), *truth]
            images.write(self.record.out / SHEETS / job.name, draw_sheet(columns))
        self.record.mine[job.name] = self.record.key(job)
        self.outcome.restored.append(job.name)


class _BadReference(Exception):
    """A reference that cannot be read, named."""


def draw_sheet(columns: Sequence[tuple[str, Rgb]]) -> Rgb:
    """Pictures side by side, each under its caption."""
    titles = [caption for caption, _ in columns]
    return sheets.lay_out([[sheets.Panel(picture) for _, picture in columns]], titles=titles, side=TILE)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Everything the command was told, checked."""

    checkpoint: Path
    autoencoder: Path | None
    architecture: Architecture | None
    options: Options
    seed: int
    noise: str
    precision: str
    device: str
    compiled: bool
    batch_size: int
    sheet: bool
    detector: Path | None
    paste_back: bool
    part: str | None

    def run(self, jobs: Sequence[Job], failed: Mapping[str, str], out: Path) -> Outcome:
        """Restore what is not finished yet; UserError where checkpoint or options do not allow it."""
        from ffhqref.refldm.model import checkpoint, precision
        from ffhqref.refldm.restorer import Restorer, check_options, versions

        check_options(self.options, self.device)
        chosen = precision.choose(self.precision, self.device)
        mine = shard(jobs, self.part)
        _spare_inputs(jobs, out)
        with writer(out, self.part):
            networks = checkpoint.load(self.checkpoint, self.autoencoder, self.architecture)
            aligner = self._aligner()
            settings = self._settings(networks, chosen, aligner)
            record = Record(out, settings, self.part)
            outcome = Outcome(failed=dict(failed))
            outcome.kept = [job.name for job in mine if record.done(job)]
            todo = sorted({job.name for job in mine} - set(outcome.kept))
            with tqdm(total=len(todo) * self._step_count(), unit="step", disable=None) as bar:
                runner = Runner(
                    Restorer(networks, self.device, precision.DTYPES[chosen], self.compiled), record, outcome,
                    batch_size=self.batch_size, sheet=self.sheet, aligner=aligner, advance=bar.update,
                )  # fmt: skip
                runner.run([job for job in mine if job.name in set(todo)], versions())
                elapsed = bar.format_dict["elapsed"]
            record.save(outcome, versions())
        if self.precision == "fp32" and elapsed > TRIAL_AFTER:
            outcome.gain = precision.gain(self.device)
        return outcome

    def _step_count(self) -> int:
        from ffhqref.refldm.model.schedule import timesteps

        return len(timesteps(self.options.schedule, self.options.steps))

    def _aligner(self) -> Aligner | None:
        if self.detector is None:
            return None
        from ffhqref.restore.align import Aligner

        return Aligner(self.detector)

    def _settings(self, networks: Networks, precision: str, aligner: Aligner | None) -> Settings:
        return Settings(
            checkpoint=digest_file(self.checkpoint),
            autoencoder=digest_file(self.autoencoder) if self.autoencoder else None,
            weights=networks.weights,
            architecture=asdict(networks.architecture),
            options=self.options,
            seed=self.seed,
            noise=self.noise,
            precision=precision,
            device=self.device,
            align=aligner.digest if aligner else "",
            paste_back=self.paste_back,
        )
