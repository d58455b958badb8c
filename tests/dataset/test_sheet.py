"""Contact sheets: who is on them, in what order, and that the pictures are those of the dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import lists
from ffhqref.core.images import read as read_image
from ffhqref.core.images import write as write_image
from ffhqref.core.store import UserError, write_text
from ffhqref.dataset.sheet import CELL, GAP, SheetRow, choose_rows, contact_sheet, lay_out

COLOURS = {f"{n:02d}.png": (10 + 9 * n, 255 - 10 * n, (37 * n) % 256) for n in range(20)}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three people in three splits; each photo is of one colour."""
    for name, colour in COLOURS.items():
        write_image(tmp_path / "photos" / name, np.full((40, 60, 3), colour, np.uint8))
    rows = {
        "test": [("00.png", ["01.png", "02.png"]), ("01.png", ["02.png", "00.png"])],
        "val": [("03.png", ["04.png"])],
        "train": [(f"{n:02d}.png", [f"{m:02d}.png" for m in range(5, 20) if m != n]) for n in range(5, 20)],
    }
    for split, mapping in rows.items():
        path = tmp_path / "made" / "reference_mapping" / f"{split}_references.csv"
        write_text(path, lists.reference_csv(mapping, with_lq=split != "train"))
    return tmp_path / "made"


def test_nobody_is_shown_twice_and_splits_come_in_order(dataset: Path) -> None:
    rows = choose_rows({s: lists.read_references(dataset / "reference_mapping" / f"{s}_references.csv")
                   for s in ("test", "val", "train")}, 9)  # fmt: skip
    assert [row.split for row in rows] == ["test", "val", "train"]
    shown = [name for row in rows for name in (row.target, *row.references)]
    assert len(shown) == len(set(shown)) == 20


def test_a_share_that_a_split_cannot_fill_goes_to_another() -> None:
    many = {f"t{n}": [f"r{n}"] for n in range(50)}
    rows = choose_rows({"test": {"a": ["b"]}, "val": {}, "train": many}, 12)
    assert [row.split for row in rows] == ["test"] + ["train"] * 11
    assert len(choose_rows({"train": many}, 5)) == 5


def test_the_sheet_shows_target_first_then_references_in_their_order(dataset: Path, tmp_path: Path) -> None:
    made = contact_sheet(dataset, tmp_path / "photos", count=9)
    assert (made.path, made.rows, made.missing) == (dataset / "contact-sheet.png", 3, ())
    sheet = read_image(made.path)
    assert sheet.shape[0] == GAP + 3 * (CELL + GAP)
    for line, names in enumerate((["00.png", "01.png", "02.png"], ["03.png", "04.png"])):
        y = GAP + line * (CELL + GAP) + CELL // 2
        for column, name in enumerate(names):
            x = GAP + column * (CELL + GAP) + (2 * GAP if column else 0) + CELL // 2
            assert tuple(int(value) for value in sheet[y, x]) == COLOURS[name], name


def test_the_corner_is_the_colour_of_the_split() -> None:
    plain = np.full((30, 30, 3), 200, np.uint8)
    cell = lay_out([(SheetRow("test", "t", ()), [plain])])[GAP:, GAP:]
    assert tuple(cell[1, 1]) == (170, 40, 50) and (cell[CELL // 2 : CELL, :CELL] == 200).all()


def test_more_references_than_columns_are_counted_on_the_sheet() -> None:
    pictures = [np.full((9, 9, 3), 99, np.uint8)] * 7
    few = lay_out([(SheetRow("train", "t", tuple("abcdef")), pictures)])
    many = lay_out([(SheetRow("train", "t", tuple("abcdefghi")), pictures)])
    assert few.shape == many.shape and (few != many).any()
    assert (few != many).nonzero()[1].min() >= few.shape[1] - CELL - GAP  # only in the last cell


def test_a_missing_photo_is_grey_and_named_and_none_at_all_is_an_error(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "04.png").unlink()
    (tmp_path / "photos" / "01.png").write_bytes(b"no picture")
    made = contact_sheet(dataset, tmp_path / "photos", split="val")
    assert made.missing == ("04.png",)
    assert set(contact_sheet(dataset, tmp_path / "photos").missing) == {"01.png", "04.png"}
    with pytest.raises(UserError, match="none of the photographs"):
        contact_sheet(dataset, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "all"}, "train, val, test"),
        ({"count": 0}, "from 1 to 200"),
        ({"file": Path("sheet.txt")}, "ends in .png"),
    ],
)
def test_bad_options_are_sentences(dataset: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        contact_sheet(dataset, dataset, **options)  # type: ignore[arg-type]


def test_the_command(dataset: Path, tmp_path: Path) -> None:
    arguments = [
        "sheet",
        str(dataset),
        "--images",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "s.png"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "3 targets" in done.output and (tmp_path / "s.png").is_file()
    nothing = CliRunner().invoke(app, ["sheet", str(tmp_path), "--images", str(tmp_path)])
    assert (
        nothing.exit_code == 1 and "reference_mapping" in nothing.output and "Traceback" not in nothing.output
    )
    unknown = CliRunner().invoke(app, ["sheet", str(dataset)])
    assert unknown.exit_code == 1 and "--images" in unknown.output
