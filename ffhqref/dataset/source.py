"""A folder of photographs -> which of them are embedded, and what decides the rows of each."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core import store, tables
from ffhqref.core.images import Photo, scan
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset.shards import Entry
from ffhqref.faces.align import read_landmarks


@dataclass(frozen=True)
class Source:
    """The photos to embed, which are excluded, and the folders passed over since `ffhqref` wrote them."""

    photos: Sequence[Photo]
    excluded: frozenset[str]
    passed_over: Sequence[Path]

    def entries(self, recipe: Recipe) -> list[Entry]:
        """Each photo with what decides its rows."""
        given = read_landmarks(Path(recipe.landmarks or "")) if recipe.align == "landmarks" else None
        return [
            Entry(photo, photo.name in self.excluded, given.digest(photo.name) if given else "")
            for photo in self.photos
        ]


def find_source(images: Path, out: Path, recipe: Recipe) -> Source:
    """The photos below `images`. What was written to `out`, or is a dataset itself, is none of them.

    UserError where the folder holds none, or an excluded name is not there (`--exclude-unmatched ignore`
    lets that pass).
    """
    if images.resolve() == out.resolve():
        raise UserError(f"{out} holds the photographs: give --out another folder (one below it will do).")
    passed_over: list[Path] = []
    photos = scan(images, without=out, kept=_names_so_far(out), passed_over=passed_over)
    excluded = frozenset(tables.read_list(Path(recipe.exclude))) if recipe.exclude else frozenset()
    unmatched = sorted(excluded - {photo.name for photo in photos})
    if unmatched and recipe.exclude_unmatched == "error":
        some = ", ".join(unmatched[:5]) + (", ..." if len(unmatched) > 5 else "")
        raise UserError(
            f"{recipe.exclude}: {len(unmatched)} names are no photograph below {images} ({some}): write them "
            f"as they are there, such as {photos[0].name}, or give --exclude-unmatched ignore."
        )
    return Source(photos[: recipe.limit], excluded, passed_over)


def _names_so_far(out: Path) -> frozenset[str]:
    """The names that the dataset uses already: of two that meet, such a one keeps its place."""
    receipt = store.read_receipt(out, "embed")
    names: set[str] = set()
    for shard in receipt.outputs if receipt else ():
        with suppress(UserError):  # damaged or gone: made again below
            table = tables.read(store.below(out, shard), tables.EMBEDDINGS, [tables.IMAGE, tables.STATUS])
            rows = zip(tables.texts(table, tables.IMAGE), tables.texts(table, tables.STATUS), strict=True)
            names |= {name for name, status in rows if status != "bad_name"}
    return frozenset(names)
