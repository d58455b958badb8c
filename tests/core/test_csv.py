"""CSV files of users: what stands in them, or a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffhqref.core import lists
from ffhqref.core.store import UserError


@pytest.mark.parametrize(
    "text",
    ["image,identity\n00001.png,1,\n00002.png,1,\n", "image,identity\na,b,c,d\ne,f,g,h\n"],
)
def test_lines_with_more_fields_than_the_header_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(UserError, match=r"people\.csv has lines with more fields .* comma at their end"):
        lists.read_labels(tmp_path / "people.csv")


def test_a_comma_after_every_line_and_the_header_is_an_empty_column(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("image,identity,\n00001.png,1,\n00002.png,1,\n")
    assert lists.read_labels(tmp_path / "people.csv") == {"00001.png": "1", "00002.png": "1"}
