"""Every pair below a distance, exactly, and how similar strangers are to a photo: the only user of FAISS."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import faiss
import numpy as np

from ffhqref.core.arrays import Float64, Int64
from ffhqref.identities.grouping import (
    STRANGERS,
    Labels,
    Vectors,
    distances_of,
    lowest_baseline,
    similarities,
)

MARGIN = 1e-5  # of similarity; see below
TILE = (4096, 2048)  # rows and columns of the matrix screened at once: at most 8.4 million pairs
FEW = 8192  # rows below which the search takes a second or two as they are
SAMPLE = 2048  # rows that say how far all can be shortened
DECISION = 100_000  # what deciding a pair costs, in coordinates of a screened pair
MAX_KEPT = 4_000_000  # pairs held at once, 24 bytes each
PairBlock = tuple[Int64, Int64, Float64]

# Which pairs lie below the distance must not depend on tile size, thread count or machine, but in their last
# bits the float32 products that FAISS takes do. So they only screen: a pair passes where its product is at
# least 1 - distance - MARGIN, and each one that passes is decided in float64 from the stored rows (see
# `similarities`). Nothing is lost as long as a float32 product of two unit rows is off by less than MARGIN.
# Its roundings act like independent errors that add up to about sqrt(D) 2**-24, which is 1.4e-6 for D = 512
# (Higham & Mary 2019); the margin is seven times that.
#
# Many rows are screened by shorter ones. Turned onto the principal axes of all rows, a row x is (p, q): its
# first k coordinates and the rest. By Cauchy and Schwarz
#     x . y = p . p' + q . q' <= p . p' + |q| |q'|,
# so the product of (p, |q|) and (p', |q'|), of k + 1 numbers each, is never below the true one: it may let
# more pairs through to be decided, but it loses none.


def pairs_below(
    vectors: Vectors, distance: float, progress: Callable[[float], object] = lambda done: None
) -> Iterator[PairBlock]:
    """Every pair of rows strictly below `distance` as (left, right, distances), left < right, ordered.

    Stripes of rows against all rows from their first on: half of the matrix. A stripe with more than
    `MAX_KEPT` pairs is split and done again, so that memory does not grow with the number of pairs.
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


def _stripe(rows: Vectors, short: Vectors, begin: int, end: int, distance: float) -> PairBlock | None:
    """The pairs with left in begin..end - 1, or None where they are too many to be held at once."""
    parts: list[PairBlock] = []
    for start in range(begin, len(rows), TILE[1]):
        left, right = _screen(short[begin:end], short[start : start + TILE[1]], 1 - distance - MARGIN)
        left, right = left + begin, right + start
        left, right = left[left < right], right[left < right]
        distances = distances_of(rows, left, right)
        below = distances < distance
        parts.append((left[below], right[below], distances[below]))
        if end - begin > 1 and sum(len(part[0]) for part in parts) > MAX_KEPT:
            return None
    left, right, distances = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((right, left))
    return left[order], right[order], distances[order]


def _bounding(rows: Vectors, similarity: float) -> Vectors:
    """Shorter rows whose products are never below those of `rows`, or `rows` where they would not pay.

    A sample says which k is cheapest: fewer coordinates take less time but let more pairs through.
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


def _shortened(turned: Float64, kept: int) -> Vectors:
    """The first `kept` coordinates and the length of the rest."""
    rest = np.linalg.norm(turned[:, kept:], axis=1, keepdims=True)
    return np.asarray(np.hstack([turned[:, :kept], rest]), np.float32)


def _screen(queries: Vectors, rows: Vectors, similarity: float) -> tuple[Int64, Int64]:
    """Index pairs (query, row) whose float32 product passes `similarity`; no copy of `rows` is made."""
    result = faiss.RangeSearchResult(len(queries))
    pointers, counts = (faiss.swig_ptr(queries), faiss.swig_ptr(rows)), (len(queries), len(rows))
    faiss.range_search_inner_product(*pointers, rows.shape[1], *counts, similarity, result)
    limits = faiss.rev_swig_ptr(result.lims, len(queries) + 1).astype(np.int64)
    found = faiss.rev_swig_ptr(result.labels, int(limits[-1])).copy()
    return np.repeat(np.arange(len(queries)), np.diff(limits)), found


# Embeddings crowd: to a blurred photo, or to a rare kind of face, every stranger is similar, so that one cut
# for all photos would join strangers there or split people elsewhere. A photo's baseline says how similar
# strangers are to it: the mean over the ranks STRANGERS of the other provisional people. Each person counts
# once, by the most similar photo, so that one with many photos does not pass for a crowd; the first ten
# ranks are left out because they may be the same person, not joined yet. FAISS lists a photo's nearest ones,
# best first, so a person's first place in the list is that person's best; a list that names too few people
# is made longer. The similarities are then taken again in float64 and sorted, of nine people more than are
# ranked, so that the last bits of float32 products do not decide who is.


def stranger_baselines(vectors: Vectors, people: Labels, distance: float) -> Float64:
    """How similar strangers are to each photo (n), judged by provisional people (n)."""
    floor = lowest_baseline(distance)
    _, person = np.unique(people, return_inverse=True)
    others = int(person.max())  # people other than a photo's own
    baselines = np.full(len(vectors), floor)
    if others <= STRANGERS.start:
        return baselines
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
                baselines[photo] = max(floor, ranked[STRANGERS].mean())
        todo, near = np.array(unsure, np.int64), min(len(rows), 4 * near)
    return baselines


def _nearest_of_each(nearest: Int64, person: Int64, own: Int64) -> list[Int64]:
    """From each row of nearest photos the first of every other person, and a few more than are ranked."""
    result = []
    for row, mine in zip(nearest, own, strict=True):
        first = np.sort(np.unique(person[row], return_index=True)[1])
        result.append(row[first[person[row[first]] != mine]][: STRANGERS.stop + 9])
    return result
