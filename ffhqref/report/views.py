"""Facts as the page shows them: a function for the contents of each section, words and numbers, no HTML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float64
from ffhqref.core.store import seed_for
from ffhqref.dataset.verdicts import agreed, frozen_people, standing
from ffhqref.report import figures
from ffhqref.report.facts import Facts, LeftOut
from ffhqref.report.figures import Chart

COMPARED = 3000  # photos whose pairs show how similar two people are
PUBLISHED_SPLITS = {"train": (18_816, 6_073), "val": (732, 300), "test": (857, 150)}  # photos, identities
GROUPINGS = {"components": "connected components, as in the paper", "average": "average linkage"}


@dataclass(frozen=True)
class Number:
    """A number of the first screen: the dataset's own beside FFHQ-Ref's."""

    name: str
    value: int
    published: int
    note: str = ""


@dataclass(frozen=True)
class Shown:
    """A photograph on the page: its name, what it is here, and its distance to the target if any."""

    name: str
    role: str = ""
    distance: float | None = None


@dataclass(frozen=True)
class Row:
    """A person or a target of the gallery with photographs."""

    title: str
    split: str
    photos: tuple[Shown, ...]
    more: int = 0


def people_of_two(facts: Facts) -> int:
    return sum(len(members) > 1 for members in facts.people.values())


def summary(facts: Facts) -> list[str]:
    """What this dataset is, in three sentences."""
    rows = [references for _, _, references in facts.targets()]
    photos, people = len(facts.faces.names), len(facts.people)
    first = (
        f"{photos:,} photographs of {people:,} people; {len(rows):,} of them are targets, with "
        f"{sum(map(len, rows)):,} references of the same person."
    )
    known = bool(facts.receipts["cluster"].inputs.get("identities"))
    grouping = str(facts.receipts["cluster"].parameters["grouping"])
    how = "were given by a list" if known else f"were found by {GROUPINGS.get(grouping, grouping)}"
    second = f"Two photos strictly below the distance {facts.distance:g} show one person; people {how}."
    return [first, second, _verified(facts)]


def _verified(facts: Facts) -> str:
    receipt = facts.receipts.get("verify")
    if receipt is None:
        return "It has not been verified yet."
    warnings = len(receipt.notes.get("warnings", ()))
    if warnings:
        return f"Its verification warns of {warnings:,} people or pairs that cross the given splits."
    return (
        "Verified: no person and no pair below the distance crosses splits, no target is its own reference."
    )


def numbers(facts: Facts) -> list[Number]:
    """Six numbers, beside those of the published FFHQ-Ref."""
    targets = {split: len(rows) for split, rows in facts.mapping.items()}
    who = {
        split: len({facts.identity[facts.faces.index[t]] for t in rows if t in facts.faces.index})
        for split, rows in facts.mapping.items()
    }
    splits = [
        Number(f"{split} targets", targets[split], photos, f"{who[split]:,} people, published {people:,}")
        for split, (photos, people) in PUBLISHED_SPLITS.items()
    ]
    return [
        Number("photographs", len(facts.faces.names), 70_000, f"{len(facts.left_out):,} more left out"),
        Number(
            "people of two photos or more",
            people_of_two(facts),
            6_523,
            f"{len(facts.people):,} with those of one",
        ),
        Number("targets with a reference", sum(targets.values()), 20_405, "in all splits"),
        *splits,
    ]


def reference_charts(facts: Facts) -> list[Chart]:
    """For each split, how many targets have how many references."""
    charts = []
    for split, rows in facts.mapping.items():
        counts = np.bincount([min(len(r), 10) for r in rows.values()], minlength=11)[1:]
        charts.append(figures.references_per_target(split, counts.tolist()))
    return charts


def similarity_chart(facts: Facts, seed: int) -> Chart:
    """All pairs of one person, and pairs of two people among photos drawn by seed."""
    same = _same(facts)
    marks = {"same person": 1 - facts.distance, "near copy": 1 - facts.recipe.min_distance}
    return figures.similarities(same, _different(facts, seed), marks)


def _same(facts: Facts) -> Float64:
    """Similarities inside people; of a person with very many photos the first thousand."""
    found = [np.empty(0)]
    for members in facts.people.values():
        if len(members) > 1:
            rows = facts.faces.vectors[members[:1000]]
            found.append((rows @ rows.T)[np.triu_indices(len(rows), 1)].astype(np.float64))
    return np.concatenate(found)


def drawn(names: Sequence[str], count: int, seed: int, purpose: str) -> list[int]:
    """At most `count` places of `names`, drawn by seed and name, in the order of the names."""
    if len(names) <= count:
        return list(range(len(names)))
    keys = [seed_for(seed, name, purpose) for name in names]
    return sorted(sorted(range(len(names)), key=lambda at: keys[at])[:count])


def _different(facts: Facts, seed: int) -> Float64:
    places = drawn(facts.faces.names, COMPARED, seed, "report similarity")
    rows = facts.faces.vectors[places]
    person = np.unique(np.asarray([facts.identity[at] for at in places], object), return_inverse=True)[1]
    upper = np.triu(person[:, None] != person[None], 1)
    return np.asarray((rows @ rows.T)[upper], np.float64)


def sizes_chart(facts: Facts) -> Chart:
    counts = Counter(len(members) for members in facts.people.values())
    return figures.sizes_of_people(dict(sorted(counts.items())))


def gallery(facts: Facts, seed: int, count: int, most: int = 6) -> list[Row]:
    """Targets of people drawn by seed, nobody twice; as many of each split as there are, test first."""
    rows: list[Row] = []
    for place, split in enumerate(("test", "val", "train")):
        first: dict[str, str] = {}
        for target in facts.mapping[split]:
            if target in facts.faces.index:
                first.setdefault(facts.identity[facts.faces.index[target]], target)
        targets = list(first.values())
        wanted = -(-(count - len(rows)) // (3 - place))
        rows += [
            _target_row(facts, split, targets[at], most)
            for at in drawn(targets, wanted, seed, "report gallery")
        ]
    return rows


def _target_row(facts: Facts, split: str, target: str, most: int) -> Row:
    references = facts.mapping[split][target]
    shown = [Shown(target, "target"), *(reference_of(facts, target, r) for r in references[:most])]
    return Row(target, split, tuple(shown), max(len(references) - most, 0))


def reference_of(facts: Facts, target: str, name: str) -> Shown:
    """A reference with its distance to the target."""
    index, vectors = facts.faces.index, facts.faces.vectors
    if target not in index or name not in index:
        return Shown(name, "reference")
    product = vectors[index[target]].astype(np.float64) * vectors[index[name]]
    return Shown(name, "reference", float(1 - product.sum()))


def quality_charts(facts: Facts) -> list[Chart]:
    faces = facts.faces
    charts = [
        figures.histogram("shorter", faces.sizes.min(axis=1), "shorter side of the picture, px", "photos")
    ]
    if faces.eye_distance.any():
        charts.append(figures.histogram("eyes", faces.eye_distance, "between the eyes, px", "photos"))
    known = faces.scores[np.isfinite(faces.scores)]
    if len(np.unique(known)) > 1:
        charts.append(figures.histogram("scores", known, "score of the detector", "photos"))
    return charts


RANGED = {  # parameter of a level -> its columns, and what it is called
    "sigma": ((tables.SIGMA_X, tables.SIGMA_Y), "blur, px"),
    "scale": ((tables.SCALE,), "times smaller"),
    "noise": ((tables.NOISE,), "noise, of 255"),
    "quality": ((tables.QUALITY,), "JPEG quality"),
}


def degradation_charts(facts: Facts) -> list[Chart]:
    """For each level: what was drawn, against the range it was drawn from."""
    if facts.degradations is None:
        return []
    rows = facts.degradations.to_pandas()
    rows = rows[rows[tables.STATUS] == "ok"]
    ranges = _ranges(facts)
    charts = []
    for number, (level, part) in enumerate(rows.groupby(tables.LEVEL, sort=True)):
        values = {
            name: np.concatenate([part[column].to_numpy(np.float64) for column in columns])
            for columns, name in RANGED.values()
        }
        charts.append(figures.drawn_ranges(f"level{number}", str(level), values, ranges.get(str(level), {})))
    return charts


def _ranges(facts: Facts) -> dict[str, dict[str, tuple[float, float]]]:
    """Level -> name of a parameter -> its ends, as the receipts of `degrade` have them."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for stage, receipt in facts.receipts.items():
        level = receipt.parameters.get("level") if stage.startswith("degrade-") else None
        if isinstance(level, Mapping):
            ends = {name: tuple(map(float, level[key])) for key, (_, name) in RANGED.items() if key in level}
            found[str(level.get("name"))] = {name: (low, high) for name, (low, high) in ends.items()}
    return found


@dataclass(frozen=True)
class Copies:
    """Photos that are copies of others: how many of each kind, and some to look at."""

    counts: dict[str, int]
    rows: tuple[Row, ...]


def copies(facts: Facts, most: int = 6) -> Copies:
    counts = Counter(str(row[tables.KIND]) for row in facts.duplicates)
    near = sorted(facts.duplicates, key=lambda row: -row[tables.DISTANCE])[:most]
    rows = [
        Row(
            row[tables.KIND], "",
            (Shown(row[tables.KEPT], "kept"), Shown(row[tables.IMAGE], "copy", row[tables.DISTANCE])),
        )
        for row in near
    ]  # fmt: skip
    return Copies(dict(sorted(counts.items())), tuple(rows))


def left_out(facts: Facts, most: int = 100) -> tuple[dict[str, int], list[LeftOut], int]:
    """How many photos have each status, the first of them with their reasons, and how many more there are."""
    counts = Counter(row.status for row in facts.left_out)
    rows = sorted(facts.left_out, key=lambda row: (row.status, row.image))
    return dict(sorted(counts.items())), rows[:most], max(len(rows) - most, 0)


def crossing(facts: Facts) -> list[str]:
    """People and pairs that cross splits, as the verification found them."""
    receipt = facts.receipts.get("verify")
    return [str(warning) for warning in receipt.notes.get("warnings", ())] if receipt else []


def verdict_counts(facts: Facts) -> dict[str, int]:
    """How many verdicts stand, by kind; a frozen person counts once."""
    held = agreed(standing(facts.verdicts))
    counts = Counter(verdict.kind for verdict in held if verdict.kind != "frozen")
    if people := frozen_people(held):
        counts["frozen"] = len(people)
    return dict(sorted(counts.items()))
