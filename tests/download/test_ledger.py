"""The ledger of a folder that a stranger may have written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.download.ledger import LEDGER, Entry, Ledger
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile
from ffhqref.download.stage import DownloadOptions, download
from tests.download.servers import Doc, Server

GOOD = Entry(path="f", bytes=5, mtime_ns=1, sha256="0" * 64)
LINES = {
    "brackets": "[" * 100_000,
    "digits": '{"path": "f", "mtime_ns": 0, "bytes": ' + "9" * 5000 + "}",
    "a list for a path": json.dumps({**asdict(GOOD), "path": ["f"]}),
    "a number for a path": json.dumps({**asdict(GOOD), "path": 5}),
    "text for a number": json.dumps({**asdict(GOOD), "bytes": "5"}),
    "a boolean for a number": json.dumps({**asdict(GOOD), "bytes": True}),
    "null": json.dumps({**asdict(GOOD), "sha256": None}),
    "a key too many": json.dumps({**asdict(GOOD), "x": 1}),
    "a key too few": json.dumps({"path": "f"}),
    "a path that leaves": json.dumps({**asdict(GOOD), "path": "../../f"}),
    "an absolute path": json.dumps({**asdict(GOOD), "path": "/etc/passwd"}),
    "no object": "[1]",
    "cut": json.dumps(asdict(GOOD))[:-3],
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.docs["/f"] = Doc(b"right")
        yield running


@pytest.mark.parametrize("what", LINES)
def test_a_line_of_another_hand_counts_for_nothing(what: str, server: Server, tmp_path: Path) -> None:
    journal = tmp_path / LEDGER
    journal.parent.mkdir()
    journal.write_text(f"{LINES[what]}\n{json.dumps(asdict(GOOD))}\n{LINES[what]}\n")
    assert Ledger(tmp_path).entries() == [GOOD]
    file = SourceFile(path="g", urls=(f"{server.url}/f",))
    source = Source(name="mine", title="mine", files=(file,))
    assert download([source], tmp_path, DownloadOptions(manners=Manners(backoff=0.01))).missing == []
    assert [entry.path for entry in Ledger(tmp_path).entries()] == ["f", "g"]


def test_doctor_reads_it_without_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = tmp_path / LEDGER
    journal.parent.mkdir()
    journal.write_text("\n".join(LINES.values()))
    monkeypatch.setattr("ffhqref.doctor._run_python", lambda program: None)
    result = CliRunner().invoke(app, ["doctor", str(tmp_path)])
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_a_ledger_that_is_a_link_is_not_followed(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    out = tmp_path / "out"
    (out / LEDGER).parent.mkdir(parents=True)
    (out / LEDGER).symlink_to(mine)
    source = Source(name="mine", title="mine", files=(SourceFile(path="f", urls=(f"{server.url}/f",)),))
    outcome = download([source], out, DownloadOptions(manners=Manners(backoff=0.01)))
    assert mine.read_text() == "kept" and len(outcome.missing) == 1
