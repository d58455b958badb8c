"""Embeddings -> pairs.parquet, identities.parquet, duplicates and suspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ffhqref.core import tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import (
    JsonObject,
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
from ffhqref.dataset import crops
from ffhqref.dataset.suspects import find_suspects
from ffhqref.identities.grouping import (
    Edges,
    Labels,
    Vectors,
    agreement,
    components,
    distances_of,
    lowest,
)
from ffhqref.identities.linkage import single_linkage
from ffhqref.identities.links import NO_PAIRS, Links, settle
from ffhqref.identities.people import group, reach
from ffhqref.identities.search import pairs_below

REVISION = 2
MAX_EDGES = 60_000_000  # that average linkage keeps in memory


def find_identities(out: Path, recipe: Recipe) -> Receipt:
    """Write pairs, identities, duplicates and suspects of a dataset whose photos are embedded.

    Known people (`recipe.identities`) take the place of the grouping; the receipt's notes then say how
    well the grouping would have found them.
    """
    distance = recipe.needed_distance()
    known = crops.by_image(out, _known_people(Path(recipe.identities))) if recipe.identities else None
    parameters = {
        "distance": distance,
        "min_distance": recipe.min_distance,
        "grouping": recipe.grouping,
        "faces": recipe.faces,
    }
    inputs = {"embed": fingerprint(out, "embed"), "identities": digest_given(recipe.identities)}
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
    embeddings = tables.load_embeddings(out)
    names, vectors = embeddings.names, embeddings.vectors
    pairs = tables.path_of(out, "pairs")
    found = _search(pairs, names, vectors, distance, recipe)
    people = _grouped(pairs, embeddings, found, recipe)
    notes: dict[str, object] = {"pairs": found.pairs, "distance": distance, "photos": len(names)}
    identity = [names[label] for label in people]
    if known is not None:
        notes["agreement"] = _agreement_with(known, names, people, pairs)
        identity = _named(known, names)
        people = lowest(np.unique(identity, return_inverse=True)[1])
    tied = np.stack([np.arange(len(names)), people], axis=1).astype(np.int32)
    component = [names[label] for label in components(len(names), tied, found.components)]
    columns = [names, identity, component]
    tables.write_columns(tables.path_of(out, "identities"), tables.IDENTITIES, columns)
    duplicates = find_duplicates(embeddings, found.near, people)
    tables.write_rows(tables.path_of(out, "duplicates"), tables.DUPLICATES, duplicates)
    suspects = find_suspects(pairs, embeddings, people, identity, found.edges, recipe, known)
    tables.write_rows(tables.path_of(out, "suspects"), tables.SUSPECTS, suspects)
    sizes = np.bincount(np.unique(people, return_inverse=True)[1])
    return notes | {
        "identities": len(sizes),
        "identities_of_two_or_more": int((sizes > 1).sum()),
        "duplicates": dict(Counter(kind for _, _, kind, _ in duplicates)),
        "suspects": dict(Counter(kind for kind, *_ in suspects)),
    }


def _grouped(path: Path, embeddings: tables.Embeddings, found: Found, recipe: Recipe) -> Labels:
    """People by the recipe's grouping; two faces of one photograph are never one."""
    cannot = faces_apart(embeddings.names) if recipe.faces == "all" else NO_PAIRS
    if recipe.grouping == "average":
        return group(embeddings.vectors, recipe.needed_distance(), found.edges, cannot=cannot)
    joined = found.components[cannot[:, 0]] == found.components[cannot[:, 1]]
    torn = np.unique(found.components[cannot[joined, 0]])
    if not len(torn):
        return found.components
    blocks = []
    for left, right, distances in tables.iterate_pairs(path, embeddings.names):
        inside = np.isin(found.components[left], torn)
        blocks.append((np.stack([left, right], axis=1)[inside].astype(np.int32), distances[inside]))
    edges, distances = (np.concatenate(column) for column in zip(*blocks, strict=True))
    parted = single_linkage(edges, distances, settle(len(embeddings.names), Links(cannot=cannot)))
    return np.where(np.isin(found.components, torn), parted, found.components)


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


def _known_people(path: Path) -> dict[str, str]:
    """A CSV of image and identity."""
    frame = tables.read_csv(path, [tables.IMAGE, tables.IDENTITY])
    people = dict(zip(frame[tables.IMAGE], frame[tables.IDENTITY], strict=True))
    if len(people) != len(frame):
        twice = frame[tables.IMAGE][frame[tables.IMAGE].duplicated()].iloc[0]
        raise UserError(f"{path}: {twice} stands twice; give each image one identity.")
    return people


def _named(known: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Each photo's known identity; one that is not in the list has an identity of its own, its name."""
    if not any(name in known for name in names):
        raise UserError("None of the photographs is in --identities: its image column must hold their names.")
    taken = set(known.values())
    return [known.get(name) or (f"photo:{name}" if name in taken else name) for name in names]


def _agreement_with(
    known: Mapping[str, str], names: Sequence[str], people: Labels, pairs: Path
) -> JsonObject:
    """How the grouping agrees with known people, and what that means for references and splits."""
    listed = np.array([bool(known.get(name)) for name in names])
    if not listed.any():
        return {}
    person = np.unique([known.get(name, "") for name in names], return_inverse=True)[1]
    found = agreement(people[listed], person[listed])
    references = wrong = 0
    for left, right, _ in tables.iterate_pairs(pairs, names):
        both = listed[left] & listed[right] & (people[left] == people[right])
        references += 2 * int(both.sum())  # each way
        wrong += 2 * int((person[left] != person[right])[both].sum())
    parts = np.unique(np.stack([person[listed], people[listed]], axis=1), axis=0)[:, 0]
    return {
        **asdict(found),
        "pair_f": found.pair_f,
        "bcubed_f": found.bcubed_f,
        "references": references,
        "wrong_references": wrong,
        "people_in_several": int((np.bincount(parts) > 1).sum()),
    }
