"""Verdicts -> what the grouping of a dataset's photos must obey, and which suggestions they settle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffhqref.core import tables
from ffhqref.core.arrays import Int64
from ffhqref.core.store import UserError
from ffhqref.dataset import verdicts
from ffhqref.dataset.verdicts import Verdict, agreed, contradictions, frozen_people, standing
from ffhqref.identities.grouping import Edges, Labels
from ffhqref.identities.links import NO_PAIRS, Conflict, Link, Links, Settled, settle


@dataclass(frozen=True)
class Constraints:
    """Verdicts for the grouping of n photos: indices into their names.

    `must` and `cannot` are m x 2 pairs, left < right; `frozen` holds the photos of each frozen person;
    `excluded` photos take no part. `stale` verdicts name a photo that is gone or shows something else now.
    `told` says who asked for a pair.
    """

    must: Int64
    cannot: Int64
    frozen: tuple[Int64, ...]
    excluded: Int64
    stale: tuple[Verdict, ...] = field(default=())
    told: Mapping[tuple[str, int, int], Verdict] = field(default_factory=dict)


def constraints(
    lines: Iterable[Verdict],
    names: Sequence[str],
    pixels: Sequence[str],
    numbers: Mapping[Verdict, int] | None = None,
) -> Constraints:
    """What verdicts demand of photos with these names and pixel digests; UserError where they contradict.

    A photo is found by its name where its pixels are the same, else by its pixels. Verdicts about others
    are stale. `numbers` are the verdicts' lines, for the error.
    """
    held = agreed(standing(lines))
    if against := contradictions(held):
        raise _disagreement(against[0].against, against[0].chain, numbers or {})
    place = _Places(names, pixels)
    pairs: dict[str, list[list[int]]] = {"same": [], "different": []}
    excluded: set[int] = set()
    stale = []
    told: dict[tuple[str, int, int], Verdict] = {}
    for verdict in held:
        found = [place.of(name, seen) for name, seen in _sides(verdict)]
        at = sorted({one for one in found if one is not None})
        if verdict.kind == "frozen":  # what is left of a frozen person stays one
            told |= {("frozen", photo, photo): verdict for photo in at}
        if None in found:
            stale.append(verdict)
        elif verdict.kind in pairs and len(at) == 2:
            pairs[verdict.kind].append(at)
            told[verdict.kind, at[0], at[1]] = verdict
        elif verdict.kind == "excluded":
            excluded.update(at)
    frozen = [line for line in held if line.kind == "frozen"]
    seen_as = {name: seen for line in frozen for name, seen in _sides(line)}
    groups = [[place.of(name, seen_as[name]) for name in person] for person in frozen_people(frozen)]
    alive = [sorted({at for at in group if at is not None}) for group in groups]
    return Constraints(
        must=_pairs(pairs["same"]),
        cannot=_pairs(pairs["different"]),
        frozen=tuple(np.array(group, np.int64) for group in alive if group),
        excluded=np.array(sorted(excluded), np.int64),
        stale=tuple(stale),
        told=told,
    )


def _disagreement(against: object, chain: Sequence[object], numbers: Mapping[Verdict, int]) -> UserError:
    """One sentence that names a verdict and those (or what else) it cannot stand beside."""

    def named(one: object) -> str:
        line = numbers.get(one) if isinstance(one, Verdict) else None
        return f"line {line}: {one}" if line else str(one)

    return UserError(
        f"Two verdicts contradict each other ({named(against)}, but {'; '.join(map(named, chain))}): answer "
        "again with `ffhqref review --only contradictions`."
    )


def _pairs(found: Sequence[Sequence[int]]) -> Int64:
    """m x 2, each pair once, in order."""
    return np.array(sorted({tuple(pair) for pair in found}), np.int64).reshape(-1, 2)


def _sides(verdict: Verdict) -> list[tuple[str, str]]:
    """(name, pixels) of the photos of a verdict."""
    sides = [(verdict.left, verdict.left_pixels), (verdict.right, verdict.right_pixels)]
    return [side for side in sides if side[0]]


class _Places:
    """Where photos are now: by name and pixels, else by pixels alone (a renamed file)."""

    def __init__(self, names: Sequence[str], pixels: Sequence[str]) -> None:
        self.by_name = {name: at for at, name in enumerate(names)}
        self.pixels = pixels
        self.by_pixels: dict[str, int] = {}
        for at, one in enumerate(pixels):
            self.by_pixels.setdefault(one, at)

    def of(self, name: str, seen: str) -> int | None:
        at = self.by_name.get(name)
        if at is not None and seen in ("", self.pixels[at]):  # a line by hand may lack the digest
            return at
        return self.by_pixels.get(seen) if seen else None


@dataclass(frozen=True)
class Obeyed:
    """The photos that take part in a grouping, and what verdicts demand of them.

    `links` and `settled` are indices into `embeddings`; of the pairs that must not be one, `different` are
    those of verdicts. `excluded` names the photos that take no part, `stale` counts the verdicts that hold
    for no photo, `obeyed` those of each kind that do.
    """

    embeddings: tables.Embeddings
    links: Links
    settled: Settled
    excluded: list[str]
    stale: int
    obeyed: dict[str, int]

    def torn(self, people: Labels) -> Labels:
        """The labels of people who are not what is known: a pair in them is two, or somebody is finished."""
        apart = people[self.links.cannot]
        within = apart[apart[:, 0] == apart[:, 1], 0]
        return np.unique(np.concatenate([within, people[self.settled.closed]]))

    def unanswered(self, pairs: Edges, people: Labels) -> npt.NDArray[np.bool_]:
        """Of which pairs (k x 2) verdicts leave open if the photos, or their people, are one person."""
        start, closed = self.settled.start, self.settled.closed
        one = people[pairs[:, 0]] == people[pairs[:, 1]]
        joined = start[pairs[:, 0]] == start[pairs[:, 1]]
        apart = set(map(tuple, np.sort(people[self.links.cannot], axis=1).tolist()))
        rejected = np.array([tuple(pair) in apart for pair in np.sort(people[pairs], axis=1).tolist()], bool)
        return np.asarray(~np.where(one, joined, rejected | closed[pairs].any(axis=1)), bool)


def obey(out: Path, embeddings: tables.Embeddings, apart: Edges = NO_PAIRS) -> Obeyed:
    """What OUT/verdicts.csv demands of the photos of a dataset; `apart` are pairs that are two in any case.

    UserError, one sentence with the lines, where verdicts contradict each other or `apart`.
    """
    names = embeddings.names
    numbered = verdicts.numbered(verdicts.path_of(out))
    numbers = {verdict: line for line, verdict in numbered}
    found = constraints([verdict for _, verdict in numbered], names, embeddings.pixels, numbers)
    stays = np.ones(len(names), bool)
    stays[found.excluded] = False
    if not stays.any():
        raise UserError(f"{verdicts.path_of(out)} excludes every photo: nothing is left to group.")
    kept = np.flatnonzero(stays)
    frozen = [
        np.stack([np.full_like(group, group[0]), group], axis=1) for group in _alive(found.frozen, stays)
    ]
    links = Links(
        must=_moved(found.must, stays),
        cannot=np.concatenate([_moved(found.cannot, stays), _moved(apart, stays)]),
        frozen=_moved(np.concatenate([np.empty((0, 2), np.int64), *frozen]), stays),
    )
    try:
        settled = settle(len(kept), links)
    except Conflict as conflict:
        told = [_told(link, kept, found, names) for link in (conflict.link, *conflict.others)]
        raise _disagreement(told[0], list(dict.fromkeys(told[1:])), numbers) from None
    held = {
        "same": len(found.must), "different": len(found.cannot), "frozen": len(found.frozen),
        "excluded": len(found.excluded),
    }  # fmt: skip
    counts = {kind: count for kind, count in held.items() if count}
    gone = [names[at] for at in found.excluded.tolist()]
    return Obeyed(embeddings.at(kept), links, settled, gone, len(found.stale), counts)


def _alive(groups: Iterable[Int64], stays: npt.NDArray[np.bool_]) -> list[Int64]:
    """Frozen people without the photos that were excluded."""
    return [group[stays[group]] for group in groups if stays[group].any()]


def _moved(pairs: npt.NDArray[np.integer], stays: npt.NDArray[np.bool_]) -> Edges:
    """Pairs of photos that stay, as indices into those."""
    place = np.cumsum(stays) - 1
    return np.asarray(place[pairs[stays[pairs].all(axis=1)]], np.int32)


def _told(link: Link, kept: Int64, found: Constraints, names: Sequence[str]) -> object:
    """The verdict behind a link, or in words what it is if there is none."""
    left, right = sorted((int(kept[link.left]), int(kept[link.right])))
    if link.kind == "frozen":
        return found.told["frozen", right, right]
    if verdict := found.told.get(("same" if link.kind == "must" else "different", left, right)):
        return verdict
    return f"{names[left]} and {names[right]} are two faces of one photograph"
