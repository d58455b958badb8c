"""The draw by property: an order by hash, quotas, who can be drawn, balance."""

from __future__ import annotations

import hashlib
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core.store import UserError
from ffhqref.dataset import drawing, neighbours
from tests.synthetic import recipe


@pytest.mark.parametrize("asked", range(1, 12))
def test_the_quota_that_is_advised_can_be_met(asked: int) -> None:
    """Components of two identities: no odd number can be met, and what the sentence says can."""
    parts = [drawing.Component(f"{n}", (2 * n, 2 * n + 1), 2, True, True) for n in range(4)]
    wanted = recipe(test_identities=asked)
    if asked in (2, 4, 6, 8):
        drawing.draw(parts, wanted)
        return
    with pytest.raises(UserError) as caught:
        drawing.draw(parts, wanted)
    advised = re.search(r"--test-identities (\d+)", str(caught.value))
    assert advised and int(advised[1]) == min(asked - asked % 2, 8)
    drawn = drawing.draw(parts, recipe(test_identities=int(advised[1])))
    assert list(drawn.values()).count("test") == int(advised[1]) / 2


def test_the_draw_depends_on_the_seed_and_on_nothing_else() -> None:
    parts = [drawing.Component(f"{i:03d}.png", (i,), 1, True, True) for i in range(60)]
    chosen = recipe(test_identities=10, val_identities=10)
    drawn = drawing.draw(parts, chosen)
    assert drawing.draw(parts[::-1], chosen) == drawn
    assert drawing.draw(parts, recipe(test_identities=10, val_identities=10, seed=1)) != drawn
    assert sorted(drawn.values()).count("test") == 10
    fewer = drawing.draw(parts, recipe(test_identities=9, val_identities=10))
    tested = {name for name, part in drawn.items() if part == "test"}
    assert {name for name, part in fewer.items() if part == "test"} < tested


def test_the_draw_is_by_the_hash_of_seed_and_component_test_first() -> None:
    """Frozen: the same photographs must be split alike with every later version."""
    parts = [drawing.Component(f"{i:03d}.png", (i,), 1, True, True) for i in range(30)]

    def rank(part: drawing.Component) -> str:
        return hashlib.sha256(f'[5, "{part.name}", "split"]'.encode()).hexdigest()

    order = [part.name for part in sorted(parts, key=rank)]
    drawn = drawing.draw(parts, recipe(seed=5, test_identities=4, val_identities=7))
    assert [drawn[name] for name in order] == ["test"] * 4 + ["val"] * 7 + ["train"] * 19


@pytest.mark.parametrize(("people", "wanted"), [(2, ["train"] * 2), (3, ["test", "train", "val"])])
def test_a_fraction_gives_each_split_one_where_there_are_three(people: int, wanted: list[str]) -> None:
    parts = [drawing.Component(f"{i}", (i,), 1, True, True) for i in range(people)]
    assert sorted(drawing.draw(parts, recipe(val=0.01, test=0.01)).values()) == wanted


def graph(*edges: tuple[int, int], photos: int, no_targets: tuple[int, ...] = ()) -> neighbours.Neighbours:
    """One person's photos and the pairs that are near enough, all at distance 0.2."""
    both = np.array(sorted([*edges, *(edge[::-1] for edge in edges)]), np.int64).reshape(-1, 2)
    names, may = [f"{photo:03d}.png" for photo in range(photos)], np.ones(photos, bool)
    may[list(no_targets)] = False
    person = ["000.png"] * photos
    far = np.full(len(both), 0.2)
    return neighbours.Neighbours(names, person, person, both[:, 0], both[:, 1], far, may, False)


@pytest.mark.parametrize(
    ("photos", "drawn"), [(1, (0, 0)), (2, (1, 0)), (3, (1, 1)), (10, (1, 1)), (11, (1, 0))]
)
def test_who_can_be_drawn_has_from_two_to_nine_references(photos: int, drawn: tuple[int, int]) -> None:
    everyone = graph(*itertools.combinations(range(photos), 2), photos=photos)
    (part,) = drawing.find_components(everyone, recipe())
    assert (part.for_val, part.for_test) == drawn and part.photos == tuple(range(photos))
    (part,) = drawing.find_components(everyone, recipe(test_references=(2, 0)))
    assert part.for_test == (photos >= 3)


def test_every_target_of_a_component_must_have_its_references() -> None:
    chain = [(0, 1), (1, 2), (1, 3), (2, 3)]  # 0 has one reference, the others two or three
    (part,) = drawing.find_components(graph(*chain, photos=4), recipe())
    assert (part.for_val, part.for_test) == (True, False)
    (part,) = drawing.find_components(graph(*chain, photos=4, no_targets=(0,)), recipe())
    assert part.for_test, "who is no target need not have references"
    (part,) = drawing.find_components(graph(*chain, photos=4, no_targets=(0, 1, 2, 3)), recipe())
    assert (part.for_val, part.for_test) == (False, False), "without a target there is nothing to draw"


def test_balance_counts_photos_and_keeps_the_order_inside_a_group() -> None:
    parts = [drawing.Component(f"a{i}", tuple(range(5 * i, 5 * i + 5)), 1, True, True) for i in range(6)]
    parts += [drawing.Component(f"b{i}", (100 + i,), 1, True, True) for i in range(12)]
    strata = {part.name: part.name[0] for part in parts}
    for wanted, groups in ((1, "a"), (2, "ab"), (6, "abbbbb"), (7, "aabbbbb"), (12, "aabbbbbbbbbb")):
        drawn = drawing.draw(parts, recipe(test_identities=wanted), strata)
        assert "".join(sorted(name[0] for name, part in drawn.items() if part == "test")) == groups
    alike = dict.fromkeys(strata, "alike")
    assert drawing.draw(parts, recipe(test_identities=5), alike) == drawing.draw(
        parts, recipe(test_identities=5)
    )


def test_the_label_of_a_component_is_the_commonest_and_of_equals_the_first(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,race\na1.png,B\na2.png,A\na3.png,B\nb1,Z\nb2.png,C\n")
    names = ["a1.png", "a2.png", "a3.png", "b1.png", "b2.png", "c.png"]
    parts = [
        drawing.Component(name, photos, 1, True, True)
        for name, photos in (("a", (0, 1, 2)), ("b", (3, 4)), ("c", (5,)))
    ]
    found = drawing.strata_of(parts, names, labels, ["race"])
    assert found == {"a": "B", "b": "C", "c": "unknown"}


def test_a_component_of_many_people_fits_the_quota_or_is_passed_over() -> None:
    parts = [drawing.Component(f"{i}", (i,), 3, True, True) for i in range(4)]
    parts += [drawing.Component(f"one{i}", (9 + i,), 1, True, True) for i in range(4)]
    drawn = drawing.draw(parts, recipe(test_identities=4))
    taken = [part for part in parts if drawn[part.name] == "test"]
    assert sum(part.identities for part in taken) == 4


def test_ages_fall_into_fairfaces_groups() -> None:
    groups = [drawing._label(str(age)) for age in (0, 2, 3, 9, 10, 19, 20, 29, 30, 69, 70, 99.5)]
    numbers = [int(group.split()[-1]) for group in groups]
    assert numbers == [0, 0, 1, 1, 2, 2, 3, 3, 4, 7, 8, 8]
    assert drawing._label("female") == "female"
