"""A dataset's graph of valid references: who may be whose, by identity, distance and copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffhqref.core import lists, tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.images import png_name
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset import crops


@dataclass(frozen=True)
class Neighbours:
    """The photos that are ok, ordered by name, and the pairs that may be target and reference.

    `left`, `right`, `distance` hold each pair below the distance inside one identity, once each way,
    ordered by left; copies of equal pixels are in none. `may_be_target` leaves out copies, crops
    too small or too much padded, and what `--targets` does not name.
    """

    names: list[str]
    identity: list[str]
    component: list[str]
    left: Int64
    right: Int64
    distance: Float64
    may_be_target: npt.NDArray[np.bool_]
    limited: bool  # whether `--targets` named who may be a target

    def counts(self, least: float) -> Int64:
        """How many references at `least` or farther each photo has."""
        return np.bincount(self.left[self.distance >= least], minlength=len(self.names))

    def of(self, photo: int, least: float) -> tuple[Int64, Float64]:
        """The references of one photo at `least` or farther, and their distances."""
        begin, end = np.searchsorted(self.left, [photo, photo + 1])
        right, distance = self.right[begin:end], self.distance[begin:end]
        return right[distance >= least], distance[distance >= least]


def least_distance(recipe: Recipe, split: str) -> float:
    """How far a reference must at least be in a split: the paper leaves near-duplicates out of test only."""
    return recipe.min_distance if split == "test" or recipe.dedupe == "near" else 0.0


def load(out: Path, recipe: Recipe) -> Neighbours:
    """Read identities, pairs and duplicates of the dataset `out`."""
    table = tables.read(tables.path_of(out, "identities"), tables.IDENTITIES)
    names, identity, component = (tables.texts(table, column) for column in tables.IDENTITIES.names)
    index = {name: at for at, name in enumerate(names)}
    copies, near_copies = _copies(out, recipe)
    barred = crops.barred(out)
    usable = np.array([name not in copies for name in names], bool)
    may_be_target = usable & np.array([name not in near_copies for name in names], bool)
    may_be_target &= np.array([name not in barred for name in names], bool)
    if recipe.targets:
        may_be_target &= _named(Path(recipe.targets), index)
    person = np.unique(np.array(identity, object), return_inverse=True)[1]
    left, right, distances = [], [], []
    for one, other, distance in tables.iterate_pairs(tables.path_of(out, "pairs"), names):
        keep = (person[one] == person[other]) & usable[one] & usable[other]
        left += [one[keep], other[keep]]
        right += [other[keep], one[keep]]
        distances += [distance[keep], distance[keep]]
    empty = np.empty(0, np.int64)
    all_left, all_right = np.concatenate([empty, *left]), np.concatenate([empty, *right])
    order = np.lexsort((all_right, all_left))
    all_distances = np.concatenate([np.empty(0), *distances])[order]
    return Neighbours(
        names, identity, component, all_left[order], all_right[order], all_distances,
        may_be_target, recipe.targets is not None,
    )  # fmt: skip


def _copies(out: Path, recipe: Recipe) -> tuple[set[str], set[str]]:
    """Names of exact copies (of no use at all) and of near copies (no targets), as the recipe says."""
    table = tables.read(tables.path_of(out, "duplicates"), tables.DUPLICATES)
    kinds = list(zip(tables.texts(table, tables.IMAGE), tables.texts(table, tables.KIND), strict=True))
    exact = {name for name, kind in kinds if kind == "exact"}
    near = {name for name, kind in kinds if kind == "near"}
    return exact if recipe.dedupe != "off" else set(), near if recipe.dedupe == "near" else set()


def _named(path: Path, index: dict[str, int]) -> npt.NDArray[np.bool_]:
    """Which photos a list names, by whole name or by their `.png`; UserError where none is in the dataset."""
    stems = {png_name(name): at for name, at in index.items()}
    found = np.zeros(len(index), bool)
    for name in lists.read_list(path):
        at = index.get(name, stems.get(png_name(name)))
        if at is not None:
            found[at] = True
    if not found.any():
        raise UserError(f"{path} names no photograph of this dataset: give their names, one a line.")
    return found
