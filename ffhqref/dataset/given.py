"""People who are given by a list, not found: read, corrected by verdicts, and held against the grouping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ffhqref.core import lists, tables
from ffhqref.core.store import JsonObject, UserError
from ffhqref.dataset.constraints import Obeyed
from ffhqref.identities.grouping import Labels, agreement, components, distances_of
from ffhqref.identities.linkage import single_linkage


def known_people(path: Path) -> dict[str, str]:
    """A CSV of image and identity."""
    frame = lists.read_csv(path, [tables.IMAGE, tables.IDENTITY])
    people = dict(zip(frame[tables.IMAGE], frame[tables.IDENTITY], strict=True))
    if len(people) != len(frame):
        twice = frame[tables.IMAGE][frame[tables.IMAGE].duplicated()].iloc[0]
        raise UserError(f"{path}: {twice} stands twice; give each image one identity.")
    return people


def named(known: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Each photo's known identity; one that is not in the list has an identity of its own, its name."""
    if not any(name in known for name in names):
        raise UserError("None of the photographs is in --identities: its image column must hold their names.")
    taken = set(known.values())
    return [known.get(name) or (f"photo:{name}" if name in taken else name) for name in names]


def corrected(people: Labels, told: Obeyed) -> Labels:
    """Given people after verdicts: joined, and parted by the nearest photos."""
    whole = components(len(people), np.concatenate([told.links.must, told.links.frozen]), people)
    torn = told.torn(whole)
    photos = [np.flatnonzero(whole == one) for one in torn]
    pairs = [np.stack([part[side] for side in np.triu_indices(len(part), 1)], axis=1) for part in photos]
    if not pairs:
        return whole
    edges = np.concatenate(pairs).astype(np.int32)
    edges = edges[people[edges[:, 0]] == people[edges[:, 1]]]
    distances = distances_of(told.embeddings.vectors, edges[:, 0], edges[:, 1])
    return np.where(np.isin(whole, torn), single_linkage(edges, distances, told.settled), whole)


def names_of(people: Labels, given: Sequence[str], names: Sequence[str]) -> list[str]:
    """Each photo's person by name: the commonest given one, which of several people the largest keeps.

    The others are called by their first photo.
    """
    found: dict[int, Counter[str]] = {}
    for label, name in zip(people.tolist(), given, strict=True):
        found.setdefault(label, Counter())[name] += 1
    called: dict[int, str] = {}
    taken: set[str] = set()
    everyone = set(given)
    for label in sorted(found, key=lambda label: (-found[label].total(), label)):
        name = min(found[label], key=lambda name: (-found[label][name], name))
        if name in taken:
            name = f"photo:{names[label]}" if names[label] in everyone else names[label]
        taken.add(name)
        called[label] = name
    return [called[label] for label in people.tolist()]


def agreement_with(known: Mapping[str, str], names: Sequence[str], people: Labels, pairs: Path) -> JsonObject:
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
