"""evaluate --groups: agreement by hand and against the project's own, wrong references, crossing people."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists
from ffhqref.evaluate import groups
from ffhqref.evaluate.groups import judge
from tests.photographs import Known


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def write(path: Path, rows: dict[str, str]) -> Path:
    path.write_text("image,identity\n" + "".join(f"{name},{who}\n" for name, who in rows.items()))
    return path


def test_worked_by_hand(tmp_path: Path) -> None:
    """a a b | b c c c: groups 1 = {a a b}, 2 = {b}, 3 = {c c c}."""
    known = write(tmp_path / "known.csv", dict(zip("123456789"[:7], "aabbccc", strict=True)))
    found = judge(write(tmp_path / "found.csv", dict(zip("1234567", "1112333", strict=True))), known)
    values = {name: share.value for name, share in found.shares.items()}
    assert values["pairwise precision"] == pytest.approx(4 / 6)  # a-a and three c of six pairs together
    assert values["pairwise recall"] == pytest.approx(4 / 5)
    assert values["BCubed precision"] == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 3) / 7)
    assert values["BCubed recall"] == pytest.approx((2 + 0.5 + 0.5 + 3) / 7)
    assert (found.photos, found.people) == (7, 3)
    for share in found.shares.values():
        assert share.low <= share.value <= share.high
    right, together, true, precision, recall, photos = groups._sums(list("1112333"), list("aabbccc"))
    assert right.sum() / together.sum() == pytest.approx(4 / 6) and right.sum() / true.sum() == pytest.approx(
        4 / 5
    )
    assert precision.sum() / photos.sum() == pytest.approx(values["BCubed precision"])
    assert recall.sum() / photos.sum() == pytest.approx(values["BCubed recall"])
    perfect = judge(known, known)
    assert {(s.value, s.low, s.high) for s in perfect.shares.values()} == {(1.0, 1.0, 1.0)}


def test_wrong_references_and_crossing_people(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    folder.mkdir()
    rows = {"train": [("1.png", ["2.png", "3.png"])], "val": [("4.png", ["5.png"])], "test": []}
    for split, found in rows.items():
        (folder / f"{split}_references.csv").write_text(lists.reference_csv(found, split != "train"))
    known = {"1.png": "a", "2.png": "a", "3.png": "b", "4.png": "a", "5.png": "a"}
    judged = judge(folder, write(tmp_path / "known.csv", known))
    assert (judged.wrong_references, judged.references, judged.crossing) == (1, 3, ("a",))


def test_the_command_judges_a_dataset(built: Path, known: list[Known], tmp_path: Path) -> None:
    labels = write(tmp_path / "people.csv", {one.path.name: one.person for one in known})
    said = run("--groups", built, "--labels", labels)
    assert "60 photos of 12 known people" in said and "People in two splits: 0." in said
    assert "Wrong references: 0 of" in said and "BCubed F             1.0000" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--groups", "{built}"], "needs --labels"),
        (["--groups", "{built}", "--labels", "{tmp}/other.csv"], "names no photograph"),
        (["--groups", "{tmp}/bad.csv", "--labels", "{tmp}/other.csv"], "no column image"),
        (["--groups", "{tmp}", "--labels", "{tmp}/other.csv"], "has no reference_mapping"),
    ],
)
def test_bad_input_is_one_sentence(built: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    write(tmp_path / "other.csv", {"zz.png": "a"})
    (tmp_path / "bad.csv").write_text("x\n1\n")
    said = run(*(word.format(built=built, tmp=tmp_path) for word in words), code=1)
    assert sentence in said and said.startswith("Error: ")
