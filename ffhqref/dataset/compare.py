"""Two datasets side by side: what they have in common, and which people were split or joined.

Either may be built here or be the published lists and CSVs alone: then people are recovered from the rows.
Photos are matched by their names without suffix.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.images import png_name
from ffhqref.core.store import UserError, write_text
from ffhqref.identities.grouping import agreement, components

SPLIT_OF, JOINED = "split", "joined"  # kinds of a changed person


@dataclass(frozen=True)
class Lists:
    """Who is who (by photo, as `.png`), which split a photo is in, and the references by split and target."""

    identity: Mapping[str, str]
    split: Mapping[str, str]
    references: Mapping[str, Mapping[str, Sequence[str]]]

    def people(self, split: str | None = None) -> int:
        """How many people have at least two photos (in a split, or in all)."""
        counts = Counter(who for name, who in self.identity.items() if split in (None, self.split.get(name)))
        return sum(count > 1 for count in counts.values())

    @property
    def targets(self) -> dict[str, Sequence[str]]:
        """Target -> references of all splits."""
        return {name: found for rows in self.references.values() for name, found in rows.items()}


def people_of_rows(rows: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Photo -> person by a reference mapping alone: its connected components, named by their first photo.

    A row lists a target's direct neighbours only, so one person may stand in rows that merely overlap.
    """
    names = sorted({name for target, found in rows.items() for name in (target, *found)})
    index = {name: at for at, name in enumerate(names)}
    edges = [sorted((index[target], index[name])) for target, found in rows.items() for name in found]
    first = components(len(names), np.asarray(edges, np.int32).reshape(-1, 2))
    return {name: names[at] for name, at in zip(names, first, strict=True)}


def load_lists(folder: Path) -> Lists:
    """The lists of a built dataset, or of a folder with the published CSVs; UserError where it has none.

    The folder holds {train,val,test}_references.csv and {train,val,test}_image.txt, itself or in
    reference_mapping/ and id_based_ffhq_split/. Photos that stand in no row are people of their own.
    """
    references = {split: _rows(path) for split in tables.SPLITS if (path := _csv(folder, split))}
    if not references:
        raise UserError(
            f"{folder} has no reference_mapping: give a built dataset, or the folder of the published CSVs."
        )
    split: dict[str, str] = {}
    for part in tables.SPLITS:
        listed = _list(folder, part)
        names = map(png_name, lists.read_list(listed)) if listed else ()
        rows = references.get(part, {})
        for name in (*names, *rows, *(name for found in rows.values() for name in found)):
            split.setdefault(name, part)
    every = {name: found for rows in references.values() for name, found in rows.items()}
    identity = _own_people(folder) or people_of_rows(every)
    return Lists({name: identity.get(name, name) for name in {*split, *identity}}, split, references)


def _csv(folder: Path, split: str) -> Path | None:
    return _first(folder, "reference_mapping", f"{split}_references.csv")


def _list(folder: Path, split: str) -> Path | None:
    return _first(folder, "id_based_ffhq_split", f"{split}_image.txt")


def _first(folder: Path, inner: str, name: str) -> Path | None:
    return next((path for path in (folder / inner / name, folder / name) if path.is_file()), None)


def _rows(path: Path) -> dict[str, list[str]]:
    rows = lists.read_references(path)
    return {png_name(target): [png_name(name) for name in names] for target, names in rows.items()}


def _own_people(folder: Path) -> dict[str, str]:
    """Photo -> identity by the dataset's own table; empty where it has none."""
    path = tables.path_of(folder, "identities")
    if not path.is_file():
        return {}
    table = tables.read(path, tables.IDENTITIES, [tables.IMAGE, tables.IDENTITY])
    names = map(png_name, tables.texts(table, tables.IMAGE))
    return dict(zip(names, tables.texts(table, tables.IDENTITY), strict=True))


@dataclass(frozen=True)
class Changed:
    """A person of one side whose photos are several people's on the other; parts by size, largest first."""

    kind: str  # split: one of the other's is several of ours; joined: the reverse
    person: str
    photos: int
    parts: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Comparison:
    """Ours against another; precision and recall take the other's people for the truth."""

    counts: Mapping[str, tuple[int, int, int]]  # what -> ours, other, in common
    pair_precision: float
    pair_recall: float
    adjusted_rand: float
    same_split: float  # of the common photos
    changed: tuple[Changed, ...] = field(repr=False)
    same_references: int  # common targets whose references are the same set
    same_order: int  # and in the same order


def compare_datasets(ours: Path, other: Path) -> Comparison:
    """`compare` of two folders: built datasets, or published lists and CSVs. UserError where one has none."""
    return compare(load_lists(ours), load_lists(other))


def compare(ours: Lists, other: Lists) -> Comparison:
    """What two datasets have in common. UserError where that is no photo."""
    both = sorted(ours.identity.keys() & other.identity.keys())
    if not both:
        raise UserError("The two have no photograph in common: their photos must have the same names.")
    mine, theirs = [ours.identity[n] for n in both], [other.identity[n] for n in both]
    found = agreement(mine, theirs)
    targets, others = ours.targets, other.targets
    common = targets.keys() & others.keys()
    places = [name for name in both if name in ours.split and name in other.split]
    kept = [ours.split[name] == other.split[name] for name in places]
    return Comparison(
        counts=_counts(ours, other, both),
        pair_precision=found.pair_precision,
        pair_recall=found.pair_recall,
        adjusted_rand=adjusted_rand(mine, theirs),
        same_split=float(np.mean(kept)) if kept else float("nan"),
        changed=tuple(_changed(mine, theirs)),
        same_references=sum(set(targets[name]) == set(others[name]) for name in common),
        same_order=sum(list(targets[name]) == list(others[name]) for name in common),
    )


def _counts(ours: Lists, other: Lists, both: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Photos, people of two photos or more, targets, references and pairs, of each and of both."""
    mine, theirs = _grouped(ours.identity), _grouped(other.identity)
    targets, others = ours.targets, other.targets
    pairs = [{(t, r) for t, found in rows.items() for r in found} for rows in (targets, others)]
    same = Counter((ours.identity[name], other.identity[name]) for name in both)
    rows = {
        "photos": (len(ours.identity), len(other.identity), len(both)),
        "people": (ours.people(), other.people(), len(mine & theirs)),
        "pairs of one person": (
            _pairs(Counter(ours.identity.values())), _pairs(Counter(other.identity.values())), _pairs(same),
        ),
        "targets": (len(targets), len(others), len(targets.keys() & others.keys())),
        "references": (len(pairs[0]), len(pairs[1]), len(pairs[0] & pairs[1])),
    }  # fmt: skip
    for split in tables.SPLITS:
        a, b = ({n for n, s in side.split.items() if s == split} for side in (ours, other))
        rows[f"photos of {split}"] = len(a), len(b), len(a & b)
        same_people = _grouped(ours.identity, a) & _grouped(other.identity, b)
        rows[f"people of {split}"] = ours.people(split), other.people(split), len(same_people)
    return rows


def _grouped(identity: Mapping[str, str], among: Iterable[str] | None = None) -> set[frozenset[str]]:
    """The people of two photos or more (among some), as sets of photos."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in identity if among is None else among:
        members[identity[name]].append(name)
    return {frozenset(names) for names in members.values() if len(names) > 1}


def _pairs(sizes: Counter[str] | Counter[tuple[str, str]]) -> int:
    return sum(count * (count - 1) // 2 for count in sizes.values())


def adjusted_rand(one: Sequence[str], other: Sequence[str]) -> float:
    """The adjusted Rand index of two labellings of the same photos (Hubert and Arabie 1985, equation 5)."""
    both, a, b = _pairs(Counter(zip(one, other, strict=True))), _pairs(Counter(one)), _pairs(Counter(other))
    total = len(one) * (len(one) - 1) // 2
    expected = a * b / total if total else 0.0
    most = (a + b) / 2
    return 1.0 if most == expected else float((both - expected) / (most - expected))


def _changed(mine: Sequence[str], theirs: Sequence[str]) -> list[Changed]:
    """Those whom the other side parts, most photos first."""
    found = []
    for kind, whole, parts in ((SPLIT_OF, theirs, mine), (JOINED, mine, theirs)):
        members: dict[str, Counter[str]] = defaultdict(Counter)
        for who, part in zip(whole, parts, strict=True):
            members[who][part] += 1
        for who, sizes in members.items():
            if len(sizes) > 1:
                ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
                found.append(Changed(kind, who, sum(sizes.values()), tuple(ordered)))
    return sorted(found, key=lambda one: (-one.photos, one.kind, one.person))


COLUMNS = ("kind", "person", "photos", "parts", "sizes")


def write_comparison(out: Path, result: Comparison) -> None:
    """people.csv (who was split or joined) and counts.csv below `out`."""
    rows = [
        [one.kind, one.person, one.photos, len(one.parts), " ".join(f"{w}:{n}" for w, n in one.parts)]
        for one in result.changed
    ]
    lists.write_csv(out / "people.csv", COLUMNS, rows)
    lists.write_csv(out / "counts.csv", ("what", "ours", "other", "common"),
                     [[what, *numbers] for what, numbers in result.counts.items()])  # fmt: skip
    write_text(out / "summary.txt", "\n".join(lines(result)) + "\n")


def lines(result: Comparison) -> list[str]:
    """The comparison in words, a line each."""
    found = [f"{'':<22}{'ours':>10}{'other':>10}{'common':>10}"]
    for what, numbers in result.counts.items():
        found.append(f"{what:<22}" + "".join(f"{number:>10,}" for number in numbers))
    targets = result.counts["targets"][2]
    split = sum(one.kind == SPLIT_OF for one in result.changed)
    return [
        *found,
        f"Pairs of one person: precision {result.pair_precision:.4f}, recall {result.pair_recall:.4f}; "
        f"adjusted Rand index {result.adjusted_rand:.4f}.",
        f"{split:,} of the other's people are several here, {len(result.changed) - split:,} of ours are "
        "several there.",
        f"{result.same_split:.2%} of the common photos are in the same split.",
        f"Of {targets:,} common targets {result.same_references:,} have the same references, "
        f"{result.same_order:,} in the same order.",
    ]
