"""Embeddings -> pairs.parquet, identities.parquet, duplicates and suspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ffhqref.core import tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import (
    Receipt,
    UserError,
    atomic,
    digest_given,
    fingerprint,
    finished,
    lock,
    write_receipt,
)
from ffhqref.core.terminal import progress_bar
from ffhqref.dataset import crops, verdicts
from ffhqref.dataset.constraints import Obeyed, obey
from ffhqref.dataset.given import agreement_with, corrected, known_people, named, names_of
from ffhqref.dataset.suspects import Suspect, find_suspects
from ffhqref.identities.grouping import (
    Edges,
    Labels,
    Vectors,
    components,
    distances_of,
    lowest,
)
from ffhqref.identities.linkage import single_linkage
from ffhqref.identities.links import NO_PAIRS
from ffhqref.identities.people import group, reach
from ffhqref.identities.search import pairs_below

REVISION = 2
MAX_EDGES = 60_000_000  # that average linkage keeps in memory


def find_identities(out: Path, recipe: Recipe) -> Receipt:
    """Write pairs, identities, duplicates and suspects of a dataset whose photos are embedded.

    Known people (`recipe.identities`) take the place of the grouping; the receipt's notes then say how
    well the grouping would have found them. What OUT/verdicts.csv says holds over both.
    """
    distance = recipe.needed_distance()
    known = crops.by_image(out, known_people(Path(recipe.identities))) if recipe.identities else None
    parameters = {
        "distance": distance,
        "min_distance": recipe.min_distance,
        "grouping": recipe.grouping,
        "faces": recipe.faces,
    }
    inputs = {"embed": fingerprint(out, "embed"), "identities": digest_given(recipe.identities)}
    if verdicts.path_of(out).is_file():
        inputs["verdicts"] = digest_given(str(verdicts.path_of(out)))
    wanted = Receipt(stage="cluster", revision=REVISION, parameters=parameters, inputs=inputs)
    with lock(out, "cluster"):
        if done := finished(out, wanted):
            return done
        notes = _write_tables(out, recipe, distance, known)
        outputs = [tables.path_of(out, name) for name in ("pairs", "identities", "duplicates", "suspects")]
        return write_receipt(out, wanted, outputs, notes)


def _write_tables(
    out: Path, recipe: Recipe, distance: float, known: Mapping[str, str] | None
) -> dict[str, object]:
    """All four tables; returns the counts."""
    whole = tables.load_embeddings(out)
    told = obey(out, whole, faces_apart(whole.names) if recipe.faces == "all" else NO_PAIRS)
    embeddings = told.embeddings
    names, vectors = embeddings.names, embeddings.vectors
    pairs = tables.path_of(out, "pairs")
    found = _search(pairs, names, vectors, distance, recipe)
    people = _grouped(pairs, told, found, recipe)
    notes: dict[str, object] = {"pairs": found.pairs, "distance": distance, "photos": len(names)}
    identity = [names[label] for label in people]
    if known is not None:
        notes["agreement"] = agreement_with(known, names, people, pairs)
        given = named(known, names)
        people = corrected(lowest(np.unique(given, return_inverse=True)[1]), told)
        identity = names_of(people, given, names)
    tied = np.stack([np.arange(len(names)), people], axis=1).astype(np.int32)
    component = [names[label] for label in components(len(names), tied, found.components)]
    columns = [names, identity, component]
    tables.write_columns(tables.path_of(out, "identities"), tables.IDENTITIES, columns)
    duplicates = find_duplicates(embeddings, found.near, people)
    tables.write_rows(tables.path_of(out, "duplicates"), tables.DUPLICATES, duplicates)
    suspects = find_suspects(pairs, embeddings, people, identity, found.edges, recipe, known)
    suspects = _unanswered(suspects, told, people)
    tables.write_rows(tables.path_of(out, "suspects"), tables.SUSPECTS, suspects)
    sizes = np.bincount(np.unique(people, return_inverse=True)[1])
    return notes | {
        "identities": len(sizes),
        "identities_of_two_or_more": int((sizes > 1).sum()),
        "duplicates": dict(Counter(kind for _, _, kind, _ in duplicates)),
        "suspects": dict(Counter(kind for kind, *_ in suspects)),
        "verdicts": told.obeyed | ({"stale": told.stale} if told.stale else {}),
        "excluded": told.excluded,
    }


def _grouped(path: Path, told: Obeyed, found: Found, recipe: Recipe) -> Labels:
    """People by the recipe's grouping, as far as verdicts say nothing else."""
    links, settled, names = told.links, told.settled, told.embeddings.names
    if recipe.grouping == "average":
        return group(
            told.embeddings.vectors, recipe.needed_distance(), found.edges,
            must=links.must, cannot=links.cannot, frozen=links.frozen,
        )  # fmt: skip
    whole = components(len(names), np.concatenate([links.must, links.frozen]), found.components)
    torn = told.torn(whole)
    if not len(torn):
        return whole
    blocks = [(NO_PAIRS, np.empty(0))]
    for left, right, distances in tables.iterate_pairs(path, names):
        inside = np.isin(whole[left], torn)
        blocks.append((np.stack([left, right], axis=1)[inside].astype(np.int32), distances[inside]))
    edges, distances = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return np.where(np.isin(whole, torn), single_linkage(edges, distances, settled), whole)


def _unanswered(suspects: list[Suspect], told: Obeyed, people: Labels) -> list[Suspect]:
    """The suspects that no verdict has answered yet."""
    index = {name: at for at, name in enumerate(told.embeddings.names)}
    pairs = np.array([[index[row.left], index[row.right]] for row in suspects], np.int32).reshape(-1, 2)
    return [row for row, keep in zip(suspects, told.unanswered(pairs, people), strict=True) if keep]


def faces_apart(names: Sequence[str]) -> Edges:
    """The pairs of faces that were cut out of one photograph, by their names `PHOTO/001.png`."""
    faces: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        faces.setdefault(name.rpartition("/")[0], []).append(index)
    pairs = [pair for indices in faces.values() for pair in combinations(indices, 2)]
    return np.array(pairs, np.int32).reshape(-1, 2)


@dataclass(frozen=True)
class Found:
    """What one pass over all pairs gives: `near` below the smallest distance, `edges` for average linkage."""

    pairs: int
    components: Labels
    near: Edges
    edges: Edges


def _search(path: Path, names: list[str], vectors: Vectors, distance: float, recipe: Recipe) -> Found:
    """Write pairs.parquet block by block; keep components, near pairs and, if needed, edges."""
    count, pairs = len(names), 0
    furthest = reach(distance) if recipe.grouping == "average" else distance
    joined = np.arange(count)
    near, edges, kept = [NO_PAIRS], [NO_PAIRS], 0
    words = np.array(names, object)
    with (
        atomic(path) as part,
        pq.ParquetWriter(part, tables.PAIRS, compression="zstd") as writer,
        progress_bar("pairs", "pair", count * count / 2, scaled=True) as bar,
    ):
        for left, right, distances in pairs_below(vectors, furthest, bar.update):
            block = np.stack([left, right], axis=1).astype(np.int32)
            below = distances < distance
            if below.any():
                columns = words[left[below]].tolist(), words[right[below]].tolist(), distances[below].tolist()
                writer.write_table(tables.from_columns(tables.PAIRS, columns))
                joined = components(count, block[below], joined)
                pairs += int(below.sum())
            near.append(block[distances < recipe.min_distance])
            if recipe.grouping == "average":
                edges.append(block)
                kept += len(block)
                if kept > MAX_EDGES:
                    raise UserError(
                        f"More than {MAX_EDGES / 1e6:.0f} million pairs are near {distance}: the distance is "
                        "too large for this network (`ffhqref calibrate`), or give --grouping components."
                    )
    return Found(pairs, joined, np.concatenate(near), np.concatenate(edges))


def find_duplicates(
    embeddings: tables.Embeddings, near: Edges, people: Labels
) -> list[tuple[str, str, str, float]]:
    """Copies: of equal pixels all but the first name; of one identity each photo nearer than the smallest
    distance (the pairs `near`) to a larger picture, or an earlier name of its size, that itself stays."""
    names, rows = embeddings.names, []
    first: dict[str, int] = {}
    copy_of = np.arange(len(names))
    for index, pixels in enumerate(embeddings.pixels):
        copy_of[index] = first.setdefault(pixels, index)
        if copy_of[index] != index:
            rows.append((names[index], names[copy_of[index]], "exact", 0.0))
    counts = (copy_of == np.arange(len(names)))[near].all(axis=1) & (people[near[:, 0]] == people[near[:, 1]])
    for copy, kept in _near_copies(near[counts], embeddings.area).items():
        distance = float(distances_of(embeddings.vectors, copy, kept)[0])
        rows.append((names[copy], names[kept], "near", distance))
    return sorted(rows)


def _near_copies(near: Edges, area: Sequence[int]) -> dict[int, int]:
    """Copy -> the photo that stays: the largest first, each takes what is near it and is not taken yet.

    A copy of a copy stays, unless something that stays is near it, too: nothing chains.
    """
    others: dict[int, list[int]] = {}
    for left, right in near.tolist():
        others.setdefault(left, []).append(right)
        others.setdefault(right, []).append(left)
    kept_by: dict[int, int] = {}
    for kept in sorted(others, key=lambda index: (-area[index], index)):
        if kept not in kept_by:
            kept_by |= {other: kept for other in others[kept] if other not in kept_by}
    return kept_by
