"""A built dataset -> proof that it is sound, or the list of what is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ffhqref.core import lists, store, tables
from ffhqref.core.images import find
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import Receipt, UserError, damaged_outputs, fingerprint, read_receipt
from ffhqref.dataset import people, shards
from ffhqref.dataset.neighbours import least_distance
from ffhqref.identities.grouping import distances_of

STAGES = ("embed", "cluster", "split", "references")
FOLLOWS = {"cluster": ("embed",), "split": ("embed", "cluster"), "references": ("split", "cluster")}


@dataclass
class Report:
    """What `verify` found: `violations` make it fail, `warnings` do not, `counts` say what was looked at."""

    violations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """One line of counts."""
        return ", ".join(f"{count:,} {what}" for what, count in self.counts.items())


@dataclass(frozen=True)
class Dataset:
    """A built dataset as it lies on disk."""

    out: Path
    images: Path
    recipe: Recipe
    embeddings: tables.Embeddings
    identity: Mapping[str, str]
    split: Mapping[str, str]
    references: Mapping[str, Mapping[str, Sequence[str]]]  # split -> target -> references
    from_outside: bool  # lists or identities were given, not drawn, or people of two splits accepted
    excluded: frozenset[str]  # by a verdict: embedded, and in no list


def verify_dataset(out: Path, recipe: Recipe, *, images: Path | None = None) -> Report:
    """Prove that no person and no pair crosses splits, that every reference is valid, that files stand.

    `images` defaults to the folder that embed recorded. UserError where the dataset is not finished.
    """
    report = Report()
    receipts = {stage: read_receipt(out, stage) for stage in STAGES}
    unfinished = [stage for stage, receipt in receipts.items() if receipt is None]
    if unfinished:
        raise UserError(f"{out} is not finished ({', '.join(unfinished)}): run `ffhqref build-refs` again.")
    done = {stage: receipt for stage, receipt in receipts.items() if receipt}
    report.violations += _receipt_faults(out, done)
    recorded = Path(str(done["embed"].notes.get("images", "")))
    try:
        dataset = _load(out, images or recorded, recipe, done)
    except UserError as error:
        report.violations.append(str(error))
        return report
    crossing = [*_crossing_people(dataset), *_crossing_pairs(dataset)]
    (report.warnings if dataset.from_outside else report.violations).extend(crossing)
    for check in (_list_faults, _ledger_faults, _reference_faults, _file_faults):
        report.violations.extend(check(dataset))
    rows = [row for mapping in dataset.references.values() for row in mapping.values()]
    report.counts = {
        "photos": len(dataset.split),
        "identities": len(set(dataset.identity.values())),
        "targets": len(rows),
        "references": sum(map(len, rows)),
    }
    if held := sum(split == tables.HELD for split in dataset.split.values()):
        report.counts["photos held out of all lists"] = held
    return report


def _receipt_faults(out: Path, receipts: Mapping[str, Receipt]) -> Iterator[str]:
    for stage, receipt in receipts.items():
        for name in damaged_outputs(out, receipt):
            yield f"{name} is missing or not what `{stage}` wrote"
        for earlier in FOLLOWS.get(stage, ()):
            if receipt.inputs.get(earlier) != fingerprint(out, earlier):
                yield f"`{stage}` was made from another `{earlier}` than the one that is there"


def _load(out: Path, images: Path, recipe: Recipe, receipts: Mapping[str, Receipt]) -> Dataset:
    identity = tables.read_by_image(tables.path_of(out, "identities"), tables.IDENTITIES, tables.IDENTITY)
    split = tables.read_by_image(tables.path_of(out, "splits"), tables.SPLIT_TABLE, tables.SPLIT)
    folder = out / "reference_mapping"
    references = {name: lists.read_references(folder / f"{name}_references.csv") for name in tables.SPLITS}
    outside = bool(receipts["split"].inputs.get("splits") or receipts["cluster"].inputs.get("identities"))
    outside |= receipts["split"].parameters.get("join_across") == "train"
    excluded = frozenset(map(str, receipts["cluster"].notes.get("excluded", ())))
    embeddings = tables.load_embeddings(out)
    return Dataset(out, images, recipe, embeddings, identity, split, references, outside, excluded)


def _crossing_people(dataset: Dataset) -> Iterator[str]:
    """People in two splits, unless it is a held photo that joins them."""
    first: dict[str, str] = {}
    held = {who for name, who in dataset.identity.items() if dataset.split.get(name) == tables.HELD}
    for name, identity in dataset.identity.items():
        if identity in held:
            continue
        other = first.setdefault(identity, name)
        if dataset.split.get(name) != dataset.split.get(other):
            where = f"{dataset.split.get(other)} and {dataset.split.get(name)}"
            yield f"identity {identity} crosses splits: {other} and {name} are in {where}"


def _crossing_pairs(dataset: Dataset) -> Iterator[str]:
    names = dataset.embeddings.names
    split = np.array([dataset.split.get(name, "") for name in names], object)
    for left, right, distances in tables.iterate_pairs(tables.path_of(dataset.out, "pairs"), names):
        listed = (split[left] != tables.HELD) & (split[right] != tables.HELD)
        for at in np.flatnonzero((split[left] != split[right]) & listed):
            pair = f"{names[left[at]]} and {names[right[at]]}"
            yield f"pair {pair} at distance {distances[at]:.4f} crosses splits"


def _list_faults(dataset: Dataset) -> Iterator[str]:
    """Splits, identities and lists must speak of the same photos: those that are ok and not excluded."""
    there = set(dataset.embeddings.names) - dataset.excluded
    for what, names in (("identities", dataset.identity), ("splits", dataset.split)):
        if odd := there ^ set(names):
            yield f"{what}.parquet and the embeddings differ in {len(odd)} photos, {min(odd)} first"
    for split in tables.SPLITS:
        path = dataset.out / "id_based_ffhq_split" / f"{split}_image.txt"
        wanted = [name for name, part in dataset.split.items() if part == split]
        if lists.read_list(path) != wanted:
            yield f"{path.name} is not the photos of {split}"


def _ledger_faults(dataset: Dataset) -> Iterator[str]:
    """Whoever stands in a list must be known, and in the split of the person."""
    return people.faults(dataset.out, dataset.embeddings.names, dataset.embeddings.pixels, dataset.split)


def _reference_faults(dataset: Dataset) -> Iterator[str]:
    index = {name: at for at, name in enumerate(dataset.embeddings.names)}
    for split, mapping in dataset.references.items():
        for target, references in mapping.items():
            for fault in _row_faults(dataset, index, split, target, references):
                yield f"{split}: {target}: {fault}"


def _row_faults(
    dataset: Dataset, index: Mapping[str, int], split: str, target: str, references: Sequence[str]
) -> Iterator[str]:
    if target not in index:
        yield "the target is no photo of this dataset"
        return
    if dataset.split.get(target) != split:
        yield f"the target is in {dataset.split.get(target)}"
    yield from _count_faults(dataset.recipe, split, references)
    for name in references:
        if name == target:
            yield "it is its own reference"
        elif name not in index:
            yield f"reference {name} is no photo of this dataset"
        else:
            yield from _pair_faults(dataset, index, split, target, name)


def _count_faults(recipe: Recipe, split: str, references: Sequence[str]) -> Iterator[str]:
    """How many references a target of a split may have."""
    if not references:
        yield "it has no reference"
    if len(set(references)) != len(references):
        yield "a reference stands twice"
    low, high = recipe.test_references if split == "test" else (1, 0)
    low, high = (min(n, recipe.max_references or n) for n in (low, high))
    if len(references) < low or (high and len(references) > high):
        yield f"{len(references)} references, not {low} to {high or 'any number'}"


def _pair_faults(
    dataset: Dataset, index: Mapping[str, int], split: str, target: str, name: str
) -> Iterator[str]:
    """Whether a photo may be the reference of a target: its identity, its split, its distance."""
    if dataset.identity.get(name) != dataset.identity.get(target):
        yield f"reference {name} is of another identity"
    if dataset.split.get(name) != split:
        yield f"reference {name} is in {dataset.split.get(name)}"
    least, distance = least_distance(dataset.recipe, split), dataset.recipe.needed_distance()
    apart = float(distances_of(dataset.embeddings.vectors, index[target], index[name])[0])
    if not least <= apart < distance:
        yield f"reference {name} is at distance {apart:.4f}, outside [{least}, {distance})"


def _file_faults(dataset: Dataset) -> Iterator[str]:
    """Each photo that the mappings name must be the file that was embedded, as far as its size tells."""
    sizes = shards.sizes(dataset.out)
    used = {
        name
        for mapping in dataset.references.values()
        for target, references in mapping.items()
        for name in (target, *references)
    }
    for name in sorted(used):
        path = find(dataset.images, name)
        if not path.is_file():
            yield f"{name} is no file below {dataset.images}"
        elif path.stat().st_size != sizes.get(name, path.stat().st_size):
            yield f"{path} is another file than the one that was embedded"
    for name, wanted in shards.crops(dataset.out):
        path = store.below(dataset.images, name)
        if path.is_file() and store.digest_file(path) != wanted:
            yield f"{path} is not what `embed` cut out"
