"""A review: what is asked, what each answer writes, that undo has no end, that the file alone is enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.store import UserError
from ffhqref.dataset import verdicts
from ffhqref.dataset.constraints import constraints
from ffhqref.dataset.verdicts import Verdict
from ffhqref.report import facts
from ffhqref.report.answers import key_of
from ffhqref.report.facts import Facts
from ffhqref.report.session import ReviewOptions, Session, add_files, questions
from tests.report.making import make_dataset

ANN = ReviewOptions(who="ann")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    return facts.load(make_dataset(tmp_path_factory.mktemp("session")))


@pytest.fixture
def session(known: Facts, tmp_path: Path) -> Session:
    return Session(known, ANN, tmp_path / "verdicts.csv")


def first(session: Session) -> str:
    return next(iter(session.asked))


def written(session: Session) -> list[tuple[str, str, str]]:
    return [(v.kind, v.left, v.right) for v in verdicts.read(session.path)]


def test_same_and_skip_name_the_pair_and_are_seen(session: Session) -> None:
    key = first(session)
    doubt, before = session.asked[key], session.progress()
    assert before.seen == 0 and before.expected == pytest.approx(sum(d.gain for d in session.asked.values()))
    session.answer("skipped", key, note="blurred\n\u202eface")
    assert session.answered() == {key: "skipped"} and session.progress().expected == before.expected
    session.answer("same", key)
    assert session.answered() == {key: "same"}
    assert session.progress().expected == pytest.approx(before.expected - doubt.gain)
    line = verdicts.read(session.path)[0]
    assert line.note == "blurred  face" and line.left_pixels == session.known.faces.pixels[doubt.left]
    assert str(session.progress()).startswith(f"1 of {before.total} seen; expected wrong references left")


def test_different_parts_the_sides(session: Session) -> None:
    key = first(session)
    session.answer("different", key)
    found = constraints(verdicts.read(session.path), session.known.faces.names, session.known.faces.pixels)
    doubt = session.asked[key]
    pairs = {tuple(sorted(pair)) for pair in found.cannot.tolist()}
    assert tuple(sorted((doubt.left, doubt.right))) in pairs
    assert all((a in doubt.left_side) != (b in doubt.left_side) for a, b in pairs)
    assert len(pairs) == len(doubt.left_side) + len(doubt.right_side) - 1


def test_split_merge_freeze_exclude_and_note(session: Session) -> None:
    key = first(session)
    session.answer("split", key, [4, 5])  # of the eight photos 0 to 7
    assert written(session)[0] == ("same", "004.png", "005.png")
    assert {line[1:] for line in written(session)[1:]} == {
        ("004.png", f"{n:03d}.png") for n in (0, 1, 2, 3, 6, 7)
    }
    session.undo()
    session.answer("merge", key, [8, 12])
    left = session.known.faces.names[session.asked[key].left]
    assert written(session)[-2:] == [("same", left, "008.png"), ("same", left, "012.png")]
    session.answer("freeze", key)
    assert written(session)[-7:] == [("frozen", "000.png", f"{n:03d}.png") for n in range(1, 8)]
    assert session.answered()[key] == "frozen"
    session.answer("exclude", key, [7])
    session.answer("note", key, note="twins?")
    assert written(session)[-2] == ("excluded", "007.png", "") and session.excluded() == {"007.png"}
    assert [v.note for v in session.notes(session.asked[key])] == ["twins?"]


@pytest.mark.parametrize(
    "kind, photos, said",
    [
        ("split", [], "Select the photos"),
        ("split", [0, 8], "of one person"),
        ("split", list(range(8)), "not all"),
        ("exclude", [], "Select the photos"),
        ("exclude", [99], "reload the page"),
        ("note", [], "Write the note"),
        ("perhaps", [], "is not an answer"),
    ],
)
def test_an_answer_that_makes_no_sense_writes_nothing(
    session: Session, kind: str, photos: list[int], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        session.answer(kind, first(session), photos)
    assert not session.path.exists()


def test_undo_and_redo_without_end_and_over_a_restart(session: Session, known: Facts) -> None:
    key = first(session)
    for kind in ("same", "different", "skipped"):
        session.answer(kind, key)
    for expected in ("different", "same", None):
        session.undo()
        assert session.answered().get(key) == expected
    with pytest.raises(UserError, match="nothing to undo"):
        session.undo()
    again = Session(known, ANN, session.path)  # after a kill
    for expected in ("same", "different", "skipped"):
        again.redo()
        assert again.answered()[key] == expected
    with pytest.raises(UserError, match="nothing to redo"):
        again.redo()
    again.undo()
    again.answer("same", key)  # something else ends the redoing
    with pytest.raises(UserError, match="nothing to redo"):
        again.redo()
    assert len(written(again)) == len(verdicts.merge(verdicts.read(again.path))), (
        "no line is another's double"
    )


def test_a_rejected_suggestion_does_not_come_back(session: Session) -> None:
    key = first(session)
    near = session.near(session.asked[key])
    assert near and len({session.known.identity[at] for at in near}) == len(near)
    names, pixels = session.known.faces.names, session.known.faces.pixels
    left = session.asked[key].left
    line = Verdict("different", names[left], pixels[left], names[near[0]], pixels[near[0]], "bob", "2026")
    verdicts.append(session.path, [line])
    session.refresh()
    assert session.known.identity[near[0]] not in {
        session.known.identity[a] for a in session.near(session.asked[key])
    }


def test_what_was_rejected_does_not_come_back_by_another_pair(known: Facts, tmp_path: Path) -> None:
    """After a rebuild, two people's nearest pair may be another than the one that was answered."""
    parted = replace(
        known, identity=["one" if i < 4 else "two" if i < 8 else n for i, n in enumerate(known.identity)]
    )
    line = {"identity": "one", "other": "two", "left": "003.png", "right": "004.png"}
    parted = replace(parted, suspects=[{**line, "kind": "split", "doubt": 0.5}])
    session = Session(parted, ANN, tmp_path / "verdicts.csv")
    (key,) = (key for key, doubt in session.asked.items() if not doubt.together and doubt.identity == "one")
    names, pixels = known.faces.names, known.faces.pixels
    for kind in ("different", "same"):
        verdicts.append(session.path, [Verdict(kind, names[0], pixels[0], names[6], pixels[6], "bob", kind)])
        session.refresh()
        assert session.answered()[key] == kind
    session.answer("different", key)
    assert session.answered()[key] == "different", "what was said of the pair itself comes first"


def test_two_people_divide_the_list(known: Facts) -> None:
    whole = {key_of(known, d) for d in questions(known, replace(ANN, only="train"), [])}
    parts = [
        {key_of(known, d) for d in questions(known, replace(ANN, only="train", part=(i, 2)), [])}
        for i in (1, 2)
    ]
    assert parts[0] | parts[1] == whole and not parts[0] & parts[1] and all(parts)


def test_only_test_asks_about_each_of_its_people(known: Facts) -> None:
    asked = questions(known, replace(ANN, only="test"), [])
    people = {known.identity[at] for at, split in enumerate(known.split) if split == "test"}
    assert {d.identity for d in asked} == {p for p in people if len(known.people[p]) > 1} and asked


def test_contradictions_are_listed_for_a_third_look(known: Facts, session: Session, tmp_path: Path) -> None:
    key = first(session)
    session.answer("same", key)
    bob = Session(known, replace(ANN, who="bob"), tmp_path / "bob.csv")
    bob.answer("different", key)
    added, against = add_files(session.path, [bob.path])
    assert added == len(verdicts.read(bob.path)) and len(against) == 1
    assert add_files(session.path, [bob.path])[0] == 0
    third = Session(known, ReviewOptions("cat", only="contradictions"), session.path)
    assert list(third.asked) == [key] and third.progress().seen == 0
    third.answer("different", key)
    assert third.progress().seen == 1 and verdicts.contradictions(third.lines) == []


def test_merging_by_the_command(tmp_path: Path, known: Facts) -> None:
    said = Verdict("same", "a.png", "", "b.png", "", "bob", "2026-01-01T00:00:00.000Z")
    verdicts.append(tmp_path / "bob.csv", [said])
    verdicts.append(tmp_path / "cat.csv", [replace(said, kind="different", who="cat")])
    words = [
        "review",
        str(tmp_path),
        "--merge",
        str(tmp_path / "bob.csv"),
        "--merge",
        str(tmp_path / "cat.csv"),
    ]
    done = CliRunner().invoke(app, words)
    assert (
        done.exit_code == 0 and "Added 2 verdicts" in done.output and "Contradiction: cat said" in done.output
    )
    assert f"Next: ffhqref review {tmp_path} --only contradictions" in done.output
    missing = CliRunner().invoke(app, ["review", str(tmp_path), "--merge", str(tmp_path / "none.csv")])
    assert missing.exit_code == 1 and "none.csv" in missing.output
    part = CliRunner().invoke(app, ["review", str(known.out), "--part", "3/2"])
    assert part.exit_code == 1 and "--part 3/2" in part.output
