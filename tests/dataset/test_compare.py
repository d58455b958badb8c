"""ffhqref compare: counts by hand, scikit-learn's adjusted Rand index, people recovered from CSVs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, tables
from ffhqref.core.store import UserError
from ffhqref.dataset.compare import Changed, Lists, adjusted_rand, compare, load_lists, people_of_rows

BAD = "gt_image,ref_image\na,7\n"


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


def published(folder: Path, rows: dict[str, dict[str, list[str]]]) -> Path:
    """A folder with the published CSVs alone."""
    folder.mkdir()
    for split in tables.SPLITS:
        text = lists.reference_csv(sorted(rows.get(split, {}).items()), split != "train")
        (folder / f"{split}_references.csv").write_text(text)
    return folder


def test_people_are_components_of_rows() -> None:
    """a-b-c chain: rows list direct neighbours only, and grouping rows would make two people of them."""
    rows = {"a": ["b"], "b": ["a", "c"], "c": ["b"], "d": ["e", "f"], "e": ["d"]}  # f has no row
    assert people_of_rows(rows) == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "d", "f": "d"}
    assert len({frozenset([target, *found]) for target, found in rows.items()}) == 5


def test_people_of_a_built_dataset_are_recovered_from_its_csvs(built: Path, tmp_path: Path) -> None:
    """Of those that are someone's reference; what the rows join was one person (no row crosses people)."""
    whole = load_lists(built)
    rows = {split: {k: list(v) for k, v in found.items()} for split, found in whole.references.items()}
    alone = load_lists(published(tmp_path / "lists", rows))
    inside = {name for target, found in whole.targets.items() for name in (target, *found)}
    assert set(alone.identity) == inside and alone.people() == len({whole.identity[n] for n in inside})
    result = compare(alone, whole)
    assert result.pair_precision == result.pair_recall == result.adjusted_rand == 1.0
    assert result.same_order == len(whole.targets) == result.counts["targets"][2]


def lists_of(identity: dict[str, str], references: dict[str, list[str]] | None = None, **split: str) -> Lists:
    return Lists(identity, split or dict.fromkeys(identity, "train"), {"train": references or {}})


def test_counts_by_hand() -> None:
    ours = lists_of({"a": "1", "b": "1", "c": "1", "d": "2", "x": "9"}, {"a": ["b", "c"], "b": ["a"]})
    other = lists_of({"a": "p", "b": "p", "c": "q", "d": "q", "y": "8"}, {"a": ["c", "b"], "b": ["c"]})
    found = compare(ours, other)
    assert found.counts["photos"] == (5, 5, 4)
    assert found.counts["people"] == (1, 2, 0)
    assert found.counts["pairs of one person"] == (3, 2, 1)  # a-b alone is in both
    assert found.counts["targets"] == (2, 2, 2) and found.counts["references"] == (3, 3, 2)
    assert (found.pair_precision, found.pair_recall) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert (found.same_references, found.same_order) == (1, 0)
    assert found.changed == (
        Changed("joined", "1", 3, (("p", 2), ("q", 1))),
        Changed("split", "q", 2, (("1", 1), ("2", 1))),
    )
    assert found.same_split == 1.0


def test_the_adjusted_rand_index_is_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for size in (2, 7, 40):
        for _ in range(5):
            one, other = (rng.integers(0, 6, size).astype(str).tolist() for _ in range(2))
            assert adjusted_rand(one, other) == pytest.approx(metrics.adjusted_rand_score(one, other))


def test_the_command_compares_and_writes(built: Path, tmp_path: Path) -> None:
    said = run("compare", built, built, "--out", tmp_path / "same")
    assert "precision 1.0000, recall 1.0000; adjusted Rand index 1.0000" in said
    assert f"Next: cat {tmp_path}/same/people.csv" in said
    assert (tmp_path / "same/people.csv").read_text() == "kind,person,photos,parts,sizes\n"
    whole = load_lists(built)
    target, found = next((t, f) for t, f in whole.targets.items() if len(f) > 1)
    halves = {"train": {target: [found[0]]}}
    said = run("compare", published(tmp_path / "half", halves), built, "--out", tmp_path / "two")
    assert (tmp_path / "two/counts.csv").read_text().startswith("what,ours,other,common\nphotos,2,60,2\n")


def test_the_published_people_are_as_many_as_the_paper_says() -> None:
    """6,073, 300 and 150 people; 18,816, 732 and 857 photos. A third party that grouped rows got others."""
    folder = Path(__file__).parents[3] / "shared" / "FFHQ-Ref"
    if not folder.is_dir():
        pytest.skip("the published lists (FFHQ-Ref of ../shared) are not on this machine")
    whole = load_lists(folder)
    assert [whole.people(split) for split in tables.SPLITS] == [6073, 300, 150]
    assert [len(whole.references[split]) for split in tables.SPLITS] == [18816, 732, 857]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: None, "has no reference_mapping"),
        (lambda folder: published(folder, {"train": {"zz.png": ["yy.png"]}}), "no photograph in common"),
        (lambda folder: (published(folder, {}) / "val_references.csv").write_text(BAD), "a list of names"),
        (lambda folder: (published(folder, {}) / "val_references.csv").write_bytes(b"\xff\xfe"), "not UTF-8"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(built: Path, tmp_path: Path, make: object, sentence: str) -> None:
    make(tmp_path / "other")  # type: ignore[operator]
    said = run("compare", built, tmp_path / "other", "--out", tmp_path / "out", code=1)
    assert sentence in said and said.startswith("Error: ")


@pytest.mark.parametrize("text", ["", "no list"])
def test_a_folder_without_lists(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match="has no reference_mapping"):
        load_lists(tmp_path)
