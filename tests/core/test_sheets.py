"""Labelled pictures in rows: where each one lies, what is written where, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffhqref.core import images, sheets
from ffhqref.core.images import Rgb
from ffhqref.core.sheets import GROUND, LINE, PAPER, Panel, Tag, compose, fitted
from ffhqref.core.store import UserError

SIDE, GAP = 60, 12
RED, BLUE = (200, 30, 30), (30, 30, 200)


def plain(colour: tuple[int, int, int], height: int = 30, width: int = 30) -> Rgb:
    return np.full((height, width, 3), colour, np.uint8)


def square(sheet: Rgb, column: int, row: int = 0, *, first: int = GAP, height: int = SIDE + GAP) -> Rgb:
    left, top = GAP + column * (SIDE + GAP), first + row * height
    return sheet[top : top + SIDE, left : left + SIDE]


def test_pictures_fill_squares_in_rows() -> None:
    sheet = compose([[Panel(plain(RED)), Panel(plain(BLUE))], [Panel(plain(BLUE))]], side=SIDE)
    assert sheet.shape == (GAP + 2 * (SIDE + GAP), GAP + 2 * (SIDE + GAP), 3)
    assert (square(sheet, 0) == RED).all() and (square(sheet, 1) == BLUE).all()
    assert (square(sheet, 0, 1) == BLUE).all() and (square(sheet, 1, 1) == PAPER).all()
    assert (sheet[:GAP] == PAPER).all() and (sheet[:, -GAP:] == PAPER).all()


def test_a_picture_keeps_its_shape_and_its_middle() -> None:
    wide = square(compose([[Panel(plain(RED, 20, 40))]], side=SIDE), 0)
    assert (wide[SIDE // 4 : 3 * SIDE // 4] == RED).all()
    assert (wide[: SIDE // 4] == PAPER).all() and (wide[3 * SIDE // 4 :] == PAPER).all()
    assert fitted(plain(RED, 500, 2), SIDE).shape == (SIDE, 1, 3)


def test_what_cannot_be_shown_is_a_cross_on_grey() -> None:
    cross = square(compose([[Panel(None)]], side=SIDE), 0)
    assert (cross[0, 0] != GROUND).all() and (cross[SIDE // 2, SIDE // 2] != GROUND).all()
    assert (cross[SIDE // 2, 2] == GROUND).all() and (cross[2, SIDE // 2] == GROUND).all()


def test_a_tag_is_a_word_on_its_colour_and_changes_its_corner_alone() -> None:
    bare = square(compose([[Panel(plain(RED))]], side=SIDE), 0)
    tagged = square(compose([[Panel(plain(RED), tag=Tag("val", BLUE))]], side=SIDE), 0)
    assert (tagged[0, 0] == BLUE).all() and (tagged == PAPER).all(axis=2).any()
    assert (tagged[LINE + 2 :] == bare[LINE + 2 :]).all() and (tagged[:, -10:] == bare[:, -10:]).all()


def test_captions_stand_below_their_pictures_and_titles_above_all() -> None:
    rows = [[Panel(plain(RED), ("one", "two")), Panel(plain(RED))]] * 2
    sheet = compose(rows, titles=["", "right"], side=SIDE)
    height, first = SIDE + 2 * LINE + GAP, GAP + LINE + GAP // 2
    assert sheet.shape[0] == first + 2 * height
    for row in range(2):
        assert (square(sheet, 0, row, first=first, height=height) == RED).all()
        below = sheet[first + row * height + SIDE :][: height - SIDE]
        written = (below < 100).all(axis=2)
        assert written[:LINE, : SIDE + GAP].any() and written[LINE : 2 * LINE, : SIDE + GAP].any()
        assert not written[:, SIDE + GAP :].any() and not written[2 * LINE + 6 :].any()
    title = (sheet[:first] < 100).all(axis=2)
    assert title[:, SIDE + 2 * GAP :].any() and not title[:, : SIDE + GAP].any()


@pytest.mark.parametrize("text", ["a/very/long/path/to/some/picture.png", "x" * 500])
def test_a_long_text_is_cut_to_its_column(text: str) -> None:
    sheet = compose([[Panel(plain(RED), (text,)), Panel(plain(RED))]], titles=[text, ""], side=SIDE)
    written = (sheet < 100).all(axis=2)
    assert written[:, : GAP + SIDE].any() and not written[:, GAP + SIDE + 2 :].any()


def test_the_first_column_can_stand_apart() -> None:
    rows = [[Panel(plain(RED)), Panel(plain(BLUE)), Panel(plain(BLUE))]]
    near, apart = compose(rows, side=SIDE), compose(rows, side=SIDE, apart=9)
    np.testing.assert_array_equal(near[:, : GAP + SIDE], apart[:, : GAP + SIDE])
    np.testing.assert_array_equal(near[:, GAP + SIDE :], apart[:, GAP + SIDE + 9 :])


def test_half_of_a_surrogate_pair_is_drawn_as_its_escape() -> None:
    odd, escaped = ([[Panel(plain((9, 9, 9)), [text])]] for text in ("\ud800.png\x1b", "\\ud800.png\\x1b"))
    np.testing.assert_array_equal(sheets.compose(odd), sheets.compose(escaped))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_a_sheet_replaces_a_sheet_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    page, path = plain((200, 40, 90)), tmp_path / f"look{suffix}"
    for _ in range(2):
        sheets.write(path, page)
    assert np.abs(images.read(path).astype(int) - page).max() <= (4 if suffix[1] == "j" else 0)
    others = {
        "photo": images.encode(page, ".jpg" if suffix == ".jpeg" else suffix), "text": b"mine", "empty": b"",
    }  # fmt: skip
    for name, data in others.items():
        other = tmp_path / f"{name}{suffix}"
        other.write_bytes(data)
        with pytest.raises(UserError, match="no sheet that ffhqref made"):
            sheets.write(other, page)
        assert other.read_bytes() == data
    for odd in (tmp_path / f"folder{suffix}", tmp_path / f"link{suffix}"):
        odd.mkdir() if odd.name[0] == "f" else odd.symlink_to(tmp_path / "nowhere")
        with pytest.raises(UserError, match="no sheet"):
            sheets.spare(odd)
