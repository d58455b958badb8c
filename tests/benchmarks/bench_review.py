"""What a review is worth: a simulated reviewer who knows the people answers, question by question.

BCubed F and wrong references over the number of verdicts, in four orders: as `ffhqref review` asks (by
expected gain), by doubt alone, by distance (the least sure pair first), and by chance. Every answer is
written as the review writes it, and `cluster` groups anew under all that was said; a person whose parted
sides are not pure is split photo by photo. Writes .github/pictures/review.svg.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.recipe import load_recipe
from ffhqref.core.store import Receipt, read_receipt
from ffhqref.dataset import verdicts
from ffhqref.dataset.build import build_refs
from ffhqref.dataset.cluster import find_identities
from ffhqref.identities.grouping import agreement
from ffhqref.report import facts
from ffhqref.report.doubts import Doubt
from ffhqref.report.facts import Facts
from ffhqref.report.session import ReviewOptions, Session
from tests.benchmarks.common import FACES, ROOT, needed, score

DISTANCE, VERDICTS = 0.6, 150
PICTURE = ROOT / ".github" / "pictures" / "review.svg"
Order = Callable[[Sequence[Doubt]], Doubt]


@dataclass(frozen=True)
class Curve:
    """BCubed F and wrong references after 0, 1, 2, ... verdicts."""

    f: list[float]
    wrong: list[int]


def orders(distance: float) -> dict[str, Order]:
    chance = random.Random(0)
    return {
        "expected gain": lambda open_: max(open_, key=lambda d: d.rank),
        "doubt": lambda open_: max(open_, key=lambda d: d.chance),
        "distance": lambda open_: min(open_, key=lambda d: abs(d.distance - distance)),
        "random": lambda open_: chance.choice(list(open_)),
    }


def regroup(known: Facts) -> Facts:
    """The dataset as `cluster` groups it under the verdicts that were given."""
    find_identities(known.out, known.recipe)
    people = tables.read(tables.path_of(known.out, "identities"), tables.IDENTITIES)
    suspects = tables.read(tables.path_of(known.out, "suspects"), tables.SUSPECTS)
    return replace(
        known, identity=tables.texts(people, tables.IDENTITY), suspects=suspects.to_pylist(),
        receipts={**known.receipts, "cluster": needed_receipt(known.out)},
    )  # fmt: skip


def needed_receipt(out: Path) -> Receipt:
    receipt = read_receipt(out, "cluster")
    assert receipt is not None
    return receipt


def wrong_references(known: Facts, truth: Sequence[str]) -> int:
    """References (each way) of the grouping that show another person than the target."""
    label, true = (
        np.unique(np.asarray(of, object), return_inverse=True)[1] for of in (known.identity, truth)
    )
    path = tables.path_of(known.out, "pairs")
    blocks = tables.iterate_pairs(path, known.faces.names)
    return sum(2 * int(((label[a] == label[b]) & (true[a] != true[b])).sum()) for a, b, _ in blocks)


def answer(session: Session, key: str, doubt: Doubt, truth: Sequence[str]) -> bool:
    """Answer a question truly; whether that is other than what the dataset says."""
    same = truth[doubt.left] == truth[doubt.right]
    of_sides = [{truth[at] for at in side} for side in (doubt.left_side, doubt.right_side)]
    if doubt.together and not same and of_sides[0] & of_sides[1]:
        members = session.known.people[doubt.identity]
        session.answer("split", key, [at for at in members if truth[at] == truth[doubt.right]])
    else:
        session.answer("same" if same else "different", key)
    return same != doubt.together


def reviewed(known: Facts, truth: Sequence[str], choose: Order) -> Curve:
    """The curve of a reviewer who is asked `choose` of what is open, up to VERDICTS times."""
    path = verdicts.path_of(known.out)
    path.unlink(missing_ok=True)
    current = regroup(known)
    session, asked = Session(current, ReviewOptions("reviewer"), path), set[frozenset[int]]()
    curve = Curve([], [])
    while True:
        curve.f.append(agreement(current.identity, truth).bcubed_f)
        curve.wrong.append(wrong_references(current, truth))
        done = session.answered()
        open_ = {
            d: key for key, d in session.asked.items()
            if key not in done and frozenset((d.left, d.right)) not in asked
        }  # fmt: skip
        if not open_ or len(curve.f) > VERDICTS:
            return curve
        doubt = choose(list(open_))
        asked.add(frozenset((doubt.left, doubt.right)))
        if answer(session, open_[doubt], doubt, truth):
            current = regroup(current)
            session = Session(current, ReviewOptions("reviewer"), path)


def curves(out: Path, truth: dict[str, str]) -> dict[str, Curve]:
    """A curve for each order, of a dataset whose people are known; its verdicts.csv is written over."""
    known = facts.load(out)
    people = [truth[name] for name in known.faces.names]
    return {name: reviewed(known, people, choose) for name, choose in orders(known.distance).items()}


def people_of_photos() -> dict[str, str]:
    with (FACES / "photos.csv").open(newline="") as file:
        return {photo["file"]: f"{photo['set']}/{photo['identity']}" for photo in csv.DictReader(file)}


def people_of_lfw() -> dict[str, str]:
    return lists.read_labels(FACES / "lfw158" / "people.csv")


def built(images: Path, out: Path, grouping: str) -> Path:
    weights = needed(FACES / "weights")
    files = {"detector": "scrfd_2.5g_bnkps.onnx", "embedder": "w600k_mbf_dequant_fp32.onnx"}
    options = {key: str(weights / name) for key, name in files.items()}
    build_refs(
        images, out, load_recipe("photos", distance=DISTANCE, grouping=grouping, **options), device="cpu"
    )
    return out


def plot(found: dict[str, dict[str, Curve]], path: Path = PICTURE) -> None:
    """Two panels for each dataset: BCubed F and wrong references over verdicts."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "review", "font.size": 9}):
        figure = Figure(figsize=(9, 2.9 * len(found)), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        for line, (name, of_order) in enumerate(found.items()):
            for place, what in enumerate(("BCubed F", "wrong references")):
                axis = figure.add_subplot(len(found), 2, 2 * line + place + 1)
                for order, curve in of_order.items():
                    axis.plot(curve.wrong if place else curve.f, label=order, linewidth=1.8)
                axis.set_title(f"{name}: {what}", loc="left")
                axis.set_xlabel("verdicts")
                axis.spines[["top", "right"]].set_visible(False)
                axis.grid(alpha=0.3)
                if place:
                    axis.set_ylim(bottom=0)
        figure.axes[0].legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})


def rows_of(found: dict[str, dict[str, Curve]]) -> list[dict[str, Any]]:
    """For each dataset BCubed F at the end, beside random order, and all curves' ends in words."""
    rows = []
    for name, of_order in found.items():
        ours, theirs = of_order["expected gain"], of_order["random"]
        ends = [
            f"{order}: {c.f[0]:.4f} to {c.f[-1]:.4f} (first at {c.f.index(c.f[-1])}), "
            f"wrong references {c.wrong[0]:,} to {c.wrong[-1]:,} (first at {c.wrong.index(c.wrong[-1])})"
            for order, c in of_order.items()
        ]
        note = f"after {len(ours.f) - 1} verdicts, beside random order; " + "; ".join(ends)
        rows.append(score(f"review, {name}", ours.f[-1], theirs.f[-1], None, "BCubed F", note))
    return rows


def run() -> list[dict[str, Any]]:
    found = {}
    sources = (
        ("152 people", FACES / "photos", people_of_photos),
        ("LFW, 158 people", FACES / "lfw158" / "photos", people_of_lfw),
    )
    with tempfile.TemporaryDirectory() as folder:
        for place, (name, images, truth) in enumerate(sources):
            for grouping in ("components", "average"):
                out = built(needed(images), Path(folder) / f"{place}", grouping)
                found[f"{name}, {grouping}"] = curves(out, truth())
    plot(found)
    return rows_of(found)


if __name__ == "__main__":  # on datasets that are built already: OUT NAME photos|lfw ...
    done = {}
    for out, name, which in zip(sys.argv[1::3], sys.argv[2::3], sys.argv[3::3], strict=True):
        done[name] = curves(Path(out), people_of_lfw() if which == "lfw" else people_of_photos())
        print(rows_of({name: done[name]}), flush=True)
    plot(done)
