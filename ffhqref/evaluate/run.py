"""evaluate: cases and methods -> scores.parquet and failures.csv, resumable; then the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from ffhqref import __version__
from ffhqref.core import lists, tables
from ffhqref.core.store import UserError, digest_file, lock, read_receipt
from ffhqref.evaluate import adapters, external
from ffhqref.evaluate.cases import LOW_QUALITY, Cases, Method
from ffhqref.evaluate.identity import (
    IDS,
    MATCH_RATES,
    OF_REFERENCES,
    Faces,
    Threshold,
    matching_view,
    thresholds,
)
from ffhqref.evaluate.scoring import PSNR, RESIZED, SSIM, TRUTH, Entry, Scored, Settings, items_of, score_all
from ffhqref.evaluate.views import JUDGE, Recogniser, known_points, open_recogniser
from ffhqref.faces.networks import RUNTIME, Device

OURS = ("ids", PSNR, SSIM)
METRICS = (*OURS, *adapters.EXTERNAL, adapters.FID)
PROTOCOLS = {
    "refldm": ("ids", PSNR, SSIM, "lpips", "flpips", "niqe", "musiq", "fid"),
    "ntire2026": ("ids", "niqe", "clipiqa", "maniqa", "musiq", "qalign", "fid"),
    "all": METRICS,
}
JOURNAL, EXTERNAL_JOURNAL = "scored.jsonl", "external.jsonl"
IDENTITY_METRICS = (*IDS, *MATCH_RATES, *OF_REFERENCES)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is measured, and with what. `workers` never changes a digit."""

    metrics: tuple[str, ...] = OURS
    embedder: Path | None = None  # ArcFace (ONNX) of the identity scores
    judge: Path | None = None  # an independent one
    detector: Path | None = None  # SCRFD (ONNX): results without a face count as failures
    landmarks: Path | None = None  # five points of the targets, where no dataset has them
    parsing: Path | None = None  # for flpips: label maps, or an ONNX parser
    size: int = 512  # px: pictures of another size are resized, as published
    device: Device = "auto"
    workers: int | None = None
    fid_statistics: str = ""  # NAME:RESOLUTION:SPLIT in place of the targets

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise UserError(f"--metrics {','.join(unknown)}: known are {', '.join(METRICS)}.")
        if not 32 <= self.size <= 4096:
            raise UserError(f"--size {self.size}: give a number of px from 32 to 4096.")
        if self.fid_statistics and len(self.fid_statistics.split(":")) != 3:
            raise UserError("--fid-statistics takes NAME:RESOLUTION:SPLIT, such as FFHQ:512:trainval70k.")


Failure = tuple[str, str, str, str]  # method, image, status, reason


@dataclass
class Evaluation:
    """What was measured: values by method, metric and image, in the methods' order, the input first."""

    methods: list[str]
    person: dict[str, str]
    values: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    overall: dict[str, dict[str, float]] = field(default_factory=dict)  # of all pictures together
    overall_full: dict[str, dict[str, float]] = field(
        default_factory=dict
    )  # failures as the low-quality ones
    failures: list[Failure] = field(default_factory=list)  # results that cannot be used
    unmeasured: list[Failure] = field(default_factory=list)  # usable ones that one metric cannot judge
    resized: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # for people: what was not computed, and why
    limits: dict[str, Threshold] = field(default_factory=dict)

    @property
    def metrics(self) -> list[str]:
        """Every metric that has a value, in the tables' order."""
        order = [*IDENTITY_METRICS, PSNR, SSIM, *adapters.EXTERNAL]
        return [name for name in order if any(name in of for of in self.values.values())]

    def failed(self, method: str) -> list[str]:
        """The images that a method has no usable picture for."""
        return [image for name, image, *_ in self.failures if name == method]


def evaluate(
    cases: Cases, methods: Sequence[Method], out: Path, options: EvaluateOptions, dataset: Path | None = None
) -> Evaluation:
    """Score every method's pictures of the cases and write scores.parquet and failures.csv to `out`.

    Run again it scores what changed. UserError where options cannot serve; a picture that cannot be used is
    a failure of its method, listed with its reason.
    """
    _check(cases, methods)
    with lock(out, "evaluate"):
        recogniser = _recogniser(options)
        points = known_points(dataset, options.landmarks, recogniser.detector if recogniser else None)
        settings = Settings(
            options.size, tuple(name for name in (PSNR, SSIM) if name in options.metrics),
            recogniser, points, _landmarks_digest(dataset, options),
        )  # fmt: skip
        files = {method.name: method.files() for method in methods}
        items = items_of(cases, files, settings)
        scored = score_all(items, settings, out / JOURNAL, options.workers)
        found = _collect(cases, [method.name for method in methods], scored)
        if recogniser:
            _identity(cases, scored, found)
        if not any(case.target for case in cases.cases):
            wanted = [metric for metric in OURS if metric in options.metrics]
            found.notes += [f"{metric}: not computed, there are no targets." for metric in wanted]
        external.measure(cases, files, found, options, out / EXTERNAL_JOURNAL)
        _write(out, found, _computed_by(recogniser, found, options))
    return found


def _check(cases: Cases, methods: Sequence[Method]) -> None:
    names = [method.name for method in methods]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(f"--restored names {min(twice)} twice: give each folder a name of its own.")
    files = [case.file for case in cases.cases]
    if len(set(files)) < len(files):
        raise UserError("Two targets have one name but for their suffix: rename one of them.")


def _recogniser(options: EvaluateOptions) -> Recogniser | None:
    if "ids" not in options.metrics:
        return None
    if options.embedder is None:
        raise UserError(
            "The identity score needs a recognition network: give --embedder FILE (`ffhqref download` has "
            "some), or leave ids out of --metrics."
        )
    return open_recogniser(options.embedder, options.judge, options.detector, options.device)


def _landmarks_digest(dataset: Path | None, options: EvaluateOptions) -> str:
    if options.landmarks:
        if not options.landmarks.is_file():
            raise UserError(f"There is no {options.landmarks}: give --landmarks a CSV or FFHQ's JSON.")
        return digest_file(options.landmarks)
    receipt = read_receipt(dataset, "embed") if dataset else None
    return ",".join(sorted(receipt.outputs.values())) if receipt else ""


def _collect(cases: Cases, names: Sequence[str], scored: Mapping[str, Scored]) -> Evaluation:
    """Statuses and our own scores. A case whose target cannot be read is nobody's failure and left out."""
    methods = [LOW_QUALITY] if any(case.lq for case in cases.cases) else []
    found = Evaluation([*methods, *names], {})
    for case in cases.cases:
        entries = scored[case.image]
        truth = entries[TRUTH]
        if truth.status != "ok":
            found.failures.append((TRUTH, case.image, truth.status, truth.reason))
            continue
        found.person[case.image] = case.person
        for method in found.methods:
            entry = entries.get(method)
            if entry is None or entry.status != "ok":
                status = (entry.status, entry.reason) if entry else ("missing", "there is no such file")
                found.failures.append((method, case.image, *status))
                continue
            found.resized[method] = found.resized.get(method, 0) + (entry.note == RESIZED)
            for metric, value in entry.scores.items():
                _put(found, method, metric, case.image, value)
    if not found.person:
        raise UserError("No target could be read: give --images (or --targets) the folder that holds them.")
    usable = len(found.person)
    for name in names:
        if len(found.failed(name)) == usable:
            first = next(row for row in found.failures if row[0] == name)
            raise UserError(
                f"No result of {name} could be used ({first[1]}: {first[3]}): its files must have the "
                "targets' names."
            )
    return found


def _put(found: Evaluation, method: str, metric: str, image: str, value: float) -> None:
    found.values.setdefault(method, {}).setdefault(metric, {})[image] = value


def _identity(cases: Cases, scored: Mapping[str, Scored], found: Evaluation) -> None:
    faces = Faces(cases, scored, matching_view(scored))
    found.limits = thresholds(*faces.population())
    found.notes += [
        f"{metric}: not measured, {limit}; there are {limit.pairs:,}."
        for metric, limit in found.limits.items()
        if limit.similarity is None
    ]
    for case in cases.cases:
        if case.image not in found.person:
            continue
        for method in found.methods:
            entry: Entry | None = scored[case.image].get(method)
            if entry is not None and entry.status == "ok":
                for metric, value in faces.of(case, entry, found.limits):
                    _put(found, method, metric, case.image, value)


def _computed_by(
    recogniser: Recogniser | None, found: Evaluation, options: EvaluateOptions
) -> dict[str, str]:
    """Metric -> what computed it: library, version, the network's digest."""
    ours = f"ffhqref {__version__}, numpy {np.__version__}, opencv {cv2.__version__}"
    by = {metric: ours for metric in (PSNR, SSIM)} | external.computed_by(found, options)
    if recogniser:
        runtime = f"ffhqref {__version__}, {RUNTIME}, sha256 "
        by |= dict.fromkeys(IDENTITY_METRICS, runtime + recogniser.embedder.digest)
        if recogniser.judge:
            by[f"ids_{JUDGE}"] = runtime + recogniser.judge.digest
    return by


def _write(out: Path, found: Evaluation, by: Mapping[str, str]) -> None:
    """scores.parquet ordered by method, image and metric as they are compared; failures.csv."""
    rows = [
        (method, image, metric, value, by.get(metric, ""))
        for method in found.methods
        for metric, values in found.values.get(method, {}).items()
        for image, value in values.items()
    ]
    rows += [
        (method, "", metric, value, by.get(metric, ""))
        for method, values in found.overall.items()
        for metric, value in values.items()
    ]
    place = {method: at for at, method in enumerate(found.methods)}
    rows.sort(key=lambda row: (place[row[0]], row[1], row[2]))
    tables.write_rows(out / "scores.parquet", tables.SCORES, rows)
    lists.write_csv(out / "failures.csv", tables.FAILURES, sorted([*found.failures, *found.unmeasured]))
