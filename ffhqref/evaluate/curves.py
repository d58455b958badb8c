"""Scores by what a target is like: number of references, labels, distance of the eyes, yaw; with a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import Rgb, write
from ffhqref.core.store import UserError
from ffhqref.core.terminal import shown
from ffhqref.dataset.drawing import AGE_GROUPS
from ffhqref.evaluate.cases import Cases
from ffhqref.evaluate.run import Evaluation
from ffhqref.evaluate.statistics import Mean, mean_over_people
from ffhqref.evaluate.summary import digits

KNOWN = ("references", "eyes", "yaw")  # what needs no label
EYES = (60, 80, 100, 120, 140)  # px between the eyes at which groups begin anew
YAW = (-30, -15, -5, 5, 15, 30)  # degrees
NOSE = 0.55  # of the eyes' distance: how far the nose tip stands before their plane
WIDTH, HEIGHT = 960, 540  # px of the plot
X0, X1, Y0, Y1 = 90, 700, 60, 440
AXIS, GRID = (40, 40, 40), (225, 225, 225)
INKS = ((30, 110, 200), (210, 80, 30), (20, 140, 70), (150, 60, 170), (120, 120, 120), (190, 150, 20))


@dataclass(frozen=True)
class Curve:
    """A metric by group: the groups in their order, and each method's mean in each."""

    by: str
    metric: str
    groups: tuple[str, ...]
    means: Mapping[str, Mapping[str, Mean]]  # method -> group -> mean


def groups_of(
    by: str, cases: Cases, labels: Path | None, points: Mapping[str, Float32]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Image -> group, and the groups in order. UserError where nothing says what group a target is in.

    A column of `labels` of the name `by` comes first; ages in years become FairFace's nine groups.
    """
    column = _column(by, labels)
    if column is not None:
        return _by_labels(by, cases, column, labels)
    if by == "references":
        counts = {case.image: len(case.references) for case in cases.cases}
        return {image: str(count) for image, count in counts.items()}, _in_order(counts.values())
    if by not in KNOWN:
        raise UserError(f"--by {by} needs --labels, a CSV of image and {by} (`ffhqref demographics`).")
    measure, limits, unit = (eye_distance, EYES, "px") if by == "eyes" else (yaw, YAW, "degrees")
    known = {case.image: points[case.image] for case in cases.cases if case.image in points}
    if not known:
        raise UserError(f"--by {by} needs landmarks: a dataset built with a detector, or --labels.")
    names = _ranges(limits, unit)
    return {image: names[int(np.digitize(measure(p), limits))] for image, p in known.items()}, names


def _column(by: str, labels: Path | None) -> dict[str, str] | None:
    if labels is None:
        return None
    frame = lists.read_csv(labels, [tables.IMAGE])
    return dict(zip(frame[tables.IMAGE], frame[by], strict=True)) if by in frame.columns else None


def _by_labels(
    by: str, cases: Cases, column: Mapping[str, str], labels: Path | None
) -> tuple[dict[str, str], tuple[str, ...]]:
    stems = {PurePosixPath(name).with_suffix("").as_posix(): label for name, label in column.items()}
    found = {}
    for case in cases.cases:
        label = column.get(case.image) or stems.get(PurePosixPath(case.image).with_suffix("").as_posix())
        if label:
            found[case.image] = label
    if not found:
        raise UserError(f"{labels} says nothing of {by} for any target: its image column must hold names.")
    numbers = _numbers(found)
    if numbers is None:
        return found, tuple(sorted(set(found.values()), key=_sort_key))
    limits, unit = (AGE_GROUPS, "years") if by == "age" else (YAW, "degrees") if by == "yaw" else (None, "")
    if limits is None:
        limits = tuple(sorted(set(np.quantile(list(numbers.values()), (0.25, 0.5, 0.75)).round(3))))
    names = _ranges(limits, unit)
    return {image: names[int(np.digitize(value, limits))] for image, value in numbers.items()}, names


def _numbers(found: Mapping[str, str]) -> dict[str, float] | None:
    """The labels as numbers, or None where they are words or a handful of values."""
    try:
        numbers = {image: float(text) for image, text in found.items()}
    except ValueError:
        return None
    return numbers if len(set(numbers.values())) > 9 else None


def _sort_key(label: str) -> tuple[float, str]:
    """3-9 comes before 10-19, and 70+ last; words by the alphabet."""
    digits_first = label.partition("-")[0].rstrip("+")
    return (float(digits_first), label) if digits_first.isdecimal() else (np.inf, label)


def _in_order(values: object) -> tuple[str, ...]:
    return tuple(str(value) for value in sorted(set(values)))  # type: ignore[call-overload]


def _ranges(limits: Sequence[float], unit: str) -> tuple[str, ...]:
    inner = [f"{low:g} to {high:g}" for low, high in zip(limits, limits[1:], strict=False)]
    names = (f"below {limits[0]:g}", *inner, f"{limits[-1]:g} and more")
    return tuple(f"{name} {unit}".strip() for name in names)


def eye_distance(points: Float32) -> float:
    """px between the eyes of five points (5 x 2)."""
    return float(np.hypot(*(points[1] - points[0])))


def yaw(points: Float32) -> float:
    """An estimate of how far a face turns to the picture's right, degrees, from five points (5 x 2).

    The nose tip stands about 0.55 eye distances before the plane of the eyes: turned by a, it lies 0.55
    sin(a) of them beside their middle, and the distance seen is cos(a) of the true one.
    """
    eyes = points[1].astype(np.float64) - points[0]
    span = np.hypot(*eyes)
    if span == 0:
        return 0.0
    beside = float(((points[2] - (points[0] + points[1]) / 2.0) @ eyes) / span**2)  # tan(a) * NOSE
    return float(np.degrees(np.arctan(beside / NOSE)))


def curve(found: Evaluation, metric: str, by: str, group: Mapping[str, str], order: Sequence[str]) -> Curve:
    """Each method's mean and interval in each group that has pictures."""
    there = [name for name in order if any(group.get(image) == name for image in found.person)]
    means = {
        method: {
            name: mean_over_people(
                {i: v for i, v in values[metric].items() if group.get(i) == name}, found.person
            )
            for name in there
        }
        for method, values in found.values.items()
        if metric in values
    }
    return Curve(by, metric, tuple(there), means)


def plot(one: Curve) -> Rgb:
    """The means over the groups with their intervals, a colour a method."""
    picture = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    every = [m for row in one.means.values() for m in row.values() if m.count]
    edges = [v for m in every for v in (m.mean, m.low, m.high) if np.isfinite(v)] or [0.0, 1.0]
    low, high = min(edges), max(edges)
    room = 0.08 * (high - low) or 0.5

    def y(value: float) -> int:
        return round(Y1 - (Y1 - Y0) * (value - low + room) / (high - low + 2 * room))

    def x(at: int) -> int:
        return round(X0 + (X1 - X0) * (at + 0.5) / max(1, len(one.groups)))

    def text(words: str, at: tuple[int, int], colour: tuple[int, int, int], size: float = 0.45) -> None:
        plain = shown(words).encode("ascii", "replace").decode()  # OpenCV draws ASCII only
        cv2.putText(picture, plain, at, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)

    for value in np.linspace(low, high, 5):
        cv2.line(picture, (X0, y(value)), (X1, y(value)), GRID, 1)
        text(f"{value:.{digits(one.metric)}f}", (X0 - 65, y(value) + 5), AXIS)
    for at, name in enumerate(one.groups):
        lower = 18 * (at % 2) if max(map(len, one.groups)) > 8 else 0  # long names would touch
        text(name[:14], (x(at) - 4 * min(len(name), 14), Y1 + 25 + lower), AXIS)
    for number, (method, row) in enumerate(one.means.items()):
        ink, shift = INKS[number % len(INKS)], 5 * number
        dots = [(x(at) + shift, row[name]) for at, name in enumerate(one.groups) if row[name].count]
        line = np.array([(left, y(mean.mean)) for left, mean in dots], np.int32)
        cv2.polylines(picture, [line], False, ink, 2, cv2.LINE_AA)
        for left, mean in dots:
            cv2.circle(picture, (left, y(mean.mean)), 4, ink, -1, cv2.LINE_AA)
            if np.isfinite(mean.low):
                cv2.line(picture, (left, y(mean.low)), (left, y(mean.high)), ink, 1, cv2.LINE_AA)
        text(method[:28], (X1 + 20, Y0 + 22 * number), ink)
    text(f"{one.metric} by {one.by}: mean and 95 % interval over people", (X0, 30), AXIS, 0.6)
    return picture


BY_COLUMNS = ("group", tables.METHOD, tables.METRIC, "pictures", "people", "mean", "low", "high")


def write_curve(out: Path, curves: Sequence[Curve]) -> list[Path]:
    """by-NAME.csv with every metric, and a plot of the first."""
    first = curves[0]
    table, picture = out / f"by-{first.by}.csv", out / f"by-{first.by}.png"
    rows = [
        [group, method, one.metric, mean.count, mean.people, mean.mean, mean.low, mean.high]
        for one in curves
        for group in one.groups
        for method, row in one.means.items()
        if (mean := row[group]).count
    ]
    lists.write_csv(table, BY_COLUMNS, rows)
    write(picture, plot(first))
    return [table, picture]


def lines(one: Curve) -> list[str]:
    """For the terminal: a line a group and method."""
    width, places = max((len(name) for name in one.groups), default=0), digits(one.metric)
    return [
        f"  {shown(group):<{width}}  {shown(method)}: {mean.text(places)} ({mean.count:,})"
        for group in one.groups
        for method, row in one.means.items()
        if (mean := row[group]).count
    ]
