"""Identities -> people.parquet, splits.parquet and id_based_ffhq_split/*.txt.

Whole components are drawn, never photos, and once: whoever is in the ledger keeps their split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ffhqref.core import lists, store, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.dataset import crops, neighbours, people
from ffhqref.dataset.drawing import (
    NOBODY,
    Component,
    count_drawable,
    draw,
    find_components,
    needed,
    strata_of,
    why_empty,
)
from ffhqref.dataset.neighbours import Neighbours
from ffhqref.dataset.people import OPEN, Conflict, Ledger, Photos, Placed

REVISION = 2
LISTS = "id_based_ffhq_split"
DRAWN_BY = ("seed", "val", "test", "val_identities", "test_identities", "test_references", "balance")


def list_path(out: Path, split: str) -> Path:
    """Where the list of a split's photos lies."""
    return out / LISTS / f"{split}_image.txt"


def read_lists(folder: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, int]]:
    """Published lists: photo -> split, and counts of what did not fit.

    The folder holds {train,val,test}_image.txt, itself or in id_based_ffhq_split/. UserError where a list
    is missing or a name stands in two.
    """
    base = _lists_folder(folder)
    there = set(names)
    splits: dict[str, str] = {}
    absent = 0
    for split in tables.SPLITS:
        for name in lists.read_list(base / f"{split}_image.txt"):
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
    return splits, {"listed_but_absent": absent, "in_no_list": len(unlisted)}


def split_identities(out: Path, recipe: Recipe, *, redraw: bool = False) -> Receipt:
    """Write people.parquet, splits.parquet and the three lists of a dataset whose identities are known.

    People of an earlier run keep number and split; new ones are drawn. `redraw` starts over, without the
    ledger. `recipe.splits` replays published lists instead of drawing; `recipe.labels` and `recipe.balance`
    balance val and test. The receipt's notes count photos and identities a split.
    """
    if recipe.balance and not recipe.labels:
        raise UserError("The recipe balances over labels: give --labels a CSV with an image column.")
    named = (*DRAWN_BY, "min_distance", "dedupe", "join_across", "new_of_test")
    parameters = {name: getattr(recipe, name) for name in named}
    parameters |= {name: list(parameters[name]) for name in ("test_references", "balance")}
    inputs = {stage: store.fingerprint(out, stage) for stage in ("embed", "cluster")}
    inputs |= {"splits": _lists_digest(recipe.splits), "barred": crops.digest(out)}
    inputs |= {key: store.digest_given(getattr(recipe, key)) for key in ("targets", "labels")}
    wanted = Receipt(stage="split", revision=REVISION, parameters=parameters, inputs=inputs)
    with store.lock(out, "split"):
        if not redraw and (done := store.finished(out, wanted)):
            return done
        graph = neighbours.load(out, recipe)
        digests = dict(zip(*_pixels(out), strict=True))
        photos = Photos([digests[name] for name in graph.names], graph.identity, graph.component)
        before = NOBODY if redraw else _ledger(out, graph, photos)
        grown = (_replayed if recipe.splits else _drawn)(graph, photos, before, recipe)
        notes = {**grown.notes, "people": _counts(grown.ledger, photos), "redrawn": redraw}
        notes["in_vain"] = _in_vain(out, wanted) if before.people else []
        return _write(out, graph, grown, wanted, notes)


@dataclass(frozen=True)
class _Grown:
    """What a run makes: the ledger, each photo's split, who is in conflict, and notes for the receipt."""

    ledger: Ledger
    splits: list[str]
    notes: dict[str, object]


def _pixels(out: Path) -> tuple[list[str], list[str]]:
    """Names and pixel digests of the photos that are ok."""
    embeddings = tables.load_embeddings(out)
    return embeddings.names, embeddings.pixels


def _ledger(out: Path, graph: Neighbours, photos: Photos) -> Ledger:
    """The people so far; where the ledger is lost or there was none yet, as splits.parquet has them."""
    return people.load(out) or people.from_splits(out, graph.names, photos) or NOBODY


def _in_vain(out: Path, wanted: Receipt) -> list[str]:
    """Which options of the draw are others than last time, though known people keep their split."""
    last = store.read_receipt(out, "split")
    given = wanted.parameters
    return [
        name for name in DRAWN_BY if last and name in last.parameters and last.parameters[name] != given[name]
    ]


def _counts(ledger: Ledger, photos: Photos) -> dict[str, int]:
    here = {ledger.by_pixels[one].number for one in photos.pixels if one in ledger.by_pixels}
    newest = sum(person.since == ledger.draws for person in ledger.people)
    total = len(ledger.people)
    return {"total": total, "newest": newest, "draws": ledger.draws, "gone": total - len(here)}


def _replayed(graph: Neighbours, photos: Photos, before: Ledger, recipe: Recipe) -> _Grown:
    """Published lists as they are, and whom the ledger knew; UserError where the lists would move somebody.

    A photo in no list goes where its known people are, else to train.
    """
    listed, counts = read_lists(Path(recipe.splits or ""), graph.names)
    first = [listed.get(name, tables.HELD) for name in graph.names]
    moved = [graph.names[at] for at in people.strangers(before, photos.pixels, first)]
    if moved:
        raise UserError(
            f"The lists in {recipe.splits} would move {len(moved)} photos of known people, {moved[0]} first: "
            "give --redraw to start over with them."
        )
    if before.people:
        before = people.record(before, photos, first)
    placed = people.place(before, photos, recipe)
    splits = [
        listed.get(name) or split or "train" for name, split in zip(graph.names, placed.splits, strict=True)
    ]
    ledger = people.settle(people.record(before, photos, splits), {}, recipe)
    return _Grown(ledger, splits, {**counts, **_held(graph, placed, splits, recipe)})


def _drawn(graph: Neighbours, photos: Photos, before: Ledger, recipe: Recipe) -> _Grown:
    """Known people as they were, new ones by the recipe's quotas; the notes say what was to be had.

    UserError where a split that was asked for stays empty in a first draw.
    """
    placed = people.place(before, photos, recipe)
    _refuse_joined(graph, placed.conflicts, recipe)
    ledger = people.record(before, photos, placed.splits)
    every = find_components(graph, recipe)
    number = {
        part.name: _lowest(ledger, photos, part) for part in every if placed.splits[part.photos[0]] == OPEN
    }
    strata = None
    if recipe.labels and recipe.balance:
        strata = strata_of(every, graph.names, Path(recipe.labels), recipe.balance)
        strata = {str(number[name]): label for name, label in strata.items() if name in number}
    new = [replace(part, name=str(number[part.name])) for part in every if part.name in number]
    drawable = count_drawable(every)
    drawn = draw(new, recipe, strata, drawable=drawable, ledger=before)
    by_person = {
        ledger.by_pixels[photos.pixels[at]].number: drawn[part.name] for part in new for at in part.photos
    }
    ledger = people.settle(ledger, by_person, recipe)
    quotas: dict[str, object] = {}
    for split in ("val", "test"):
        wanted = needed(recipe, split, drawable)
        if wanted and not before.people and split not in drawn.values():
            raise UserError(why_empty(graph, recipe, split, wanted))
        eligible = sum(part.identities for part in every if part.serves(split))
        quotas[split] = {"wanted": wanted, "eligible": eligible, "people": ledger.count(split)}
    splits = [
        split if split == tables.HELD else ledger.by_pixels[one].split
        for one, split in zip(photos.pixels, placed.splits, strict=True)
    ]
    return _Grown(ledger, splits, {"quotas": quotas, **_held(graph, placed, splits, recipe)})


def _lowest(ledger: Ledger, photos: Photos, part: Component) -> int:
    """The lowest number of a component's people."""
    return min(ledger.by_pixels[photos.pixels[at]].number for at in part.photos)


def _refuse_joined(graph: Neighbours, conflicts: Sequence[Conflict], recipe: Recipe) -> None:
    """UserError where known photos alone join known people of two splits: nobody new can be held out."""
    accepted = recipe.join_across == "train" or recipe.identities
    for conflict in conflicts:
        if not conflict.newcomers and not accepted:
            shown = (
                f"{graph.names[at]} ({split})"
                for at, split in zip(conflict.known, conflict.splits, strict=True)
            )
            raise UserError(
                f"{' and '.join(shown)} belong together now, and were drawn apart: undo what joined them "
                "(another --distance?), give --redraw to start over, or --join-across train to accept it."
            )


def _held(graph: Neighbours, placed: Placed, splits: Sequence[str], recipe: Recipe) -> dict[str, object]:
    """For the notes: the photos that are held out, and the conflicts that a person must decide."""
    conflicts = [
        {
            "people": list(conflict.people),
            "splits": list(conflict.splits),
            "photos": [graph.names[at] for at in conflict.newcomers],
        }
        for conflict in placed.conflicts
    ]
    return {
        "held": list(splits).count(tables.HELD),
        "conflicts": conflicts,
        "join_across": recipe.join_across,
    }


def _write(out: Path, graph: Neighbours, grown: _Grown, wanted: Receipt, notes: JsonObject) -> Receipt:
    """The ledger first: what is killed after it finds everybody known, and writes the same."""
    outputs = [people.write(out, grown.ledger), tables.path_of(out, "splits")]
    tables.write_columns(outputs[1], tables.SPLIT_TABLE, [graph.names, graph.identity, grown.splits])
    rows = list(zip(graph.names, graph.identity, grown.splits, strict=True))
    counts = {}
    for name in tables.SPLITS:
        photos = [image for image, _, split in rows if split == name]
        lists.write_list(list_path(out, name), photos)
        identities = {identity for _, identity, split in rows if split == name}
        counts[name] = {"photos": len(photos), "identities": len(identities)}
    outputs += [list_path(out, name) for name in tables.SPLITS]
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
