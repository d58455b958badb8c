"""Identities -> splits.parquet and id_based_ffhq_split/*.txt: whole components are drawn, never photos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ffhqref.core import store, tables
from ffhqref.core.images import png_name
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.dataset import crops, neighbours
from ffhqref.dataset.neighbours import Neighbours, least_distance

REVISION = 1
LISTS = "id_based_ffhq_split"
AGE_GROUPS = (3, 10, 20, 30, 40, 50, 60, 70)  # years at which FairFace's nine groups begin anew


@dataclass(frozen=True)
class Component:
    """Photos that no split may part, and whether they can be drawn."""

    name: str
    photos: tuple[int, ...]
    identities: int
    for_val: bool
    for_test: bool

    def serves(self, split: str) -> bool:
        """Whether it can be drawn for val or test."""
        return self.for_test if split == "test" else self.for_val


def list_path(out: Path, split: str) -> Path:
    """Where the list of a split's photos lies."""
    return out / LISTS / f"{split}_image.txt"


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
    parts: Sequence[Component], recipe: Recipe, strata: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Component name -> split. Test is drawn first, then val; the rest is train.

    The order is a hash of (seed, component), so it depends on no file order; with `strata` (component
    -> group of labels) the group with the fewest photos so far comes next. UserError where a
    whole-number quota cannot be met.
    """
    splits = {part.name: "train" for part in parts}
    drawable = sum(part.identities for part in parts if part.for_val or part.for_test)
    for split in ("test", "val"):
        free = [part for part in parts if splits[part.name] == "train" and part.serves(split)]
        order = sorted(free, key=lambda part: store.seed_for(recipe.seed, part.name, "split"))
        chosen = _fill_quota(_balanced(order, strata) if strata else order, _needed(recipe, split, drawable))
        _check_quota(recipe, split, sum(part.identities for part in chosen))
        splits |= {part.name: split for part in chosen}
    return splits


def _quota(recipe: Recipe, split: str) -> tuple[int | None, float | None]:
    """How many identities a split shall have: a whole number, or else a fraction."""
    if split == "test":
        return recipe.test_identities, recipe.test
    return recipe.val_identities, recipe.val


def _needed(recipe: Recipe, split: str, drawable: int) -> int:
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


def _check_quota(recipe: Recipe, split: str, found: int) -> None:
    """UserError where a whole-number quota cannot be met; `found` identities are a quota that can."""
    count, _ = _quota(recipe, split)
    if count is None or found == count:
        return
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
    frame = tables.read_csv(labels, [tables.IMAGE, *columns])
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


def read_lists(folder: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Published lists replayed: photo -> split, and counts of what did not fit.

    The folder holds {train,val,test}_image.txt, itself or in id_based_ffhq_split/. Photos in no list
    go to train. UserError where a list is missing or a name stands in two.
    """
    base = _lists_folder(folder)
    there = set(names)
    splits: dict[str, str] = {}
    absent = 0
    for split in tables.SPLITS:
        for name in tables.read_list(base / f"{split}_image.txt"):
            if splits.get(name, split) != split:
                raise UserError(f"{base}: {name} stands in the lists of both {splits[name]} and {split}.")
            splits[name] = split
            absent += name not in there
    unlisted = [name for name in names if name not in splits]
    if len(unlisted) == len(names):
        raise UserError(
            f"The lists in {base} name no photograph of this dataset: they must hold its names, such as "
            f"{names[0]}."
        )
    chosen = {name: splits.get(name, "train") for name in names}
    return chosen, {"listed_but_absent": absent, "in_no_list": len(unlisted)}


def split_identities(out: Path, recipe: Recipe) -> Receipt:
    """Write splits.parquet and the three lists of a dataset whose identities are known.

    `recipe.splits` replays published lists instead of drawing; `recipe.labels` and `recipe.balance`
    balance val and test. The receipt's notes count photos and identities a split.
    """
    if recipe.balance and not recipe.labels:
        raise UserError("The recipe balances over labels: give --labels a CSV with an image column.")
    drawn_by = ("seed", "val", "test", "val_identities", "test_identities", "test_references", "min_distance")
    parameters = {name: getattr(recipe, name) for name in (*drawn_by, "dedupe", "balance")}
    parameters |= {name: list(parameters[name]) for name in ("test_references", "balance")}
    inputs = {"cluster": store.fingerprint(out, "cluster"), "splits": _lists_digest(recipe.splits)}
    inputs["barred"] = crops.digest(out)
    inputs |= {key: store.digest_given(getattr(recipe, key)) for key in ("targets", "labels")}
    wanted = Receipt(stage="split", revision=REVISION, parameters=parameters, inputs=inputs)
    with store.lock(out, "split"):
        if done := store.finished(out, wanted):
            return done
        graph = neighbours.load(out, recipe)
        if recipe.splits:
            chosen, counts = read_lists(Path(recipe.splits), graph.names)
            return _write(out, graph, chosen, wanted, {**counts})
        chosen, quotas = _drawn(graph, recipe)
        return _write(out, graph, chosen, wanted, {"quotas": quotas})


def _drawn(graph: Neighbours, recipe: Recipe) -> tuple[dict[str, str], dict[str, object]]:
    """Photo -> split, by the recipe's quotas, and how many identities were wanted and could be had.

    UserError where a split that was asked for stays empty.
    """
    parts = find_components(graph, recipe)
    strata = None
    if recipe.labels and recipe.balance:
        strata = strata_of(parts, graph.names, Path(recipe.labels), recipe.balance)
    drawn = draw(parts, recipe, strata)
    drawable = sum(part.identities for part in parts if part.for_val or part.for_test)
    quotas: dict[str, object] = {}
    for split in ("val", "test"):
        wanted = _needed(recipe, split, drawable)
        if wanted and split not in drawn.values():
            raise UserError(_empty(graph, recipe, split, wanted))
        eligible = sum(part.identities for part in parts if part.serves(split))
        quotas[split] = {"wanted": wanted, "eligible": eligible}
    return {name: drawn[part] for name, part in zip(graph.names, graph.component, strict=True)}, quotas


def _empty(graph: Neighbours, recipe: Recipe, split: str, wanted: int) -> str:
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


def _write(
    out: Path, graph: Neighbours, chosen: Mapping[str, str], wanted: Receipt, notes: JsonObject
) -> Receipt:
    ordered = [chosen[name] for name in graph.names]
    columns = [graph.names, graph.identity, ordered]
    tables.write_columns(tables.path_of(out, "splits"), tables.SPLIT_TABLE, columns)
    for name in tables.SPLITS:
        tables.write_list(list_path(out, name), [image for image in graph.names if chosen[image] == name])
    people: dict[str, set[str]] = {name: set() for name in tables.SPLITS}
    for identity, name in zip(graph.identity, ordered, strict=True):
        people[name].add(identity)
    counts = {
        name: {"photos": ordered.count(name), "identities": len(people[name])} for name in tables.SPLITS
    }
    outputs = [tables.path_of(out, "splits"), *(list_path(out, name) for name in tables.SPLITS)]
    notes = {**notes, **counts, "replayed": bool(wanted.inputs["splits"])}
    return store.write_receipt(out, wanted, outputs, notes)


def _lists_folder(folder: Path) -> Path:
    return folder / LISTS if (folder / LISTS).is_dir() else folder


def _lists_digest(folder: str | None) -> str:
    if folder is None:
        return ""
    paths = [_lists_folder(Path(folder)) / f"{name}_image.txt" for name in tables.SPLITS]
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no {path}: --splits takes a folder with {{train,val,test}}_image.txt.")
    return "+".join(store.digest_file(path) for path in paths)
