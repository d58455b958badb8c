"""The metrics of other libraries over all pictures, noted one by one so that a killed run goes on."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ffhqref.core import images, journal
from ffhqref.core.images import BadImage
from ffhqref.core.journal import Made
from ffhqref.core.store import digest
from ffhqref.degrade.stage import resize_square
from ffhqref.evaluate import adapters
from ffhqref.evaluate.adapters import EXTERNAL, FID, Opened
from ffhqref.evaluate.cases import LOW_QUALITY, Case, Cases
from ffhqref.evaluate.parsing import Masks, masked, open_masks
from ffhqref.evaluate.scoring import stamp

if TYPE_CHECKING:
    from ffhqref.evaluate.run import EvaluateOptions, Evaluation

FLPIPS = "flpips"
Files = Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class ExternalItem:
    """One metric of one result."""

    metric: str
    method: str
    case: Case
    result: Path
    key: str

    @property
    def file(self) -> str:
        return f"{self.metric}\n{self.method}\n{self.case.image}"


def measure(cases: Cases, files: Files, found: Evaluation, options: EvaluateOptions, path: Path) -> None:
    """Add the wanted external metrics to `found`; what is absent is named in its notes."""
    wanted = [name for name in EXTERNAL if name in options.metrics]
    ready = [name for name in wanted if _ready(name, cases, found, options)]
    opened = {name: adapters.open_metric(name, _device(options)) for name in ready}
    masks = open_masks(options.parsing, options.size) if options.parsing and FLPIPS in opened else None
    items = [item for name in ready for item in _items(name, cases, files, found, options, opened[name])]
    known = journal.read(path)
    todo = [item for item in items if item.file not in known or known[item.file].key != item.key]
    if todo:
        worker = _Worker(opened, masks, options.size)
        known |= journal.make_all(todo, worker.make, path, workers=1, what="other metrics")
        journal.write(path, {item.file: known[item.file] for item in items})
    for item in items:
        made = known[item.file]
        if made.status == "ok":
            values = found.values.setdefault(item.method, {}).setdefault(item.metric, {})
            values[item.case.image] = float(json.loads(made.note))
        else:
            found.unmeasured.append(
                (item.method, item.case.image, made.status, f"{item.metric}: {made.reason}")
            )
    if FID in options.metrics:
        _fid(cases, files, found, options)


def _device(options: EvaluateOptions) -> str:
    return "cuda" if options.device == "cuda" else "cpu"


def _ready(metric: str, cases: Cases, found: Evaluation, options: EvaluateOptions) -> bool:
    """Whether a metric can be computed; its reason goes to the notes where not."""
    reason = adapters.absent(metric)
    if not reason and metric == FLPIPS and options.parsing is None:
        reason = "flpips needs --parsing, a folder of face parsing maps or an ONNX parser"
    if not reason and EXTERNAL[metric].needs_target and not any(case.target for case in cases.cases):
        reason = f"{metric} needs targets"
    if reason:
        found.notes.append(f"{metric}: not computed, {reason}.")
    return not reason


def _items(
    metric: str, cases: Cases, files: Files, found: Evaluation, options: EvaluateOptions, opened: Opened
) -> Iterator[ExternalItem]:
    """The pictures of every method that are usable (see `Evaluation.failures`)."""
    base = [metric, opened.computed_by, options.size]
    base += [str(stamp(options.parsing))] if metric == FLPIPS else []
    for method in found.methods:
        for case, result in usable(cases, files, found, method):
            key = digest(json.dumps([*base, stamp(case.target), stamp(result)]).encode())
            yield ExternalItem(metric, method, case, result, key)


def usable(cases: Cases, files: Files, found: Evaluation, method: str) -> Iterator[tuple[Case, Path]]:
    """The cases for which a method has a picture that can be used, and the picture."""
    failed = set(found.failed(method))
    for case in cases.cases:
        if case.image in found.person and case.image not in failed:
            result = case.lq if method == LOW_QUALITY else files[method].get(case.file)
            if result is not None:
                yield case, result


@dataclass(frozen=True)
class _Worker:
    opened: Mapping[str, Opened]
    masks: Masks | None
    size: int

    def make(self, item: ExternalItem) -> Made:
        try:
            image = resize_square(images.read(item.result), self.size)
            target = resize_square(images.read(item.case.target), self.size) if item.case.target else None
            if item.metric == FLPIPS and self.masks is not None and target is not None:
                mask = self.masks(item.case.image, target)
                image, target = masked(image, mask), masked(target, mask)
        except BadImage as bad:
            return Made(item.key, "", bad.status, str(bad))
        return Made(item.key, "", note=json.dumps(self.opened[item.metric].measure(image, target)))


def _fid(cases: Cases, files: Files, found: Evaluation, options: EvaluateOptions) -> None:
    reason = adapters.fid_absent(options.fid_statistics)
    targets = [case.target for case in cases.cases if case.target and case.image in found.person]
    if not reason and not targets and not options.fid_statistics:
        reason = "fid needs targets or --fid-statistics"
    if reason:
        found.notes.append(f"{FID}: not computed, {reason}.")
        return
    with _folder(targets) as truth:
        for method in found.methods:
            paths = [path for _, path in usable(cases, files, found, method)]
            value = _distance(paths, truth, options)
            found.overall.setdefault(method, {})[FID] = value
            failed = set(found.failed(method))
            instead = [case.lq for case in cases.cases if case.image in failed and case.image in found.person]
            if instead and all(path is not None and path.is_file() for path in instead):
                full = _distance([*paths, *(path for path in instead if path)], truth, options)
                found.overall_full.setdefault(method, {})[FID] = max(value, full)  # no gain by failing


def _distance(paths: list[Path], truth: Path, options: EvaluateOptions) -> float:
    with _folder(paths) as results:
        return adapters.fid(results, truth, options.fid_statistics, _device(options))


@contextmanager
def _folder(paths: list[Path]) -> Iterator[Path]:
    """A folder of links to exactly these pictures: a folder of results may hold others beside."""
    with tempfile.TemporaryDirectory() as name:
        for number, path in enumerate(paths):
            os.symlink(path.resolve(), Path(name) / f"{number:06d}{path.suffix.lower()}")
        yield Path(name)


def computed_by(found: Evaluation, options: EvaluateOptions) -> dict[str, str]:
    """Metric -> library, version and what it is called there."""
    by = {}
    for metric in EXTERNAL:
        if any(metric in values for values in found.values.values()):
            by[metric] = adapters.computed_by(metric)
    if found.overall:
        by[FID] = adapters.fid_computed_by(options.fid_statistics)
    return by
