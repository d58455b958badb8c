"""Pairs below a distance, exactly, and each photo's nearest strangers: the only user of FAISS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np
import numpy.typing as npt

from ffhqref.identities.grouping import STRANGERS, Labels, Vectors, lowest_level, similarities

MARGIN = 1e-5  # float32 products differ by less; what lies nearer to the distance is decided in float64
TILE = (4096, 2048)  # rows and columns of the matrix that are screened at once: at most 8.4 million pairs
FEW = 8192  # rows below which the search takes a second or two as they are
SAMPLE = 2048  # rows that say how far all can be shortened
DECISION = 100_000  # what deciding a pair costs, in coordinates of a screened pair
MAX_KEPT = 4_000_000  # pairs held at once, 24 bytes each
Block = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


def pairs_below(
    vectors: Vectors, distance: float, progress: Callable[[float], object] = lambda done: None
) -> Iterator[Block]:
    """Every pair of rows strictly below `distance` as (left, right, distances), left < right, ordered.

    Stripes of rows against all rows from their first on: half of the matrix. FAISS screens shortened rows
    (see `_bounding`) with a margin; each kept pair is decided in float64 from the stored rows, so that
    neither tile size nor threads matter.
    A stripe with more than `MAX_KEPT` pairs is done again in smaller ones: memory does not follow the data.
    """
    rows = np.ascontiguousarray(vectors, np.float32)
    short = _bounding(rows, 1 - distance - MARGIN)
    count, begin, height = len(rows), 0, TILE[0]
    while begin < count:
        end = min(begin + height, count)
        found = _stripe(rows, short, begin, end, distance)
        if found is None:
            height = -(-(end - begin) // 2)
            continue
        yield found
        progress((end - begin) * (count - (begin + end) / 2))
        begin, height = end, min(TILE[0], 2 * height if len(found[0]) < MAX_KEPT // 4 else height)


def _stripe(rows: Vectors, short: Vectors, begin: int, end: int, distance: float) -> Block | None:
    """The pairs with left in begin..end - 1, or None where they are too many to be held at once."""
    parts: list[Block] = []
    for start in range(begin, len(rows), TILE[1]):
        left, right = _screen(short[begin:end], short[start : start + TILE[1]], 1 - distance - MARGIN)
        left, right = left + begin, right + start
        left, right = left[left < right], right[left < right]
        distances = 1 - similarities(rows, left, right)
        below = distances < distance
        parts.append((left[below], right[below], distances[below]))
        if end - begin > 1 and sum(len(part[0]) for part in parts) > MAX_KEPT:
            return None
    left, right, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((right, left))
    return left[order], right[order], distances[order]


def _bounding(rows: Vectors, similarity: float) -> Vectors:
    """Shorter rows whose products are never below those of `rows`, or `rows` where they would not pay.

    Turned onto the principal axes, a row is its first k coordinates and the length of the rest; by Cauchy
    and Schwarz the product of two lengths is at least the product of the rests. A sample says which k is
    cheapest: fewer coordinates make the search shorter but let through more pairs to decide.
    """
    if len(rows) < FEW:
        return rows
    axes = np.linalg.eigh((rows.T @ rows).astype(np.float64))[1][:, ::-1]  # D x D, the widest first
    turned = rows[:: max(1, len(rows) // SAMPLE)] @ axes
    dimension = rows.shape[1]

    def cost(kept: int) -> float:
        short = _shortened(turned, kept)
        passing = (short @ short.T >= similarity).mean() - 1 / len(turned)  # less a row's with itself
        return kept + 1 + DECISION * max(float(passing), 0.0)

    best = min(range(dimension // 8, dimension, dimension // 16), key=cost)
    if cost(best) > 0.9 * dimension:
        return rows
    short = np.empty((len(rows), best + 1), np.float32)
    for begin in range(0, len(rows), TILE[0]):
        part = slice(begin, begin + TILE[0])
        short[part] = _shortened(rows[part] @ axes, best)
    return short


def _shortened(turned: npt.NDArray[np.float64], kept: int) -> Vectors:
    """The first `kept` coordinates and the length of the rest."""
    rest = np.linalg.norm(turned[:, kept:], axis=1, keepdims=True)
    return np.asarray(np.hstack([turned[:, :kept], rest]), np.float32)


def _screen(
    queries: Vectors, rows: Vectors, similarity: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Index pairs (query, row) whose float32 product passes `similarity`; no copy of `rows` is made."""
    result = faiss.RangeSearchResult(len(queries))
    faiss.range_search_inner_product(
        faiss.swig_ptr(queries),
        faiss.swig_ptr(rows),
        rows.shape[1],
        len(queries),
        len(rows),
        similarity,
        result,
    )
    limits = faiss.rev_swig_ptr(result.lims, len(queries) + 1).astype(np.int64)
    found = faiss.rev_swig_ptr(result.labels, int(limits[-1])).copy()
    return np.repeat(np.arange(len(queries)), np.diff(limits)), found


def stranger_levels(vectors: Vectors, people: Labels, distance: float) -> npt.NDArray[np.float64]:
    """What the similarity to a stranger looks like for each photo (n), from other provisional people.

    Each other person counts once, by the photo most similar, so that one with many photos does not pass
    for a crowd. Ranks 10 to 60 are averaged: the nearest few may be the same person not yet joined.
    """
    floor = lowest_level(distance)
    _, person = np.unique(people, return_inverse=True)
    others = int(person.max())  # people but one's own
    levels = np.full(len(vectors), floor)
    if others <= STRANGERS.start:
        return levels
    rows = np.ascontiguousarray(vectors, np.float32)
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    todo, near = np.arange(len(rows)), min(len(rows), 4 * STRANGERS.stop)
    while len(todo):
        unsure = []
        for begin in range(0, len(todo), 512):
            part = todo[begin : begin + 512]
            found = _nearest_of_each(index.search(rows[part], near)[1], person, person[part])
            full = np.array([len(row) >= min(STRANGERS.stop, others) or near == len(rows) for row in found])
            unsure.extend(part[~full].tolist())
            ready = [row for row, ok in zip(found, full, strict=True) if ok]
            for photo, strangers in zip(part[full], ready, strict=True):
                ranked = -np.sort(-similarities(rows, np.full(len(strangers), photo), strangers))
                levels[photo] = max(floor, ranked[STRANGERS].mean())
        todo, near = np.array(unsure, np.int64), min(len(rows), 4 * near)
    return levels


def _nearest_of_each(
    nearest: npt.NDArray[np.int64], person: npt.NDArray[np.int64], own: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    """From each row of nearest photos the first of every other person, and a few more than are ranked."""
    result = []
    for row, mine in zip(nearest, own, strict=True):
        first = np.sort(np.unique(person[row], return_index=True)[1])
        result.append(row[first[person[row[first]] != mine]][: STRANGERS.stop + 9])
    return result
