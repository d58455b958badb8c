"""ffhqref audit: planted leaks are found by name, by pixels and by face, and nothing else is."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images, lists, tables
from tests.photographs import Known


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["audit", *(str(word) for word in words)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture
def dataset(built: Path, tmp_path: Path) -> Path:
    """A copy whose test split holds several people, one level made."""
    out = tmp_path / "mine"
    shutil.copytree(built, out)
    for words in (["split", "--test-identities", "3", "--redraw"], ["references"]):
        assert CliRunner().invoke(app, [words[0], str(out), *words[1:]]).exit_code == 0
    for target in lists.read_references(out / "reference_mapping/test_references.csv"):
        place = out / "test_images/severe_degrad" / images.png_name(target)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    return out


def people_in_test(dataset: Path) -> dict[str, str]:
    table = tables.read(tables.path_of(dataset, "splits"), tables.SPLIT_TABLE).to_pylist()
    return {row["image"]: row["identity"] for row in table if row["split"] == "test"}


def found(path: Path) -> set[tuple[str, str, str]]:
    with path.open(newline="") as file:
        return {(row["image"], row["found_by"], row["trained_on"]) for row in csv.DictReader(file)}


def test_a_list_is_searched_by_name(dataset: Path, tmp_path: Path) -> None:
    person = people_in_test(dataset)
    name = sorted(person)[0]
    trained = tmp_path / "train.txt"
    trained.write_text(f"ffhq/{Path(name).stem}.jpg\nzz.png\n")
    said = run(dataset, "--trained-on", trained)
    assert found(dataset / "audit/leaks.csv") == {(name, "name", f"ffhq/{Path(name).stem}.jpg")}
    assert "| any | 1 of 3 |" in said and "1 of 3 test people (33.3%)" in said
    assert "| any, severe | 1 of 3 |" in said
    trained.write_text("zz.png\n")
    assert "None of the 3 test people was found" in run(dataset, "--trained-on", trained)


def test_a_folder_is_searched_by_pixels_and_by_face(
    dataset: Path, tmp_path: Path, known: list[Known]
) -> None:
    """One photo copied under another name; another person in a photo that the dataset does not hold."""
    person, folder = people_in_test(dataset), known[0].path.parent
    people = sorted(set(person.values()))
    copied = min(name for name, who in person.items() if who == people[0])
    other = min(name for name, who in person.items() if who == people[1])
    trained = tmp_path / "train"
    images.write(trained / "one.png", images.read(folder / copied))
    photo = images.read(folder / other)
    images.write(trained / "two.png", (photo * 0.9).astype(photo.dtype))
    said = run(dataset, "--trained-on", trained)
    leaks = found(dataset / "audit/leaks.csv")
    assert {leak for leak in leaks if leak[1] == "pixels"} == {(copied, "pixels", "one.png")}
    by_face = {person[image] for image, way, _ in leaks if way == "face"}
    assert by_face == {people[0], people[1]} and (other, "face", "two.png") in leaks
    assert "| face | 2 |" in said and "| pixels | 1 |" in said
    assert found(dataset / "audit/leaks.csv") == leaks and "2 of 3" in run(dataset, "--trained-on", trained)
    assert "None of the 3" in run(dataset, "--trained-on", trained, "--names")


def test_a_dataset_is_searched_by_its_embeddings(dataset: Path, built: Path) -> None:
    said = run(dataset, "--trained-on", built)
    assert "| any | 3 of 3 |" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{out}", "--trained-on", "{tmp}/nothing.txt"], "Cannot read"),
        (["{out}", "--trained-on", "{tmp}/empty.txt"], "names no image"),
        (["{out}", "--trained-on", "{tmp}/bad.csv"], "no column image"),
        (["{tmp}", "--trained-on", "{tmp}/empty.txt"], "run the stage that writes it"),
        (["{out}", "--trained-on", "{tmp}"], "holds no PNG"),
    ],
)
def test_bad_input_is_one_sentence(built: Path, tmp_path: Path, words: list[str], sentence: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    given = [word.format(out=built, tmp=tmp_path) for word in words]
    said = run(*given, "--out", tmp_path / "leaks.csv", code=1)
    assert sentence in said and said.startswith("Error: ")
