"""README.md and croissant.json: read back by others' readers, true to the dataset, safe with any text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists, tables
from ffhqref.core.store import UserError, digest_file, write_text
from ffhqref.core.terminal import LAW
from ffhqref.report import card, facts
from ffhqref.report.card import Curator, as_yaml, curator_path, read_curator
from ffhqref.report.write import write_cards
from tests.report.making import make_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("card"))


@pytest.fixture
def fresh(dataset: Path) -> Path:
    for name in ("card.toml", "README.md", "croissant.json"):
        (dataset / name).unlink(missing_ok=True)
    return dataset


def cards(out: Path) -> Curator:
    """Write both files, without the page."""
    return write_cards(facts.load(out))


def head(out: Path) -> Any:
    """The card's YAML as PyYAML reads it."""
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    _, text, _ = (out / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(text)


def test_what_nobody_said_is_listed_at_the_end_and_stands_in_one_place(fresh: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(fresh)])
    assert done.exit_code == 0
    *_, last = done.output.splitlines()
    assert (
        last.startswith("Wrote ") and f"For the curator to complete, in {fresh / 'card.toml'}:" in done.output
    )
    for item in ("licence", "consent", "contact"):
        assert f"  {item}: " in done.output
    text = (fresh / "README.md").read_text()
    assert (
        text.count("## For the curator to complete") == 1 and "- licence: of the dataset as a whole" in text
    )
    assert "- Licence: for the curator to complete" in text


def test_what_the_curator_said_is_kept_and_put_in(fresh: Path) -> None:
    write_text(curator_path(fresh), 'licence = "CC-BY-4.0"\ncreators = "Ada L; Bob"\nname = "Faces: mine"\n')
    curator = cards(fresh)
    assert curator_path(fresh).read_text().startswith("licence"), "never written over"
    assert not any(one.startswith(("licence", "creators", "name:")) for one in curator.missing())
    assert LAW in (fresh / "README.md").read_text()
    assert "- Licence: CC-BY-4.0" in (fresh / "README.md").read_text()
    found = json.loads((fresh / "croissant.json").read_text())
    assert found["license"] == "CC-BY-4.0" and [c["name"] for c in found["creator"]] == ["Ada L", "Bob"]
    assert head(fresh)["pretty_name"] == "Faces: mine" and head(fresh)["license_name"] == "cc-by-4.0"


def test_a_wrong_entry_is_a_sentence(fresh: Path) -> None:
    write_text(curator_path(fresh), "license = 'x'\n")
    with pytest.raises(UserError, match="card.toml: unknown key 'license' .did you mean licence"):
        cards(fresh)


def test_the_hub_reads_the_head_and_its_configs_are_there(fresh: Path) -> None:
    cards(fresh)
    found = head(fresh)
    assert found["size_categories"] == ["n<1K"] and found["task_categories"] == ["image-to-image"]
    assert [c["config_name"] for c in found["configs"]] == ["train", "val", "test"]
    assert [c["data_files"][0]["split"] for c in found["configs"]] == ["train", "validation", "test"]
    assert all((fresh / c["data_files"][0]["path"]).is_file() for c in found["configs"])


def test_the_counts_are_those_of_the_lists(fresh: Path) -> None:
    cards(fresh)
    text = (fresh / "README.md").read_text()
    for split in tables.SPLITS:
        rows = lists.read_references(fresh / "reference_mapping" / f"{split}_references.csv")
        photos = len(lists.read_list(fresh / "id_based_ffhq_split" / f"{split}_image.txt"))
        people = len(
            {facts.load(fresh).identity[i] for i, s in enumerate(facts.load(fresh).split) if s == split}
        )
        row = f"| {split} | {photos} | {people} | {len(rows)} | {sum(map(len, rows.values()))} |"
        assert row in text
        assert digest_file(fresh / "reference_mapping" / f"{split}_references.csv") in text


def test_a_text_stays_a_text(fresh: Path) -> None:
    evil = "<script>alert(1)</script> | [x](http://e) \\u202e\\n# no heading\\n---"
    write_text(curator_path(fresh), f'consent = "{evil}"\nname = "{evil}"\n')
    cards(fresh)
    text = (fresh / "README.md").read_text()
    body = text.split("---\n", 2)[2]
    assert "<script" not in body.replace("\\<script", "") and "\u202e" not in body
    assert "\n# no heading" not in body and "](http" not in body.replace("\\](http", "")
    assert head(fresh)["pretty_name"].startswith("<script>")
    assert "\u202e" not in json.loads((fresh / "croissant.json").read_text())["name"]


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "yes",
        "Null",
        "1e3",
        "a: b",
        "- x",
        "",
        "n<1K",
        "é\n'\"",
        [1, "a"],
        {"a": {"b": [{"c": "d", "e": True}]}},
    ],
)
def test_yaml_is_read_as_it_was_meant(value: object) -> None:
    yaml = pytest.importorskip("yaml", reason="pip install pyyaml")
    assert yaml.safe_load(as_yaml({"key": value})) == {"key": value}


@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_its_records_are_the_mappings(fresh: Path) -> None:
    """By mlcroissant, the vocabulary's own reader: Croissant 1.1, no error, and the rows of each split."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    write_text(curator_path(fresh), "".join(f'{f} = "2026-01-01"\n' for f in Curator.__dataclass_fields__))
    assert cards(fresh).missing() == []
    read = mlcroissant.Dataset(jsonld=str(fresh / "croissant.json"))
    assert not read.metadata.ctx.issues.errors and read.metadata.ctx.is_v1_1()
    assert not [w for w in read.metadata.ctx.issues.warnings if "rai" in w.lower()]
    for split in tables.SPLITS:
        rows = lists.read_references(fresh / "reference_mapping" / f"{split}_references.csv")
        targets = [row[f"{split}/gt_image"].decode() for row in read.records(split)]
        assert targets == list(rows)


def test_responsible_ai_is_said(fresh: Path) -> None:
    cards(fresh)
    found = json.loads((fresh / "croissant.json").read_text())
    asked = (
        "rai:dataLimitations", "rai:dataBiases", "rai:personalSensitiveInformation", "rai:dataUseCases",
        "rai:dataSocialImpact", "rai:hasSyntheticData", "prov:wasDerivedFrom", "prov:wasGeneratedBy",
    )  # fmt: skip
    assert all(found[name] for name in asked)
    assert found["rai:dataBiases"] == card.TO_COMPLETE
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"


def test_the_curator_s_file_is_made_once(fresh: Path) -> None:
    first = read_curator(fresh)
    assert first == Curator() and len(first.missing()) == len(Curator.__dataclass_fields__)
    assert curator_path(fresh).read_text().count('= ""') == len(first.missing())


@pytest.mark.parametrize("above", [False, True])
def test_authors_and_licences_of_the_photographs_reach_the_card(tmp_path: Path, above: bool) -> None:
    out = make_dataset(tmp_path)
    folder, inside = (tmp_path, "photos/") if above else (tmp_path / "photos", "")
    names = facts.load(out).faces.names
    rows = [
        (
            f"{inside}{name}",
            "Ann <b>",
            'a "title"',
            "u",
            "",
            "CC BY" if at else "CC0 | x",
            "https://l",
            "",
            "",
            "",
        )
        for at, name in enumerate(names[:20])
    ]
    tables.write_rows(
        folder / "attribution.parquet", tables.ATTRIBUTION, [*rows, ("other.png", *rows[0][1:])]
    )
    cards(out)
    text = (out / "README.md").read_text()
    assert "\n- 19 photographs: CC BY (https://l)\n- 1 photographs: CC0 \\| x (https://l)\n" in text
    assert (
        "- Author, title and address of 20 photographs: `attribution.csv`; of 9 they are not recorded."
        in text
    )
    assert "attribution.csv" not in [path.name for path in (tmp_path / "photos").iterdir()]
    found = lists.read_csv(out / "attribution.csv", list(tables.ATTRIBUTION.names))
    assert list(found["image"]) == names[:20] and set(found["author"]) == {"Ann <b>"}
    (folder / "attribution.parquet").unlink()
    cards(out)
    assert not (out / "attribution.csv").exists() and "attribution.csv" not in (out / "README.md").read_text()
