"""A violation of every kind is planted, and found by its own check."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, tables
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError, receipt_path
from ffhqref.dataset import verify
from ffhqref.dataset.build import write_recipe
from ffhqref.dataset.cluster import find_identities
from ffhqref.dataset.references import csv_path, write_references
from ffhqref.dataset.split import list_path, split_identities
from ffhqref.dataset.verify import verify_dataset
from tests.synthetic import people, recipe, write_embedded

SIZES = [1] * 4 + [3] * 6 + [4] * 4
CHOSEN = recipe(grouping="components", val_identities=2, test_identities=3)


def built(out: Path, chosen: Recipe = CHOSEN) -> Path:
    vectors, person = people(SIZES, 11, spread=0.5, dimension=256)
    write_embedded(out, [f"{index:05d}.png" for index in range(len(person))], vectors)
    for stage in (find_identities, split_identities, write_references):
        stage(out, chosen)
    write_recipe(out, chosen)
    return out


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return built(tmp_path / "out")


def test_a_sound_dataset_passes_with_counts(out: Path) -> None:
    report = verify_dataset(out, CHOSEN)
    assert report.violations == [] == report.warnings
    assert report.counts == {"photos": 38, "identities": 14, "targets": 34, "references": 6 * 6 + 4 * 12}
    assert report.line() == "38 photos, 14 identities, 34 targets, 84 references"


def edit_references(split: str, change: Callable[[dict[str, list[str]]], None]) -> Callable[[Path], None]:
    def plant(out: Path) -> None:
        mapping = lists.read_references(csv_path(out, split))
        change(mapping)
        csv_path(out, split).write_text(lists.reference_csv(mapping.items(), with_lq=split != "train"))

    return plant


def edit_table(
    name: str, schema: pa.Schema, change: Callable[[pd.DataFrame], None]
) -> Callable[[Path], None]:
    def plant(out: Path) -> None:
        frame = pd.read_parquet(tables.path_of(out, name))
        change(frame)
        tables.write_columns(tables.path_of(out, name), schema, [list(frame[c]) for c in schema.names])

    return plant


def first(mapping: dict[str, list[str]]) -> str:
    return next(iter(mapping))


def own_reference(mapping: dict[str, list[str]]) -> None:
    mapping[first(mapping)][0] = first(mapping)


def stranger(mapping: dict[str, list[str]]) -> None:
    mapping[first(mapping)][0] = list(mapping)[-1]


def twice(mapping: dict[str, list[str]]) -> None:
    mapping[first(mapping)].append(mapping[first(mapping)][0])


def none_left(mapping: dict[str, list[str]]) -> None:
    mapping[first(mapping)].clear()


def one_left(mapping: dict[str, list[str]]) -> None:
    del mapping[first(mapping)][1:]


def unknown_reference(mapping: dict[str, list[str]]) -> None:
    mapping[first(mapping)][0] = "99999.png"


def unknown_target(mapping: dict[str, list[str]]) -> None:
    mapping["99999.png"] = mapping[first(mapping)]


def swap_split(frame: pd.DataFrame) -> None:
    at = frame.index[frame.split == "test"][0]
    frame.loc[at, "split"] = "train"


def swap_identity(frame: pd.DataFrame) -> None:
    frame.loc[frame.index[-1], "identity"] = frame.identity[0]


def drop_photo(out: Path) -> None:
    target = first(lists.read_references(csv_path(out, "test")))
    (out.parent / "photos" / target).unlink()


def swap_list(out: Path) -> None:
    lines = list_path(out, "val").read_text().splitlines()
    list_path(out, "val").write_text("\n".join(lines[1:]) + "\n")


def other_cluster(out: Path) -> None:
    receipt = json.loads(receipt_path(out, "split").read_text())
    receipt["inputs"]["cluster"] = "0" * 64
    receipt_path(out, "split").write_text(json.dumps(receipt))


def lost_photo(out: Path) -> None:
    frame = pd.read_parquet(tables.path_of(out, "splits")).iloc[1:]
    columns = [list(frame[name]) for name in tables.SPLIT_TABLE.names]
    tables.write_columns(tables.path_of(out, "splits"), tables.SPLIT_TABLE, columns)


def broken_csv(out: Path) -> None:
    with csv_path(out, "train").open("a") as file:
        file.write("zz.png,\"__import__('os').abort()\"\n")


def no_table(out: Path) -> None:
    tables.path_of(out, "splits").unlink()


PLANTED: dict[str, tuple[Callable[[Path], None], str]] = {
    "its own reference": (edit_references("test", own_reference), "it is its own reference"),
    "another identity": (edit_references("test", stranger), "is of another identity"),
    "outside the window": (edit_references("train", stranger), r"is at distance .* outside \[0.0, 0.4\)"),
    "twice": (edit_references("train", twice), "a reference stands twice"),
    "no reference": (edit_references("train", none_left), "it has no reference"),
    "too few": (edit_references("test", one_left), "1 references, not 2 to 9"),
    "unknown reference": (edit_references("val", unknown_reference), "99999.png is no photo of this"),
    "unknown target": (edit_references("val", unknown_target), "the target is no photo of this"),
    "crossing identity": (edit_table("splits", tables.SPLIT_TABLE, swap_split), "crosses splits"),
    "crossing pair": (edit_table("splits", tables.SPLIT_TABLE, swap_split), "pair .* crosses splits"),
    "target elsewhere": (edit_table("splits", tables.SPLIT_TABLE, swap_split), "the target is in train"),
    "reference elsewhere": (edit_table("splits", tables.SPLIT_TABLE, swap_split), "reference .* is in train"),
    "identity of two": (edit_table("identities", tables.IDENTITIES, swap_identity), "is of another identity"),
    "missing picture": (drop_photo, "is no file below"),
    "changed list": (swap_list, "val_image.txt is not the photos of val"),
    "changed file": (swap_list, "val_image.txt is missing or not what `split` wrote"),
    "other inputs": (other_cluster, "`split` was made from another `cluster`"),
    "lost photo": (lost_photo, "splits.parquet and the embeddings differ in 1 photos"),
    "hostile csv": (broken_csv, "ref_image must be a list of names"),
    "no table": (no_table, "Cannot read the table"),
}


@pytest.mark.parametrize("kind", PLANTED)
def test_a_planted_violation_is_found(out: Path, kind: str) -> None:
    plant, sentence = PLANTED[kind]
    plant(out)
    report = verify_dataset(out, CHOSEN)
    found = "\n".join(report.violations)
    assert re.search(sentence, found), found
    result = CliRunner().invoke(app, ["verify", str(out)])
    assert result.exit_code == 1
    assert "is not sound" in result.output and "Traceback" not in result.output


@pytest.mark.parametrize(("stage", "earlier"), [(s, e) for s in verify.FOLLOWS for e in verify.FOLLOWS[s]])
def test_each_stage_is_held_to_what_it_was_made_from(out: Path, stage: str, earlier: str) -> None:
    receipt = json.loads(receipt_path(out, stage).read_text())
    assert receipt["inputs"].keys() - {"identities", "splits", "targets", "labels", "barred"} == set(
        verify.FOLLOWS[stage]
    )
    receipt["inputs"][earlier] = "0" * 64
    receipt_path(out, stage).write_text(json.dumps(receipt))
    said = f"`{stage}` was made from another `{earlier}` than the one that is there"
    assert verify_dataset(out, CHOSEN).violations == [said]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"test_references": (2, 3)}, None),
        ({"test_references": (2, 0)}, None),
        ({"test_references": (3, 9)}, "references, not 3 to 9"),
        ({"test_references": (1, 1)}, "references, not 1 to 1"),
        ({"test_references": (3, 9), "max_references": 2}, None),
        ({"test_references": (1, 0), "max_references": 1}, None),
    ],
)
def test_the_number_of_references_is_that_of_the_recipe(
    tmp_path: Path, settings: dict[str, object], fault: str | None
) -> None:
    """Targets of test have two or three; who keeps the best few only has no more than those."""
    most = settings.get("max_references")
    out = built(tmp_path / "out", replace(CHOSEN, max_references=most, test_references=(2, 3)))
    asked = replace(CHOSEN, **settings)
    found = verify_dataset(out, asked).violations
    assert (found == []) if fault is None else (found and all(fault in one for one in found))


def test_a_target_without_its_picture_is_found_though_nobody_refers_to_it(tmp_path: Path) -> None:
    chosen = replace(CHOSEN, max_references=1)
    out = built(tmp_path / "out", chosen)
    mapping = lists.read_references(csv_path(out, "train"))
    alone = min(set(mapping) - {name for names in mapping.values() for name in names})
    (tmp_path / "photos" / alone).unlink()
    found = verify_dataset(out, chosen).violations
    assert found == [f"{alone} is no file below {tmp_path / 'photos'}"]


def test_known_people_who_cross_splits_only_warn(tmp_path: Path) -> None:
    """People who were given may lie nearer to each other than the distance, or be split by given lists."""
    given = tmp_path / "people.csv"
    given.write_text("image,identity\n" + "".join(f"{n:05d}.png,p{n}\n" for n in range(38)))
    chosen = recipe(identities=str(given))
    out = built(tmp_path / "out", chosen)
    edit_table("splits", tables.SPLIT_TABLE, lambda frame: frame.loc.__setitem__((37, "split"), "val"))(out)
    report = verify_dataset(out, chosen)
    assert len(report.warnings) == 3 and all("crosses splits" in warning for warning in report.warnings)
    assert not any("crosses splits" in violation for violation in report.violations)


def test_nothing_is_run_from_a_hostile_csv(out: Path) -> None:
    broken_csv(out)  # os.abort would end this process
    assert verify_dataset(out, CHOSEN).violations


def test_given_lists_only_warn(tmp_path: Path) -> None:
    drawn = built(tmp_path / "drawn")
    test_list = list_path(drawn, "test")
    lines = test_list.read_text().splitlines()
    lists = tmp_path / "lists"
    shutil.copytree(test_list.parent, lists)
    (lists / "test_image.txt").write_text("\n".join(lines[1:]) + "\n")  # its first photo falls to train
    chosen = recipe(grouping="components", splits=str(lists))
    out = built(tmp_path / "out", chosen)
    report = verify_dataset(out, chosen)
    assert report.violations == []
    assert len(report.warnings) >= 3 and all("crosses splits" in warning for warning in report.warnings)


def test_an_unfinished_dataset_is_said(out: Path) -> None:
    receipt_path(out, "references").unlink()
    with pytest.raises(UserError, match=r"not finished \(references\)"):
        verify_dataset(out, CHOSEN)


def test_the_command_says_counts_and_what_is_next(out: Path) -> None:
    result = CliRunner().invoke(app, ["verify", str(out)])
    assert result.exit_code == 0
    assert "is sound: 38 photos, 14 identities, 34 targets, 84 references. Next:" in result.output
