"""`cluster` after a review: what was said holds, whatever is rebuilt, added or re-thresholded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError, read_receipt
from ffhqref.dataset import verdicts
from ffhqref.dataset.build import write_recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.references import write_references
from ffhqref.dataset.split import split_identities
from ffhqref.dataset.verdicts import Verdict
from ffhqref.dataset.verify import verify_dataset
from tests.synthetic import people, recipe, unit, write_embedded

GROUPINGS = ["average", "components"]
CLOCK = itertools.count()


def said(kind: str, left: str, right: str = "", who: str = "ann") -> Verdict:
    """A verdict, later than any before it; a photo's pixels are its name, as `write_embedded` has them."""
    return Verdict(kind, left, left, right, right, who, f"2026-01-01T00:00:00.{next(CLOCK):03d}Z")


def say(out: Path, *lines: Verdict) -> None:
    verdicts.append(verdicts.path_of(out), lines)


def names_of(count: int) -> list[str]:
    return [f"{number:02d}.png" for number in range(count)]


def vectors_of() -> np.ndarray:
    """Three people of four photos, 0-3, 4-7, 8-11; the first two are chained by photos 3 and 4."""
    vectors, _ = people([4, 4, 4], seed=10, spread=0.4)
    vectors[3] = unit([0.72 * vectors[3] + 0.585 * vectors[4]])[0]
    return vectors


def grouped(out: Path, made: Recipe) -> dict[str, frozenset[str]]:
    """Photo -> the photos of its person, as `cluster` writes them."""
    find_identities(out, made)
    table = tables.read(tables.path_of(out, "identities"), tables.IDENTITIES).to_pylist()
    persons: dict[str, set[str]] = {}
    for row in table:
        persons.setdefault(row["identity"], set()).add(row["image"])
    return {name: frozenset(photos) for photos in persons.values() for name in photos}


def suspects(out: Path) -> list[tuple[str, frozenset[str]]]:
    rows = tables.read(tables.path_of(out, "suspects"), tables.SUSPECTS).to_pylist()
    return [(row["kind"], frozenset((row["left"], row["right"]))) for row in rows]


def photos(*numbers: int) -> frozenset[str]:
    return frozenset(f"{number:02d}.png" for number in numbers)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_embedded(tmp_path / "out", names_of(12), vectors_of())
    return tmp_path / "out"


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_same_joins_and_different_parts_at_any_distance(out: Path, grouping: str) -> None:
    made = recipe(grouping=grouping)
    before = grouped(out, made)
    assert before["08.png"] == photos(8, 9, 10, 11)
    say(out, said("same", "00.png", "08.png"), said("different", "09.png", "04.png"))
    say(out, said("different", "10.png", "11.png"))
    for distance in (0.4, 0.2, 0.7):
        found = grouped(out, recipe(grouping=grouping, distance=distance))
        assert found["00.png"] == found["08.png"]
        assert found["09.png"] != found["04.png"] and found["10.png"] != found["11.png"]
    receipt = read_receipt(out, "cluster")
    assert receipt is not None and receipt.notes["verdicts"] == {"same": 1, "different": 2}


def test_a_new_verdict_redoes_cluster_and_none_does_not(out: Path) -> None:
    made = recipe()
    stamps = []
    for lines in ([], [said("same", "00.png", "08.png")], []):
        if lines:
            say(out, *lines)
        find_identities(out, made)
        stamps.append(tables.path_of(out, "identities").stat().st_mtime_ns)
    assert stamps[0] < stamps[1] == stamps[2]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_chain_that_was_rejected_falls_apart_and_does_not_come_back(out: Path, grouping: str) -> None:
    made = recipe(grouping=grouping)
    chained = grouped(out, made)["00.png"] == grouped(out, made)["04.png"]
    assert chained or grouping == "average"
    say(out, *(said("different", f"0{a}.png", f"0{b}.png") for a in range(4) for b in range(4, 8)))
    for distance in (0.4, 0.5):
        found = grouped(out, recipe(grouping=grouping, distance=distance))
        assert found["00.png"] == photos(0, 1, 2, 3) and found["04.png"] == photos(4, 5, 6, 7)
        across = [
            pair for _, pair in suspects(out) if pair & photos(0, 1, 2, 3) and pair & photos(4, 5, 6, 7)
        ]
        assert across == []


def test_a_rejected_suggestion_does_not_come_back_by_another_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two much alike, parted by a verdict on two of their photos: without it they would be asked about."""
    out = tmp_path / "out"
    rng = np.random.default_rng(1)
    first, second = np.eye(128)[:2]
    noise = 0.3 * unit(rng.standard_normal((6, 128)))
    write_embedded(
        out, names_of(6), unit(np.concatenate([first + noise[:3], 0.65 * first + 0.76 * second + noise[3:]]))
    )
    assert grouped(out, recipe())["00.png"] == photos(*range(6))
    say(out, said("different", "00.png", "03.png"))
    with monkeypatch.context() as patch:
        patch.setattr("ffhqref.dataset.cluster._unanswered", lambda rows, *_: rows)
        found = grouped(out, recipe())
        across = [(kind, pair) for kind, pair in suspects(out) if found[min(pair)] != found[max(pair)]]
        assert [kind for kind, _ in across] == ["split"] and across[0][1] != photos(0, 3)
    find_identities(out, recipe(distance=0.41))
    found = grouped(out, recipe())
    assert not [pair for _, pair in suspects(out) if found[min(pair)] != found[max(pair)]]


def test_a_confirmed_person_is_not_asked_about_again(out: Path) -> None:
    made = recipe(grouping="components")
    grouped(out, made)
    ((kind, pair),) = suspects(out)
    assert kind == "weak_link" and pair == photos(3, 4)
    say(out, said("same", *sorted(pair)))
    grouped(out, made)
    assert suspects(out) == []


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_frozen_people_stay_whatever_is_added_or_re_thresholded(tmp_path: Path, grouping: str) -> None:
    vectors = vectors_of()
    out = tmp_path / "out"
    write_embedded(out, names_of(12), vectors)
    say(
        out, *(said("frozen", "00.png", f"0{other}.png") for other in (1, 2, 9))
    )  # 9 is another's by distance
    for distance in (0.05, 0.4, 0.9):
        found = grouped(out, recipe(grouping=grouping, distance=distance, min_distance=0.02))
        assert found["00.png"] == photos(0, 1, 2, 9)
    near = unit([vectors[0] + 0.01 * vectors[5]])
    more = np.concatenate([vectors, near])
    write_embedded(out, [*names_of(12), "00-new.png"], more)
    found = grouped(out, recipe(grouping=grouping))
    assert found["00.png"] == photos(0, 1, 2, 9) and found["00-new.png"] != found["00.png"]
    assert not any("00.png" in pair for _, pair in suspects(out)), "a finished person is not asked about"


def test_frozen_people_keep_their_verdict_where_a_photo_went_or_was_renamed(tmp_path: Path) -> None:
    out, vectors = tmp_path / "out", vectors_of()
    write_embedded(out, names_of(12), vectors)
    say(
        out,
        *(said("frozen", "00.png", name) for name in ("01.png", "09.png")),
        said("same", "04.png", "99.png"),
    )
    stays = [at for at in range(12) if at != 0]
    names = [*names_of(9)[1:], "renamed.png", *names_of(12)[10:]]
    pixels = [names_of(12)[at] for at in stays]
    write_embedded(out, names, vectors[stays], pixels)
    found = grouped(out, recipe())
    assert found["01.png"] == {"01.png", "renamed.png"}
    receipt = read_receipt(out, "cluster")
    assert receipt is not None and receipt.notes["verdicts"] == {"frozen": 1, "stale": 3}
    write_recipe(out, recipe())
    said_so = CliRunner().invoke(app, ["cluster", str(out)])
    assert (
        "Verdicts obeyed: 1 frozen, 3 passed over, about photos that are gone or changed." in said_so.output
    )


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_excluded_photos_are_in_no_list_and_the_dataset_is_sound(out: Path, grouping: str) -> None:
    made = recipe(grouping=grouping, val_identities=0, test_identities=1, min_distance=0.02)
    say(out, said("excluded", "05.png"), said("same", "05.png", "06.png"), said("excluded", "09.png"))
    write_recipe(out, made)
    found = grouped(out, made)
    assert "05.png" not in found and len(found) == 10
    split_identities(out, made)
    write_references(out, made)
    report = verify_dataset(out, made)
    assert report.violations == [] and report.counts["photos"] == 10
    written = [*(out / "reference_mapping").iterdir(), *(out / "id_based_ffhq_split").iterdir()]
    assert len(written) == 6 and not any("05.png" in path.read_text() for path in written)
    pairs = tables.read(tables.path_of(out, "pairs"), tables.PAIRS).to_pylist()
    assert not any("05.png" in (row["left"], row["right"]) for row in pairs)
    say(out, said("undone", "05.png"))  # the latest of what was said of it: the exclusion
    assert "05.png" in grouped(out, made)


def test_references_are_those_of_a_dataset_without_the_photo(tmp_path: Path) -> None:
    """The rows of vectors must be those of the photos that are left."""
    made = recipe(val_identities=0, test_identities=1, min_distance=0.02)
    texts = []
    for kind in ("excluded", "gone"):
        out = tmp_path / kind / "out"
        stays = [at for at in range(12) if kind == "excluded" or at != 5]
        write_embedded(out, [names_of(12)[at] for at in stays], vectors_of()[stays])
        if kind == "excluded":
            say(out, said("excluded", "05.png"))
        for stage in (find_identities, split_identities, write_references):
            stage(out, made)
        texts.append([path.read_text() for path in sorted((out / "reference_mapping").iterdir())])
    assert texts[0] == texts[1] and any("00.png" in text for text in texts[0])


def conflict(out: Path, lines: Sequence[Verdict], **changes: object) -> str:
    verdicts.path_of(out).unlink(missing_ok=True)
    say(out, *lines)
    with pytest.raises(UserError) as caught:
        find_identities(out, recipe(**changes))
    return str(caught.value)


def test_a_conflict_is_one_sentence_with_both_lines(tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = ["a/000.png", "a/001.png", "b/000.png", "c/000.png"]
    write_embedded(out, names, people([2, 1, 1])[0])
    a, b, c = said("same", names[0], names[2]), said("same", names[2], names[3], "bob"), names[3]
    words = conflict(out, [a, b, said("different", names[0], c, "cat")])
    assert "line 4: cat said different" in words and "line 2: ann said same" in words and "line 3" in words
    assert "\n" not in words and "review --only contradictions" in words
    words = conflict(out, [said("frozen", names[0], names[2]), said("same", names[2], c, "bob")])
    assert "line 3: bob said same" in words and "line 2: ann said frozen" in words
    renamed = Verdict("same", "old.png", names[0], c, c, "ann", "2026-01-02")  # found by its pixels
    words = conflict(out, [renamed, said("different", names[0], c, "bob")])
    assert "line 3: bob said different" in words and "line 2: ann said same of" in words
    words = conflict(out, [said("same", names[0], names[1])], faces="all")
    assert "two faces of one photograph, but line 2: ann said same" in words
    whole = conflict(out, [said("excluded", name) for name in names])
    assert "excludes every photo" in whole


def test_verdicts_correct_given_people_too(out: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"{name},{'anna' if at < 5 else 'bert' if at < 8 else 'carl'}\n"
        for at, name in enumerate(names_of(12))
    )
    (tmp_path / "people.csv").write_text("image,identity\n" + rows)
    made = recipe(identities=str(tmp_path / "people.csv"))
    assert grouped(out, made)["04.png"] == photos(0, 1, 2, 3, 4)
    say(
        out, *(said("different", "04.png", f"0{at}.png") for at in range(4)), said("same", "04.png", "05.png")
    )
    found = grouped(out, made)
    assert found["04.png"] == photos(4, 5, 6, 7) and found["00.png"] == photos(0, 1, 2, 3)
    table = tables.read(tables.path_of(out, "identities"), tables.IDENTITIES).to_pylist()
    assert {row["image"]: row["identity"] for row in table}["04.png"] == "bert"
    say(out, said("different", "08.png", "09.png"))
    table_of = grouped(out, made)
    names = {
        row["identity"]
        for row in tables.read(tables.path_of(out, "identities"), tables.IDENTITIES).to_pylist()
    }
    assert table_of["08.png"] != table_of["09.png"] and {"anna", "bert", "carl"} < names and len(names) == 4
