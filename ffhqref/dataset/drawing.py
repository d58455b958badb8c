"""Who goes to val and test: components that can be drawn, quotas, an order by hash, balance over labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ffhqref.core import lists, store, tables
from ffhqref.core.images import png_name
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset.neighbours import Neighbours, least_distance
from ffhqref.dataset.people import Ledger

AGE_GROUPS = (3, 10, 20, 30, 40, 50, 60, 70)  # years at which FairFace's nine groups begin anew
NOBODY = Ledger()


@dataclass(frozen=True)
class Component:
    """Photos that no split may part, and whether they can be drawn; the order of a draw hashes the name."""

    name: str
    photos: tuple[int, ...]
    identities: int
    for_val: bool
    for_test: bool

    def serves(self, split: str) -> bool:
        """Whether it can be drawn for val or test."""
        return self.for_test if split == "test" else self.for_val


def find_components(graph: Neighbours, recipe: Recipe) -> list[Component]:
    """All components, ordered by name, and which can be drawn for val and for test.

    Test: each photo that may be a target has a count of references inside the window that the recipe
    allows (with `--targets`: at least one has). Val: each has a reference.
    """
    low, high = recipe.test_references
    in_test = graph.counts(least_distance(recipe, "test"))
    good_test = (in_test >= low) & ((in_test <= high) if high else True)
    good_val = graph.counts(least_distance(recipe, "val")) >= 1
    members: dict[str, list[int]] = defaultdict(list)
    for photo, name in enumerate(graph.component):
        members[name].append(photo)

    def suits(photos: Sequence[int], good: npt.NDArray[np.bool_]) -> bool:
        verdicts = [bool(good[photo]) for photo in photos if graph.may_be_target[photo]]
        return any(verdicts) if graph.limited else bool(verdicts) and all(verdicts)

    return [
        Component(
            name,
            tuple(photos),
            len({graph.identity[photo] for photo in photos}),
            suits(photos, good_val),
            suits(photos, good_test),
        )
        for name, photos in sorted(members.items())
    ]


def draw(
    parts: Sequence[Component],
    recipe: Recipe,
    strata: Mapping[str, str] | None = None,
    *,
    drawable: int | None = None,
    ledger: Ledger = NOBODY,
) -> dict[str, str]:
    """Component name -> split. Test is drawn first, then val; the rest is train.

    The order is a hash of (seed, component), so it depends on no file order; with `strata` (component
    -> group of labels) the group with the fewest photos so far comes next. Quotas are of all people:
    `drawable` identities, those of `parts` and others, less who is in the split already by the ledger.
    UserError where a whole-number quota cannot be met.
    """
    splits = {part.name: "train" for part in parts}
    if drawable is None:
        drawable = count_drawable(parts)
    for split in ("test", "val"):
        there = ledger.count(split)
        free = [part for part in parts if splits[part.name] == "train" and part.serves(split)]
        order = sorted(free, key=lambda part: store.seed_for(recipe.seed, part.name, "split"))
        wanted = max(needed(recipe, split, drawable) - there, 0)
        chosen = _fill_quota(_balanced(order, strata) if strata else order, wanted)
        _check_quota(recipe, split, sum(part.identities for part in chosen), there)
        splits |= {part.name: split for part in chosen}
    return splits


def count_drawable(parts: Sequence[Component]) -> int:
    """How many identities can be drawn for val or test."""
    return sum(part.identities for part in parts if part.for_val or part.for_test)


def _quota(recipe: Recipe, split: str) -> tuple[int | None, float | None]:
    """How many identities a split shall have: a whole number, or else a fraction."""
    if split == "test":
        return recipe.test_identities, recipe.test
    return recipe.val_identities, recipe.val


def needed(recipe: Recipe, split: str, drawable: int) -> int:
    """A split's quota in identities; a fraction gives one at least where each split can have one."""
    count, fraction = _quota(recipe, split)
    if count is not None:
        return count
    least = 1 if fraction and drawable >= len(tables.SPLITS) else 0
    return max(round((fraction or 0) * drawable), least)


def _fill_quota(order: Sequence[Component], wanted: int) -> list[Component]:
    """The components in their order, passing over those that have more identities than are still wanted."""
    chosen = []
    for part in order:
        if part.identities <= wanted:
            chosen.append(part)
            wanted -= part.identities
    return chosen


def _check_quota(recipe: Recipe, split: str, found: int, there: int) -> None:
    """UserError where a whole-number quota cannot be met; `found` more than are `there` are one that can."""
    count, _ = _quota(recipe, split)
    if count is None or found + there >= count:
        return
    if there:
        raise UserError(
            f"{split} has {there} identities, {count} were asked for, and {found} new ones can be drawn (who "
            f"is known keeps their split): give --{split}-identities {found + there}, or --redraw to start "
            "over."
        )
    hint = ", or other --test-references" if split == "test" else ""
    raise UserError(
        f"{found} identities can be drawn for {split}, {count} were asked for (who looks alike is drawn "
        f"together): give --{split}-identities {found}{hint}."
    )


def _balanced(order: Sequence[Component], strata: Mapping[str, str]) -> list[Component]:
    """The components so that the group with the fewest photos so far comes next, each in its own order."""
    queues: dict[str, list[Component]] = defaultdict(list)
    for part in reversed(order):
        queues[strata[part.name]].append(part)
    drawn: Counter[str] = Counter()
    result = []
    while queues:
        group = min(queues, key=lambda group: (drawn[group], group))
        part = queues[group].pop()
        if not queues[group]:
            del queues[group]
        drawn[group] += len(part.photos)
        result.append(part)
    return result


def strata_of(
    parts: Sequence[Component], names: Sequence[str], labels: Path, columns: Sequence[str]
) -> dict[str, str]:
    """Component -> its photos' commonest labels (ages in FairFace's nine groups), from a CSV by image."""
    frame = lists.read_csv(labels, [tables.IMAGE, *columns])
    rows = [tuple(_label(str(value)) for value in row) for row in frame[list(columns)].to_numpy()]
    by_name: dict[str, tuple[str, ...]] = dict(zip(frame[tables.IMAGE], rows, strict=True))
    by_png = {png_name(name): row for name, row in by_name.items()}  # what a crop of it is called

    def label(photo: int) -> tuple[str, ...]:
        name = names[photo]
        found = by_name.get(name) or by_png.get(png_name(name)) or by_name.get(PurePosixPath(name).stem)
        return found or ("unknown",) * len(columns)

    found = {}
    for part in parts:
        common = Counter(label(photo) for photo in part.photos)
        found[part.name] = "/".join(min(common.items(), key=lambda item: (-item[1], item[0]))[0])
    if all(group == "/".join(["unknown"] * len(columns)) for group in found.values()):
        raise UserError(f"{labels} has no row for any photograph: its image column must hold their names.")
    return found


def _label(value: str) -> str:
    """A number is an age and becomes its FairFace group; anything else stays."""
    try:
        years = float(value)
    except ValueError:
        return value or "unknown"
    return f"age group {sum(years >= start for start in AGE_GROUPS)}"


def why_empty(graph: Neighbours, recipe: Recipe, split: str, wanted: int) -> str:
    """The sentence for a split that was asked for and has no identity: why, and the option that fills it."""
    low, high = recipe.test_references
    why = "the people who could be drawn are in test already, or look like too many others"
    fills = [f"--{split} 0 to do without"]
    if split == "test" and not any(part.for_test for part in find_components(graph, recipe)):
        window = f"{low} to {high}" if high else f"{low} or more"
        why = f"no one has {window} references for each photo, each at least {recipe.min_distance:g} away"
        for choice in ((1, high), (low, 0), (1, 0)):
            wider = find_components(graph, replace(recipe, test_references=choice))
            if any(part.for_test for part in wider):
                fills.insert(0, f"--test-references {choice[0]}:{choice[1] or ''}")
                break
    return f"No identity can be drawn for {split}, {wanted} were wanted: {why}. Give {', or '.join(fills)}."
