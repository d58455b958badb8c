"""run.json: what results depend on and which are finished, so that a second run redoes only what it must."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ffhqref import __version__
from ffhqref.core.store import MAX_JSON, UserError, digest, digest_file, lock, write_text
from ffhqref.restore.jobs import Job

if TYPE_CHECKING:
    from ffhqref.refldm.restorer import SamplingOptions

SHEETS = "sheets"  # folder of the sheets, below that of the results
RESULT, SHEET = "result", "sheet"


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
    device: str  # for people to read: results do not count as others' for it
    align: str = ""  # the detector's SHA-256 where faces are aligned
    paste_back: bool = False
    read: str = "whole"  # how pictures are read: whole, or as published


@dataclass
class RestoreOutcome:
    """Names of results by what became of them, and warnings."""

    restored: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)  # not square: resized as published
    gain: str = ""  # what another precision would bring


@dataclass(frozen=True)
class Finished:
    """A finished result: the digest of all that it depends on, and its file's own."""

    work: str
    result: str


class Record:
    """run.json: settings, what is finished, and which files below the folder are ours to write.

    `made` is written before the first of them: a file that stands in no record is not overwritten.
    """

    def __init__(self, out: Path, settings: ResultSettings, part: str | None) -> None:
        self.out, self.settings = out, settings
        label = "" if part is None else f"-{part.replace('/', 'of')}"
        self.path = out / f"run{label}.json"
        self.finished: dict[str, Finished] = {}
        self.made: dict[str, str] = {}  # path below `out` -> what it is: a result or a sheet
        for path in sorted(out.glob("run*.json")):
            self.finished |= _finished(path)
            self.made |= _made(path)
        self._files: dict[Path, str] = {}
        self.mine, self.mine_made = _finished(self.path), _made(self.path)

    def key(self, job: Job) -> str:
        """Digest of the settings, the picture and its references.

        The device is left out: results of several go together, though their last bits may differ.
        """
        settings = {name: value for name, value in asdict(self.settings).items() if name != "device"}
        files = [self._digest(path) for path in (job.lq, *job.references)]
        name = job.name if self.settings.noise == "per-image" else ""
        return digest(json.dumps([settings, files, name], sort_keys=True).encode())

    def _digest(self, path: Path) -> str:
        if path not in self._files:
            self._files[path] = digest_file(path)
        return self._files[path]

    def done(self, job: Job) -> bool:
        """Whether the result on disk is this job's, and whole."""
        known, path = self.finished.get(job.name), self.out / job.name
        if known is None or not path.is_file():
            return False
        return known.work == self.key(job) and known.result == digest_file(path)

    def claim(self, jobs: Sequence[Job], sheets: bool) -> None:
        """Make the results of these jobs, and their sheets, ours to write.

        UserError where one of them stands there and is not ours, or is both a result and a sheet.
        """
        wanted = {job.name: RESULT for job in jobs}
        for job in jobs if sheets else ():
            if wanted.setdefault(sheet_name(job), SHEET) != SHEET:
                raise UserError(
                    f"The sheet of {job.name} would overwrite the result {sheet_name(job)}: leave --sheet "
                    "out, or rename that low-quality picture."
                )
        for name, kind in wanted.items():
            path = self.out / name
            if (path.exists() or path.is_symlink()) and self.made.get(name) != kind:
                raise UserError(
                    f"{path} is there, and no run.json in {self.out} says that `ffhqref restore` made it as "
                    f"a {kind}: move it away or give another --out."
                )
        self.made |= wanted
        self.mine_made |= wanted

    def note(self, job: Job) -> None:
        """The job's result is written."""
        self.mine[job.name] = Finished(self.key(job), digest_file(self.out / job.name))

    def save(self, outcome: RestoreOutcome, versions: Mapping[str, str]) -> None:
        """Write the file anew."""
        content = {
            "command": "restore",
            "versions": {"ffhqref": __version__, **versions},
            "settings": asdict(self.settings),
            "failed": outcome.failed,
            "made": self.mine_made,
            "finished": {name: asdict(one) for name, one in self.mine.items()},
        }
        write_text(self.path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def sheet_name(job: Job) -> str:
    """Where a job's sheet lies, below the folder of results."""
    return f"{SHEETS}/{job.name}"


def _table(path: Path, key: str) -> dict[str, object]:
    """A table of a record; empty where it is none, whatever stands in the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size < MAX_JSON else None
    except (OSError, ValueError, RecursionError):
        return {}
    table = content.get(key) if isinstance(content, dict) else None
    return table if isinstance(table, dict) else {}


def _finished(path: Path) -> dict[str, Finished]:
    """What a record says is finished. Records of earlier versions know no digests: all is done again."""
    found = {}
    for name, one in _table(path, "finished").items():
        if isinstance(one, dict):
            found[name] = Finished(str(one.get("work")), str(one.get("result")))
    return found


def _made(path: Path) -> dict[str, str]:
    """What a record says was written; earlier versions wrote down finished results alone."""
    results = dict.fromkeys(_table(path, "finished"), RESULT)
    return results | {name: str(kind) for name, kind in _table(path, "made").items()}


def spare_inputs(jobs: Sequence[Job], out: Path, sheets: bool = False) -> None:
    """UserError where a result or a sheet would take the place of a picture that was given."""
    given = {path.resolve() for job in jobs for path in (job.lq, *job.references, job.truth) if path}
    for job in jobs:
        for name in (job.name, sheet_name(job)) if sheets else (job.name,):
            if (out / name).resolve() in given:
                raise UserError(f"--out {out} would overwrite {out / name}: give another folder.")


@contextmanager
def writer(out: Path, part: str | None) -> Iterator[None]:
    """One process a folder, or one a shard: shards of one run may write the same folder together."""
    place = out if part is None else out / ".shards" / part.replace("/", "of")
    with lock(place, "restore"):
        yield
