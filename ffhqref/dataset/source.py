"""A folder of photographs -> which of them are embedded, and what decides the rows of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ffhqref.core import lists, store, tables
from ffhqref.core.images import Photo, scan
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError
from ffhqref.dataset.crops import check_source
from ffhqref.dataset.shards import Entry
from ffhqref.faces.align import read_landmarks


@dataclass(frozen=True)
class Source:
    """The photos to embed, which are excluded, and the folders passed over since `ffhqref` wrote them."""

    photos: Sequence[Photo]
    excluded: frozenset[str]
    passed_over: Sequence[Path]
    skipped: Mapping[str, int] = field(default_factory=dict)  # files that are no pictures, by suffix

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
    check_source(images, out)
    passed_over: list[Path] = []
    skipped: Counter[str] = Counter()
    photos = scan(images, without=out, kept=_names_so_far(out), passed_over=passed_over, skipped=skipped)
    excluded = frozenset(lists.read_list(Path(recipe.exclude))) if recipe.exclude else frozenset()
    unmatched = sorted(excluded - {photo.name for photo in photos})
    if unmatched and recipe.exclude_unmatched == "error":
        some = ", ".join(unmatched[:5]) + (", ..." if len(unmatched) > 5 else "")
        raise UserError(
            f"{recipe.exclude}: {len(unmatched)} names are no photograph below {images} ({some}): write them "
            f"as they are there, such as {photos[0].name}, or give --exclude-unmatched ignore."
        )
    return Source(photos[: recipe.limit], excluded, passed_over, dict(sorted(skipped.items())))


def _names_so_far(out: Path) -> frozenset[str]:
    """The names that the dataset uses already: of two that meet, such a one keeps its place."""
    receipt = store.read_receipt(out, "embed")
    names: set[str] = set()
    for shard in receipt.outputs if receipt else ():
        with suppress(UserError):  # damaged or gone: made again below
            table = tables.read(store.below(out, shard), tables.EMBEDDINGS, [tables.PHOTO, tables.STATUS])
            rows = zip(tables.texts(table, tables.PHOTO), tables.texts(table, tables.STATUS), strict=True)
            names |= {name for name, status in rows if status != "bad_name"}
    return frozenset(names)
