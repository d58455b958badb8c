"""What is compared with what: wrong people's references, people of lists, the judge, from Python."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ffhqref
from ffhqref.cli import app
from ffhqref.core import images, lists, tables
from ffhqref.core.store import UserError
from ffhqref.demo import EMBEDDER
from ffhqref.evaluate import cases as collecting
from ffhqref.evaluate.cases import Method, of_dataset, of_folders, parse_method
from ffhqref.evaluate.run import EvaluateOptions, evaluate
from ffhqref.evaluate.views import cosine, open_recogniser
from ffhqref.faces.geometry import align
from ffhqref.restore import jobs
from ffhqref.restore.jobs import wrong_references
from tests.faces.stand_in import write_embedder
from tests.photographs import Known

ROWS = {"a1": ["a2", "a3"], "a2": ["a1"], "b1": ["b2"], "c1": ["c2", "c3"]}
PERSON = {name: name[0] for name in ("a1", "a2", "b1", "c1")}


def test_wrong_references_are_the_next_person_s() -> None:
    wrong = wrong_references(ROWS, PERSON)
    assert wrong == {"a1": ("b2",), "a2": ("b2",), "b1": ("c2", "c3"), "c1": ("a2", "a3")}
    assert wrong_references(dict(reversed(ROWS.items())), PERSON) == wrong
    assert wrong_references({"a1": ["a2"]}, PERSON) == {}


@pytest.fixture
def dataset(built: Path, known: list[Known], tmp_path: Path) -> Path:
    """A copy with three people in test and the targets, shrunk, as their low-quality pictures."""
    out = tmp_path / "mine"
    shutil.copytree(built, out)
    for words in (["split", "--redraw", "--test-identities", "3"], ["references"]):
        assert CliRunner().invoke(app, [words[0], str(out), *words[1:]]).exit_code == 0
    for target in lists.read_references(out / "reference_mapping/test_references.csv"):
        small = images.resize(images.read(known[0].path.parent / target), 64, 64)
        images.write(out / "test_images/severe_degrad" / images.png_name(target), small)
    return out


def test_restore_and_evaluate_agree_on_who_is_wrong(dataset: Path, known: list[Known]) -> None:
    photos = known[0].path.parent
    made = jobs.of_dataset(dataset, "severe", photos, split="test", most=5, of="wrong").jobs
    found = of_dataset(dataset, level="severe")
    assert {job.name: tuple(path.name for path in job.references) for job in made} == {
        case.file: found.wrong[case.image] for case in found.cases
    }
    who = {one.path.name: one.person for one in known}
    assert all(who[case.image] != who[name] for case in found.cases for name in found.wrong[case.image])


def test_wrong_references_need_a_dataset(tmp_path: Path) -> None:
    words = ["restore", "--checkpoint", "demo", "--lq", str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--references-of", "wrong"])
    assert done.exit_code == 1 and "needs a built dataset" in done.output


def test_people_of_lists_alone(dataset: Path) -> None:
    """Without the identities' table the rows say who is who."""
    whole = of_dataset(dataset, level="severe").person
    tables.path_of(dataset, "identities").unlink()
    alone = of_dataset(dataset, level="severe").person
    assert [alone[a] == alone[b] for a in alone for b in alone] == [
        whole[a] == whole[b] for a in whole for b in whole
    ]


def test_the_judge_is_another_network(dataset: Path, known: list[Known], tmp_path: Path) -> None:
    judge = write_embedder(tmp_path / "judge.onnx")
    lq = dataset / "test_images/severe_degrad"
    options = EvaluateOptions(metrics=("ids",), embedder=EMBEDDER, judge=judge, device="cpu")
    found = evaluate(
        of_dataset(dataset, level="severe"), [Method("a", lq)], tmp_path / "out", options, dataset
    )
    case = known[0]
    target = next(one for one in known if one.path.name in found.person)
    network = open_recogniser(EMBEDDER, judge).judge
    assert network is not None
    pictures = [images.read(target.path), images.read(lq / target.path.name)]
    from ffhqref.degrade.stage import resize_square

    scale = 512 / pictures[0].shape[1]
    one, other = (
        network.embed(align(resize_square(p, 512), target.landmarks * scale)[None])[0] for p in pictures
    )
    assert found.values["a"]["ids_judge"][target.path.name] == pytest.approx(cosine(one, other), abs=2e-3)
    assert found.values["a"]["ids_judge"] != found.values["a"]["ids_aligned"] and case is not None
    with pytest.raises(UserError, match="is the embedder itself"):
        open_recogniser(EMBEDDER, EMBEDDER)


def test_from_python(dataset: Path) -> None:
    lq = dataset / "test_images/severe_degrad"
    summary = ffhqref.evaluate_dataset(dataset, {"same": lq}, level="severe")
    assert summary.differences["same", collecting.LOW_QUALITY]["ids"].mean == 0
    assert (dataset / "scores/severe/table.md").is_file()
    same = ffhqref.compare_datasets(dataset, dataset)
    assert same.adjusted_rand == 1.0


def test_methods_have_names_of_their_own(tmp_path: Path) -> None:
    assert parse_method(f"x={tmp_path}") == Method("x", tmp_path)
    assert parse_method(str(tmp_path)) == Method(tmp_path.name, tmp_path)
    for text in (f"={tmp_path}", f"{collecting.LOW_QUALITY}={tmp_path}", f"target={tmp_path}", "a=nowhere"):
        with pytest.raises(UserError, match="--restored"):
            parse_method(text)


def test_pictures_of_any_suffix_and_folder_are_found(tmp_path: Path) -> None:
    grey = np.full((32, 32, 3), 99, np.uint8)
    for name in ("clean/sub/a.png", "results/sub/a.jpg"):
        images.write(tmp_path / name, grey)
    cases = of_folders(targets=tmp_path / "clean")
    options = EvaluateOptions(metrics=("psnr",), size=32)
    found = evaluate(cases, [Method("m", tmp_path / "results")], tmp_path / "out", options)
    assert list(found.values["m"]["psnr"]) == ["sub/a.png"]
