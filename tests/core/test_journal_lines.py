"""The journal: what it takes for a line, what it claims, and that it is never written through a link."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffhqref.core import journal
from ffhqref.core.journal import Made
from ffhqref.core.store import UserError

GOOD = Made("k" * 64, "s" * 64)


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    path = tmp_path / "out" / "receipts" / "degrade.jsonl"
    path.parent.mkdir(parents=True)
    path.symlink_to(mine)
    with pytest.raises(UserError, match=r"degrade\.jsonl is a link"):
        journal.make_all([], lambda item: GOOD, path, workers=1, what="test")
    with pytest.raises(UserError, match="link"):
        journal.claim(path, ["a.png"])
    with pytest.raises(UserError, match="link"):
        journal.read(path)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "line",
    [
        "3", "[]", "null",
        '["a.png", 3]', '["a.png", []]', '["a.png", null]', '[3, {"key": "", "sha256": ""}]',
        '["a.png", {"key": [], "sha256": ""}]', '["a.png", {"key": "", "sha256": "", "status": []}]',
        '["a.png", {"key": "", "sha256": "", "odd": ""}]', '["../a.png", {"key": "", "sha256": ""}]',
        '["/etc/passwd", {"key": "", "sha256": ""}]', "[" * 100_000, '["a.png", ' + "1" * 5_000 + "]",
    ],
)  # fmt: skip
def test_a_line_that_is_none_counts_for_nothing(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    whole = json.dumps(["b.png", {"key": GOOD.key, "sha256": GOOD.sha256}])
    path.write_text(f"{line}\n{whole}\n{line}")
    assert journal.read(path) == {"b.png": GOOD}


def test_a_claim_is_no_finished_file(tmp_path: Path) -> None:
    path = tmp_path / "receipts" / "a.jsonl"
    journal.claim(path, ["a.png", "b.png"])
    known = journal.read(path)
    assert set(known) == {"a.png", "b.png"}
    assert not journal.unchanged(tmp_path, "a.png", known["a.png"])
