"""verdicts.csv: what stands after answers, undo and merging; what contradicts; what `cluster` must obey."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core.store import UserError
from ffhqref.dataset import verdicts
from ffhqref.dataset.constraints import constraints
from ffhqref.dataset.verdicts import Verdict, contradictions, merge, standing

NAMES = ["a", "b", "c", "d", "e"]
PIXELS = [f"p{name}" for name in NAMES]
CLOCK = itertools.count()


def said(kind: str, left: str, right: str = "", who: str = "ann", note: str = "") -> Verdict:
    """A verdict, later than any before it."""
    moment = f"2026-01-01T00:00:00.{next(CLOCK):03d}Z"
    return Verdict(kind, left, f"p{left}", right, f"p{right}" if right else "", who, moment, note)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    lines = [
        said("same", 'quote".png', "new\nline, comma.png", note="</script>\u202e"),
        said("note", "a", note="x\ny"),
    ]
    verdicts.append(path, lines[:1])
    before = path.read_bytes()
    verdicts.append(path, lines[1:])
    assert verdicts.read(path) == lines
    assert path.read_bytes().startswith(before), "what stands is never changed"
    assert verdicts.read(tmp_path / "none.csv") == []


def test_a_line_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.csv"
    lines = [said("same", "a", "b"), said("same", "b", "c")]
    path.write_text(verdicts.as_csv(lines)[:-9])
    assert verdicts.read(path) == lines[:1]


@pytest.mark.parametrize(
    "line, reason",
    [
        ("perhaps,a,,b,,x,t,", "'perhaps' is not one of"),
        ("same,a,,b,,x", "6 fields"),
        ("same,a,,a,,x,t,", "needs two photos"),
        ("excluded,,,,,x,t,", "needs two photos"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text(verdicts.as_csv([said("same", "a", "b")]) + line + "\n")
    with pytest.raises(UserError, match=f"verdicts.csv, line 3: .*{reason}"):
        verdicts.read(path)
    path.write_text("left,right\n")
    with pytest.raises(UserError, match="its first line must be kind,left"):
        verdicts.read(path)


def test_the_latest_answer_of_a_person_stands_and_undo_brings_back_the_one_before() -> None:
    first, second = said("same", "a", "b"), said("different", "b", "a")
    undo = said("undone", "a", "b")
    assert standing([first, second]) == [second]
    assert standing([first, second, undo]) == [first]
    assert standing([first, second, undo, said("undone", "a", "b")]) == []
    other = said("same", "a", "b", "bob")
    assert standing([first, other, said("undone", "a", "b", "bob")]) == [first], "nobody undoes another's"
    again = said("different", "a", "b")
    assert standing([first, second, undo, again]) == [again]


def test_undo_takes_back_the_latest_of_any_kind_about_the_same_photos() -> None:
    same, note = said("same", "a", "b"), said("note", "a", "b", note="hm")
    assert standing([same, note, said("undone", "a", "b")]) == [same]


def test_merging_does_not_depend_on_the_order_of_files_and_takes_each_line_once() -> None:
    ann = [said("same", "a", "b"), said("undone", "a", "b"), said("frozen", "c", "d")]
    bob = [said("different", "c", "e", "bob"), said("same", "a", "b", "bob")]
    whole = merge(ann, bob)
    assert whole == merge(bob, ann) == merge(whole, ann, bob)
    assert {v.kind for v in standing(whole)} == {"frozen", "different", "same"}
    assert standing(whole) == standing(bob + ann) == standing(ann[2:] + bob + ann[:2]), "the time decides"


def test_people_against_each_other_are_contradictions_a_change_of_mind_is_not() -> None:
    ann = [said("same", "a", "b"), said("same", "b", "c")]
    assert contradictions([*ann, said("different", "a", "b")]) == []
    bob = said("different", "a", "c", "bob")
    (found,) = contradictions([*ann, bob])
    assert found.against == bob and found.chain == tuple(ann)
    assert "bob said different of a and c" in str(found) and "ann said same of a and b" in str(found)
    with pytest.raises(UserError, match="bob said different of a and c.*ann said same of a and b"):
        constraints([*ann, bob], NAMES, PIXELS)


def test_a_third_look_makes_a_majority() -> None:
    lines = [said("same", "a", "b"), said("different", "b", "a", "bob")]
    assert len(contradictions(lines)) == 1
    for kind in ("same", "different"):
        settled = [*lines, said(kind, "a", "b", "cat")]
        assert contradictions(settled) == []
        found = constraints(settled, NAMES, PIXELS)
        assert (len(found.must), len(found.cannot)) == ((1, 0) if kind == "same" else (0, 1))


def test_a_chain_counts_as_one_more_for_same() -> None:
    chain = [said("same", "a", "b"), said("same", "b", "c"), said("different", "a", "c", "bob")]
    assert len(contradictions(chain)) == 1
    assert contradictions([*chain, said("same", "a", "c", "cat")]) == []
    assert len(contradictions([*chain, said("different", "a", "c", "cat")])) == 2, "now a link must go"
    links = [said("different", "b", "c", who) for who in ("bob", "cat")]
    assert contradictions([*chain, *links]) == []


def test_a_frozen_person_takes_nobody_in() -> None:
    frozen = [said("frozen", "a", "b"), said("frozen", "a", "c")]
    assert contradictions(frozen) == [] == contradictions([*frozen, said("same", "b", "c")])
    assert len(contradictions([*frozen, said("same", "c", "d", "bob")])) == 1
    assert len(contradictions([*frozen, said("different", "b", "c", "bob")])) == 1


def test_constraints_are_indices() -> None:
    lines = [
        said("same", "b", "a"), said("different", "d", "a"), said("frozen", "c", "e"), said("excluded", "d"),
        said("note", "a", note="x"), said("skipped", "a", "e"),
    ]  # fmt: skip
    found = constraints(lines, NAMES, PIXELS)
    assert found.must.tolist() == [[0, 1]] and found.cannot.tolist() == [[0, 3]]
    assert [group.tolist() for group in found.frozen] == [[2, 4]] and found.excluded.tolist() == [3]
    assert found.stale == () and found.must.dtype == np.int64
    none = constraints([], NAMES, PIXELS)
    assert none.must.shape == none.cannot.shape == (0, 2) and none.frozen == ()


def test_a_person_of_one_photo_can_be_frozen() -> None:
    found = constraints([said("frozen", "b")], NAMES, PIXELS)
    assert [group.tolist() for group in found.frozen] == [[1]]


def test_a_frozen_person_outlives_any_of_its_photos() -> None:
    lines = [said("frozen", "a", "b"), said("frozen", "a", "c")]
    found = constraints(lines, ["b", "c", "z"], ["pb", "pc", "pz"])
    assert [group.tolist() for group in found.frozen] == [[0, 1]] and found.stale == tuple(lines)


def test_a_renamed_photo_is_known_by_its_pixels_and_another_picture_of_the_name_is_not_meant() -> None:
    line = said("same", "a", "b")
    moved = constraints([line], ["b", "new", "z"], ["pb", "pa", "pz"])
    assert moved.must.tolist() == [[0, 1]]
    changed = constraints([line], ["a", "b"], ["other", "pb"])
    assert changed.must.tolist() == [] and changed.stale == (line,)
    by_hand = Verdict("same", "a", "", "b", "", "ann", "t")
    assert constraints([by_hand], ["a", "b"], ["other", "pb"]).must.tolist() == [[0, 1]]


def test_undo_without_end_against_a_plain_stack() -> None:
    """Random answers and undos by two people, against lists that are pushed and popped."""
    rng = random.Random(0)
    lines: list[Verdict] = []
    stacks: dict[tuple[str, str, str], list[str]] = {}
    for _ in range(400):
        who, pair = rng.choice(["ann", "bob"]), rng.choice([("a", "b"), ("a", "c")])
        stack = stacks.setdefault((who, *pair), [])
        if rng.random() < 0.45:
            lines.append(said("undone", *pair, who))
            stack[-1:] = []
        else:
            kind = rng.choice(["same", "different"])
            lines.append(said(kind, *pair, who))
            stack.append(kind)
        held = {(v.who, v.left, v.right): v.kind for v in standing(lines)}
        assert held == {key: stack[-1] for key, stack in stacks.items() if stack}
