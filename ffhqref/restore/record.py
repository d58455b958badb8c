"""run.json: what results depend on and which are finished, so that a second run redoes only what it must."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ffhqref import __version__
from ffhqref.core.store import UserError, digest, digest_file, lock, write_text
from ffhqref.restore.jobs import Job

if TYPE_CHECKING:
    from ffhqref.refldm.restorer import SamplingOptions


@dataclass(frozen=True, kw_only=True)
class ResultSettings:
    """What the results depend on, and so what a second run compares."""

    checkpoint: str  # SHA-256
    autoencoder: str | None
    weights: str  # ema or raw
    architecture: Mapping[str, object]
    options: SamplingOptions
    seed: int
    noise: str  # shared or per-image
    precision: str
    device: str
    align: str = ""  # the detector's SHA-256 where faces are aligned
    paste_back: bool = False


@dataclass
class RestoreOutcome:
    """Names of results by what became of them, and warnings."""

    restored: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # not square: resized as published
    gain: str = ""  # what another precision would bring


class Record:
    """run.json: settings, and for each finished name a digest of all that its result depends on."""

    def __init__(self, out: Path, settings: ResultSettings, part: str | None) -> None:
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

    def save(self, outcome: RestoreOutcome, versions: Mapping[str, str]) -> None:
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


def spare_inputs(jobs: Sequence[Job], out: Path) -> None:
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
