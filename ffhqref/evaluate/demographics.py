"""Predicted race, age and gender of a dataset's photos -> a CSV of labels, with what is known of its errors.

A prediction is no fact about a person: every row says what predicted it, and shares are given with an
interval that the labeller's known error allows, never bare.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from ffhqref.core import images, journal, lists, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Rgb
from ffhqref.core.journal import Made
from ffhqref.core.store import UserError, digest, lock, recorded_images
from ffhqref.evaluate.scoring import stamp
from ffhqref.evaluate.views import stored_points
from ffhqref.faces.labels import GenderAge, Predicted
from ffhqref.faces.networks import Device

PARTS = ("race", "age", "gender")
COLUMNS = (tables.IMAGE, *(name for part in PARTS for name in (part, f"{part}_probability")), "predicted_by")
RIGHT = {("fairface", "race"): 0.71}  # shares of faces labelled right in an independent check
Label = dict[str, str]  # by COLUMNS


@dataclass(frozen=True)
class Labeller:
    """A network that labels: a picture and its five points (5 x 2 px) -> the columns that it knows."""

    kind: str  # fairface or genderage
    digest: str
    label: Callable[[Rgb, Float32], Label]

    @property
    def predicted_by(self) -> str:
        return f"{self.kind} {self.digest[:12]}"


def open_labeller(path: Path, device: Device = "auto") -> Labeller:
    """FairFace's ResNet-34 (.pt, needs torch) or InsightFace's genderage (.onnx); UserError else."""
    if not path.is_file():
        raise UserError(f"There is no {path}: give --network FairFace's .pt or InsightFace's genderage.onnx.")
    if path.suffix == ".onnx":
        network = GenderAge(path, device)
        return Labeller("genderage", network.digest, lambda *face: _of_genderage(network.predict(*face)))
    from ffhqref.restore.run import need_torch

    need_torch()
    from ffhqref.evaluate.fairface import FairFace

    fair = FairFace(path)

    def label(image: Rgb, points: Float32) -> Label:
        found: Label = {}
        for part, (classes, odds) in fair.predict(image, points).items():
            best = int(odds.argmax())
            found |= {part: classes[best], f"{part}_probability": f"{odds[best]:.4f}"}
        return found

    return Labeller("fairface", fair.digest, label)


def _of_genderage(found: Predicted) -> Label:
    """Age in years; its probability is that of the years five above and below, where the network gives it."""
    label = {"gender": found.gender, "gender_probability": f"{found.gender_probability:.4f}"}
    label["age"] = str(found.age)
    if found.years is not None:
        near = found.years[max(0, found.age - 5) : found.age + 6].sum()
        label["age_probability"] = f"{near:.4f}"
    return label


@dataclass(frozen=True)
class PhotoItem:
    """A photo to label."""

    file: str
    key: str
    path: Path
    points: Float32


@dataclass(frozen=True)
class Demographics:
    """Image -> label, what predicted it, photos without one (with the reason), and photos' people."""

    labels: Mapping[str, Label]
    labeller: Labeller
    left_out: Mapping[str, str]
    person: Mapping[str, str]
    path: Path


def predict(
    out: Path, network: Path, *, photos: Path | None = None, file: Path | None = None,
    device: Device = "auto", workers: int | None = None,
) -> Demographics:  # fmt: skip
    """Label every photo of a dataset whose landmarks are known, into `file` (OUT/demographics.csv).

    Run again it labels what is missing. UserError where the dataset has no landmarks.
    """
    labeller, root = open_labeller(network, device), photos or recorded_images(out)
    known_points = stored_points(out)
    if not known_points:
        raise UserError(f"{out} has no landmarks: build it with a detector or --align landmarks.")
    with lock(out, "demographics"):
        items = [_item(labeller, root, name, points) for name, points in sorted(known_points.items())]
        place = out / "receipts" / "demographics.jsonl"
        known = journal.read(place)
        todo = [item for item in items if item.file not in known or known[item.file].key != item.key]
        if todo:
            known |= journal.make_all(
                todo, lambda item: _label(labeller, item), place, workers=workers, what="label"
            )
            journal.write(place, {item.file: known[item.file] for item in items})
        made = {item.file: known[item.file] for item in items}
        labels = {name: json.loads(one.note) for name, one in made.items() if one.status == "ok"}
        target = file or out / "demographics.csv"
        write_labels(target, labels, labeller.predicted_by)
    left_out = {name: one.reason for name, one in made.items() if one.status != "ok"}
    return Demographics(labels, labeller, left_out, _people(out), target)


def _item(labeller: Labeller, root: Path, name: str, points: Float32) -> PhotoItem:
    path = images.find(root, name)
    parts = [labeller.predicted_by, labeller.digest, stamp(path), points.tolist()]
    return PhotoItem(name, digest(json.dumps(parts).encode()), path, points)


def _label(labeller: Labeller, item: PhotoItem) -> Made:
    try:
        return Made(item.key, "", note=json.dumps(labeller.label(images.read(item.path), item.points)))
    except BadImage as bad:
        return Made(item.key, "", bad.status, str(bad))


def _people(out: Path) -> dict[str, str]:
    path = tables.path_of(out, "identities")
    if not path.is_file():
        return {}
    table = tables.read(path, tables.IDENTITIES, [tables.IMAGE, tables.IDENTITY])
    return dict(zip(tables.texts(table, tables.IMAGE), tables.texts(table, tables.IDENTITY), strict=True))


def write_labels(path: Path, labels: Mapping[str, Label], predicted_by: str) -> None:
    """The CSV that `split --labels`, `evaluate --by` and reports read; only of what was predicted."""
    there = {name for label in labels.values() for name in label}
    columns = [name for name in COLUMNS if name in (tables.IMAGE, "predicted_by") or name in there]
    rows = (
        [name, *(labels[name].get(column, "") for column in columns[1:-1]), predicted_by]
        for name in sorted(labels)
    )
    lists.write_csv(path, columns, rows)


@dataclass(frozen=True)
class Consistency:
    """Over pairs of photos of one person: the share with one predicted gender, and how ages spread."""

    pairs: int
    same_gender: float
    age_spread: tuple[float, float]  # median and 95th percentile of a person's standard deviation, years


def consistency(labels: Mapping[str, Label], person: Mapping[str, str]) -> Consistency | None:
    """How far predictions agree with themselves; None where no person has two labelled photos."""
    of: dict[str, list[Label]] = defaultdict(list)
    for name, label in labels.items():
        if name in person:
            of[person[name]].append(label)
    genders = [
        one["gender"] == other["gender"] for found in of.values() for one, other in combinations(found, 2)
    ]
    if not genders:
        return None
    ages = [[float(one["age"]) for one in found if one.get("age", "").isdecimal()] for found in of.values()]
    spreads = [float(np.std(found)) for found in ages if len(found) > 1]
    middle, wide = np.percentile(spreads, (50, 95)) if spreads else (np.nan, np.nan)
    return Consistency(len(genders), float(np.mean(genders)), (float(middle), float(wide)))


def interval(share: float, right: float) -> tuple[float, float]:
    """Between what shares the true one lies if at most 1 - right of all labels are wrong."""
    wrong = 1 - right
    return max(0.0, share - wrong), min(1.0, share + wrong)


def lines(found: Demographics) -> list[str]:
    """Predicted shares, each with what its labeller's error allows."""
    rows = []
    agreed = consistency(found.labels, found.person)
    for part in PARTS:
        values = [_class_of(part, label[part]) for label in found.labels.values() if part in label]
        if not values:
            continue
        right = RIGHT.get((found.labeller.kind, part))
        known = f"about {right:.0%} right" if right else "how often it is right is not known here"
        rows.append(f"Predicted {part} ({found.labeller.kind}, {known}):")
        rows += _shares(values, right)
    if agreed:
        rows.append(
            f"Over {agreed.pairs:,} pairs of photos of one person, {agreed.same_gender:.1%} have one "
            "predicted gender."
        )
        if np.isfinite(agreed.age_spread[0]):
            rows.append(
                f"Predicted ages of one person spread by {agreed.age_spread[0]:.1f} years (median of the "
                f"people's standard deviations; 95 % are below {agreed.age_spread[1]:.1f})."
            )
    return rows


def _class_of(part: str, value: str) -> str:
    """Years become a decade."""
    if part != "age" or not value.isdecimal():
        return value
    begin = min(int(value) // 10 * 10, 70)
    return f"{begin}-{begin + 9}" if begin < 70 else "70+"


def _shares(values: Sequence[str], right: float | None) -> list[str]:
    rows = []
    for name, count in sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])):
        share = count / len(values)
        if right is None:
            rows.append(f"  {name:<16} {count:,} predicted ({share:.1%}; error unknown)")
        else:
            low, high = interval(share, right)
            rows.append(f"  {name:<16} {count:,} predicted; the true share is from {low:.0%} to {high:.0%}")
    return rows
