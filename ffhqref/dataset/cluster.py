"""Embeddings -> pairs.parquet, identities.parquet, duplicates and suspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from ffhqref.core import tables
from ffhqref.core.arrays import Float64
from ffhqref.core.recipe import Grouping, Recipe
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
from ffhqref.dataset import crops
from ffhqref.identities.grouping import (
    Edges,
    Labels,
    Vectors,
    agreement,
    average_linkage,
    cohesion,
    components,
    linkage_cut,
    lowest,
    lowest_baseline,
    similarities,
    weakest_link,
)
from ffhqref.identities.search import pairs_below, stranger_baselines

REVISION = 1
MAX_EDGES = 60_000_000  # that average linkage keeps in memory
_NO_EDGES: Edges = np.empty((0, 2), np.int32)


def group_by_average(vectors: Vectors, distance: float, edges: Edges) -> Labels:
    """People by average linkage over each photo's own baseline of strangers; `edges`: see `reach`.

    A first round without baselines gives provisional people; they say how similar strangers are.
    """
    near = edges[1 - similarities(vectors, edges[:, 0], edges[:, 1]) < distance]
    people = average_linkage(vectors, np.zeros(len(vectors)), 1 - distance, near)
    baselines = stranger_baselines(vectors, people, distance)
    above = similarities(vectors, edges[:, 0], edges[:, 1]) - baselines[edges].mean(axis=1)
    return average_linkage(vectors, baselines, linkage_cut(distance), edges[above > linkage_cut(distance)])


def reach(grouping: Grouping, distance: float) -> float:
    """The distance up to which a grouping must know the pairs: average linkage looks past `distance`."""
    if grouping == "components":
        return distance
    return max(distance, 1 - linkage_cut(distance) - lowest_baseline(distance))


def find_identities(out: Path, recipe: Recipe) -> Receipt:
    """Write pairs, identities, duplicates and suspects of a dataset whose photos are embedded.

    Known people (`recipe.identities`) take the place of the grouping; the receipt's notes then say how
    well the grouping would have found them.
    """
    distance = recipe.needed_distance()
    known = crops.by_image(out, _known_people(Path(recipe.identities))) if recipe.identities else None
    parameters = {"distance": distance, "min_distance": recipe.min_distance, "grouping": recipe.grouping}
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
    found = _search(tables.path_of(out, "pairs"), names, vectors, distance, recipe)
    if recipe.grouping == "components":
        people = found.components
    else:
        people = group_by_average(vectors, distance, found.edges)
    notes: dict[str, object] = {"pairs": found.pairs, "distance": distance, "photos": len(names)}
    identity = [names[label] for label in people]
    if known is not None:
        notes["agreement"] = _agreement_with(known, names, people)
        identity = _named(known, names)
        people = lowest(np.unique(identity, return_inverse=True)[1])
    tied = np.stack([np.arange(len(names)), people], axis=1).astype(np.int32)
    component = [names[label] for label in components(len(names), tied, found.components)]
    columns = [names, identity, component]
    tables.write_columns(tables.path_of(out, "identities"), tables.IDENTITIES, columns)
    duplicates = find_duplicates(embeddings, found.near, people)
    tables.write_rows(tables.path_of(out, "duplicates"), tables.DUPLICATES, duplicates)
    suspects = find_suspects(out, embeddings, people, identity, distance)
    tables.write_rows(tables.path_of(out, "suspects"), tables.SUSPECTS, suspects)
    sizes = np.bincount(np.unique(people, return_inverse=True)[1])
    return notes | {
        "identities": len(sizes),
        "identities_of_two_or_more": int((sizes > 1).sum()),
        "duplicates": dict(Counter(kind for _, _, kind, _ in duplicates)),
        "suspects": dict(Counter(kind for kind, *_ in suspects)),
    }


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
    joined = np.arange(count)
    near, edges, kept = [_NO_EDGES], [_NO_EDGES], 0
    words = np.array(names, object)
    with (
        atomic(path) as part,
        pq.ParquetWriter(part, tables.PAIRS, compression="zstd") as writer,
        progress_bar("pairs", "pair", count * count / 2, scaled=True) as bar,
    ):
        for left, right, distances in pairs_below(vectors, reach(recipe.grouping, distance), bar.update):
            block = np.stack([left, right], axis=1).astype(np.int32)
            below = distances < distance
            if below.any():
                columns = words[left[below]].tolist(), words[right[below]].tolist(), distances[below].tolist()
                writer.write_table(tables.from_columns(tables.PAIRS, columns))
                joined = components(count, block[below], joined)
                pairs += int(below.sum())
            near.append(block[distances < recipe.min_distance])
            if recipe.grouping != "components":
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
    """Copies: of equal pixels all but the first name; of photos of one identity nearer than the smallest
    distance all but the largest picture (then the first name)."""
    names, rows = embeddings.names, []
    first: dict[str, int] = {}
    copy_of = np.arange(len(names))
    for index, pixels in enumerate(embeddings.pixels):
        copy_of[index] = first.setdefault(pixels, index)
        if copy_of[index] != index:
            rows.append((names[index], names[copy_of[index]], "exact", 0.0))
    edges = copy_of[near].astype(np.int32)
    groups = components(len(names), edges[people[edges[:, 0]] == people[edges[:, 1]]])
    members: dict[int, list[int]] = {}
    for index in np.flatnonzero(copy_of == np.arange(len(names))).tolist():
        members.setdefault(int(groups[index]), []).append(index)
    for group in members.values():
        kept = min(group, key=lambda index: (-embeddings.area[index], index))
        for index in group:
            if index != kept:
                distance = 1 - float(similarities(embeddings.vectors, index, kept)[0])
                rows.append((names[index], names[kept], "near", distance))
    return sorted(rows)


class Suspect(NamedTuple):
    """A row of `tables.SUSPECTS`."""

    kind: str
    identity: str
    other: str
    left: str
    right: str
    distance: float
    cohesion: float
    members: int


def find_suspects(
    out: Path, embeddings: tables.Embeddings, people: Labels, identity: Sequence[str], distance: float
) -> list[Suspect]:
    """What a person should look through, of each kind the most doubtful first.

    weak_link: an identity held together by a pair at or above nine tenths of the distance.
    loose_identity: one whose photos' mean distance is not below the distance.
    close_identities: two identities with a pair of photos below the distance.
    """
    names, vectors, rows = embeddings.names, embeddings.vectors, []
    order = np.argsort(people, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(people[order])) + 1):
        if len(members) < 2:
            continue
        left, right, length = weakest_link(vectors[members])
        inner = cohesion(vectors[members])
        pair = (names[members[left]], names[members[right]], length, inner, len(members))
        if length >= 0.9 * distance:
            rows.append(Suspect("weak_link", identity[members[0]], "", *pair))
        if 1 - inner >= distance:
            rows.append(Suspect("loose_identity", identity[members[0]], "", *pair))
    rows.extend(_close_identities(out, embeddings, people, identity))

    def order_of(row: Suspect) -> tuple[str, float, str, str]:
        near_is_doubtful = row.kind == "close_identities"
        return row.kind, row.distance if near_is_doubtful else -row.distance, row.identity, row.other

    return sorted(rows, key=order_of)


def _close_identities(
    out: Path, embeddings: tables.Embeddings, people: Labels, identity: Sequence[str]
) -> list[Suspect]:
    """The nearest pair of each two identities that have one below the distance."""
    nearest: dict[tuple[int, int], tuple[float, int, int]] = {}
    for left, right, distances in tables.iterate_pairs(tables.path_of(out, "pairs"), embeddings.names):
        for i in np.flatnonzero(people[left] != people[right]).tolist():
            a, b = int(left[i]), int(right[i])
            key = (min(people[a], people[b]), max(people[a], people[b]))
            nearest[key] = min(nearest.get(key, (9.0, 0, 0)), (float(distances[i]), a, b))

    @cache
    def mean(label: int) -> Float64:
        return np.asarray(embeddings.vectors[people == label].astype(np.float64).mean(axis=0))

    return [
        Suspect(
            "close_identities", identity[a], identity[b], embeddings.names[i], embeddings.names[j], length,
            float((mean(a) * mean(b)).sum()), int(((people == a) | (people == b)).sum()),
        )
        for (a, b), (length, i, j) in nearest.items()
    ]  # fmt: skip


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


def _agreement_with(known: Mapping[str, str], names: Sequence[str], people: Labels) -> dict[str, float]:
    listed = [index for index, name in enumerate(names) if known.get(name)]
    if not listed:
        return {}
    found = agreement(people[listed], [known[names[index]] for index in listed])
    return {**asdict(found), "pair_f": found.pair_f, "bcubed_f": found.bcubed_f}
