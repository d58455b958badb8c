"""Scores by group: hand-made groups, yaw from a turned head, a plot that shows the curve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffhqref.core import images
from ffhqref.core.store import UserError
from ffhqref.evaluate.cases import LOW_QUALITY, Case, Cases
from ffhqref.evaluate.curves import INKS, curve, eye_distance, groups_of, plot, write_curve, yaw
from ffhqref.evaluate.run import Evaluation

CASES = Cases(
    [Case(image=f"{n}.png", person="pq"[n % 2], references=("r",) * (1 + n // 2)) for n in range(4)]
)


def found() -> Evaluation:
    evaluation = Evaluation([LOW_QUALITY, "a"], CASES.person)
    values = {f"{n}.png": float(n) for n in range(4)}
    evaluation.values = {LOW_QUALITY: {"ids": {k: 0.0 for k in values}}, "a": {"ids": values}}
    return evaluation


def face(turned: float, eyes: float = 100.0) -> np.ndarray:
    """Five points of a head turned by so many degrees, seen from far: eyes, nose, mouth."""
    angle = np.deg2rad(turned)
    model = np.array([[-50, 0, 0], [50, 0, 0], [0, 60, 55], [-35, 110, 10], [35, 110, 10]]) * eyes / 100
    x = model[:, 0] * np.cos(angle) + model[:, 2] * np.sin(angle)
    return np.stack([x + 256, model[:, 1] + 240], 1).astype(np.float32)


@pytest.mark.parametrize("degrees", [-40, -10, 0, 10, 40])
def test_yaw_is_the_head_s(degrees: float) -> None:
    assert yaw(face(degrees)) == pytest.approx(degrees, abs=1.0)
    tilted = face(degrees) @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)  # in the picture's plane
    assert yaw(tilted) == pytest.approx(degrees, abs=1.0)
    assert eye_distance(face(0, 80)) == pytest.approx(80)


def test_by_references(tmp_path: Path) -> None:
    group, order = groups_of("references", CASES, None, {})
    one = curve(found(), "ids", "references", group, order)
    assert one.groups == ("1", "2")
    assert [one.means["a"][name].mean for name in one.groups] == [0.5, 2.5]
    assert one.means["a"]["1"].people == 2
    table, picture = write_curve(tmp_path, [one])
    assert table.read_text().splitlines()[0] == "group,method,metric,pictures,people,mean,low,high"
    shown = images.read(picture)
    assert all((shown == ink).all(axis=2).sum() > 30 for ink in INKS[:2]) and np.array_equal(shown, plot(one))


def test_by_labels_and_landmarks(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,race,age\n0.jpg,Indian,70+\n1.png,White,3-9\n2.png,White,20-29\n")
    group, order = groups_of("race", CASES, labels, {})
    assert order == ("Indian", "White") and group == {"0.png": "Indian", "1.png": "White", "2.png": "White"}
    assert groups_of("age", CASES, labels, {})[1] == ("3-9", "20-29", "70+")
    labels.write_text("image,age\n" + "".join(f"{n}.png,{5 + 9 * n}.5\n" for n in range(4)))
    assert groups_of("age", CASES, labels, {})[1] == ("14.5", "23.5", "32.5", "5.5")
    group, order = groups_of("yaw", CASES, None, {"0.png": face(0), "3.png": face(40)})
    assert (
        group == {"0.png": "-5 to 5 degrees", "3.png": "30 and more degrees"}
        and order[0] == "below -30 degrees"
    )
    group, _ = groups_of("eyes", CASES, None, {"1.png": face(0, 90)})
    assert group == {"1.png": "80 to 100 px"}


@pytest.mark.parametrize(
    ("by", "rows", "sentence"),
    [
        ("race", None, "needs --labels"),
        ("yaw", None, "needs landmarks"),
        ("race", "image,race\nzz.png,White\n", "says nothing of race"),
        ("race", "picture,race\n1.png,White\n", "no column image"),
    ],
)
def test_what_cannot_be_grouped(tmp_path: Path, by: str, rows: str | None, sentence: str) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(rows or "")
    with pytest.raises(UserError, match=sentence):
        groups_of(by, CASES, labels if rows else None, {})
