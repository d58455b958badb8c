"""What 700 new photos cost beside 70,000: pairs, people, splits and mappings of a folder that grew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ffhqref.core import store, tables
from ffhqref.core.recipe import Recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.embed import wanted_receipt
from ffhqref.dataset.references import write_references
from ffhqref.dataset.source import Source
from ffhqref.dataset.split import split_identities
from ffhqref.identities.grouping import Vectors
from tests.benchmarks.common import PAIRS, Row, interleave, seconds
from tests.benchmarks.synthetic import ffhq_like

PHOTOS = 70_000
GROWTH = 100  # one new photo for so many
RECIPE = Recipe(name="bench", distance=0.4, val_identities=300, test_identities=150)


def embedded(out: Path, vectors: Vectors) -> None:
    """As `embed` leaves it, of photos that are not there."""
    rows = [
        (f"{n:06d}.png", "ok", "", 512, 512, store.digest(b"%d" % n), "", 1, 0.9, [0.0] * 10, vector)
        for n, vector in enumerate(vectors)
    ]
    shard = tables.embeddings_folder(out) / "shard-00000.parquet"
    tables.write_rows(shard, tables.EMBEDDINGS, rows)
    receipt = wanted_receipt(Source([], frozenset(), []), {"bench": len(rows)})
    store.write_receipt(out, receipt, [shard], {})


def build(out: Path) -> list[float]:
    """Seconds of each stage."""
    stages = (find_identities, split_identities, write_references)
    return [seconds(lambda stage=stage: stage(out, RECIPE)) for stage in stages]  # type: ignore[misc]


def grow(photos: int) -> tuple[list[float], list[float]]:
    """Seconds of each stage in a first build, and after photos came; nobody may have moved."""
    vectors, _ = ffhq_like(photos + photos // GROWTH)
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        embedded(out, vectors[:photos])
        first, before = build(out), _splits(out)
        embedded(out, vectors)
        again, after = build(out), _splits(out)
    if not before.items() <= after.items():
        raise AssertionError("somebody moved")
    return first, again


def _splits(out: Path) -> dict[str, str]:
    return tables.read_by_image(tables.path_of(out, "splits"), tables.SPLIT_TABLE, tables.SPLIT)


def run(photos: int = PHOTOS, pairs: int = PAIRS) -> Iterator[Row]:
    rounds = interleave(pairs, both=lambda: grow(photos))
    full, grown = (rounds.costs("both", lambda made, at=at: sum(made[at])) for at in (0, 1))
    note = (
        f"{photos} photos, then {photos // GROWTH} more, beside a first build of pairs, people, splits and "
        f"mappings (embedded already): all pairs are searched again; cluster, split, references took "
        f"{_words(rounds.made['both'][0][1])} s"
    )
    yield rounds.row("a folder that grew by 1 %", grown, full, "s", note)


def _words(times: Sequence[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in times)
