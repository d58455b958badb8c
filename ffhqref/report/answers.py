"""Verdicts and doubts -> which questions are answered, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ffhqref.core.store import digest
from ffhqref.dataset.verdicts import Verdict, agreed, standing
from ffhqref.report.doubts import Doubt
from ffhqref.report.facts import Facts


def key_of(known: Facts, doubt: Doubt) -> str:
    """A name for a doubt that stays the same as long as its two photos do."""
    left, right = sorted((known.faces.names[doubt.left], known.faces.names[doubt.right]))
    return digest(f"{left}\0{right}".encode())[:16]


def unanswered(known: Facts, doubts: Iterable[Doubt]) -> list[Doubt]:
    """The doubts that no verdict has answered, in their order; what was skipped is open."""
    asked = {key_of(known, doubt): doubt for doubt in doubts}
    found = of(known, asked, agreed(standing(known.verdicts)))
    return [doubt for key, doubt in asked.items() if found.get(key, "skipped") == "skipped"]


def of(known: Facts, asked: Mapping[str, Doubt], held: Sequence[Verdict]) -> dict[str, str]:
    """Question -> what settles it: same, different, skipped, frozen, excluded; open ones are left out."""
    return _of_sides(known, asked, held) | of_pairs(known, asked, held)


def of_pairs(known: Facts, asked: Mapping[str, Doubt], held: Sequence[Verdict]) -> dict[str, str]:
    """`of`, by verdicts on the very photos of a question alone."""
    pairs = {v.photos: v.kind for v in held if v.kind in ("skipped", "same", "different")}
    pairs |= {v.photos: v.kind for v in held if v.kind in ("same", "different")}
    frozen = {photo for v in held if v.kind == "frozen" for photo in v.photos}
    excluded = {photo for v in held if v.kind == "excluded" for photo in v.photos}
    found: dict[str, str] = {}
    for key, doubt in asked.items():
        photos = frozenset({known.faces.names[doubt.left], known.faces.names[doubt.right]})
        if photos & excluded:
            found[key] = "excluded"
        elif kind := pairs.get(photos):
            found[key] = kind
        elif doubt.together and photos <= frozen:
            found[key] = "frozen"
    return found


def _of_sides(known: Facts, asked: Mapping[str, Doubt], held: Sequence[Verdict]) -> dict[str, str]:
    """Questions that a verdict on other photos of the same two sides answers.

    After a rebuild two people's nearest pair may be another one: what was rejected must not come back.
    """
    index, identity = known.faces.index, known.identity
    at = {v: [index[name] for name in v.photos if name in index] for v in held}
    same = [set(at[v]) for v in held if v.kind == "same" and len(at[v]) == 2]
    apart = {frozenset(identity[i] for i in at[v]) for v in held if v.kind == "different"}
    found: dict[str, str] = {}
    for key, doubt in asked.items():
        if not doubt.together and frozenset((doubt.identity, doubt.other)) in apart:
            found[key] = "different"
        left, right = set(doubt.left_side), set(doubt.right_side)
        if any(pair & left and pair & right for pair in same):
            found[key] = "same"
    return found
