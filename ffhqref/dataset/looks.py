"""How each photo shows its face, as far as five points tell: what references can be ordered by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffhqref.core import store, tables
from ffhqref.core.arrays import Float64, Int64
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError


@dataclass(frozen=True)
class Looks:
    """Of each photo, ordered by name: `turn`, and `eyes`, the px between them in the picture.

    `turn` is where the nose's tip lies along the line from the left eye to the right one: 0 above the
    middle, 0.5 at the right eye; it grows with the yaw, and orders poses. NaN where no points are known.
    """

    turn: Float64
    eyes: Float64


def looks_of(points: Float64) -> Looks:
    """Looks of n photos by their five points (n x 5 x 2 px: eyes, nose, mouth corners)."""
    left, right, nose = points[:, 0], points[:, 1], points[:, 2]
    across = right - left
    squared = (across**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        turn = ((nose - (left + right) / 2) * across).sum(axis=1) / squared
    return Looks(turn, np.sqrt(squared))


def load(out: Path, names: list[str]) -> Looks:
    """The looks of the dataset's photos `names`; UserError where their points are not known."""
    receipt = store.read_receipt(out, "embed")
    found: dict[str, list[float]] = {}
    for shard in receipt.outputs if receipt else ():
        columns = [tables.IMAGE, tables.LANDMARKS]
        table = tables.read(store.below(out, shard), tables.EMBEDDINGS, columns)
        rows = zip(tables.texts(table, tables.IMAGE), table[tables.LANDMARKS].to_pylist(), strict=True)
        found |= {name: points for name, points in rows if points}
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(
            f"--order pose and quality need landmarks, and {missing[0]} has none: embed with --align detect."
        )
    return looks_of(np.array([found[name] for name in names], np.float64).reshape(-1, 5, 2))


def keys(recipe: Recipe, names: list[str], looks: Looks | None, target: int, photos: Int64) -> Float64:
    """What a target's references are ordered by, least first, for the orders that look at single photos.

    `pose`: how far a photo's turn is from the target's. `quality`: more pixels between the eyes first.
    `random`: by a hash of the seed and both names. `name`: as they are.
    """
    if recipe.order == "pose" and looks is not None:
        return np.asarray(np.abs(looks.turn[photos] - looks.turn[target]), np.float64)
    if recipe.order == "quality" and looks is not None:
        return np.asarray(-looks.eyes[photos], np.float64)
    if recipe.order == "random":
        pairs = [f"{names[target]}\n{names[photo]}" for photo in photos]
        return np.array([store.seed_for(recipe.seed, pair, "references") for pair in pairs], np.float64)
    return np.zeros(len(photos))
