"""`ffhqref download` against a server that misbehaves in every way of the book."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core import images
from ffhqref.core.store import UserError
from ffhqref.download import network
from ffhqref.download.ledger import Ledger
from ffhqref.download.network import Manners, Network, Refused, retry_after
from ffhqref.download.sources import Source, SourceFile, load_source, sources
from ffhqref.download.stage import DownloadOptions, DownloadOutcome, download
from tests.download.servers import (
    DRIVE_CONFIRM,
    DRIVE_CONFIRM_OLD,
    DRIVE_QUOTA,
    DRIVE_TOO_MANY,
    SORRY,
    Doc,
    Server,
)

QUICK = Manners(backoff=0.01, timeout=0.5, retries=4, max_wait=5)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def blob(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def get(out: Path, *files: SourceFile, manners: Manners = QUICK, **options: Any) -> DownloadOutcome:
    source = Source(name="mine", title="mine", files=files)
    return download([source], out, DownloadOptions(manners=manners, **options))


def reason(outcome: DownloadOutcome) -> str:
    assert len(outcome.missing) == 1, outcome.missing
    return outcome.missing[0][1]


def visible(out: Path) -> list[str]:
    """Every file under its final name."""
    found = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith(".ffhqref") and name != "missing.csv")


# What goes wrong on the way, and still ends with the right bytes.
DATA = blob(300_000)
SURVIVABLE = {
    "well": Doc(DATA),
    "drops": Doc(DATA, drop_after=50_000),
    "drops at once, twice": Doc(DATA, drop_after=0, drops=2),
    "drops without validators": Doc(DATA, drop_after=50_000, etag="", modified=""),
    "drops with a weak ETag and a date": Doc(
        DATA, drop_after=50_000, etag='W/"1"', modified="Mon, 23 Nov 2026 00:00:00 GMT"
    ),
    "stalls": Doc(DATA, stall_after=100_000, stalls=1),
    "ignores ranges after a drop": Doc(DATA, drop_after=200_000, drops=1, ranges=False),
    "another range than asked": Doc(DATA, drop_after=200_000, drops=1, wrong_range=True),
    "429 with Retry-After": Doc(DATA, fail_status=429, fails=2, retry_after="0"),
    "503 thrice": Doc(DATA, fail_status=503, fails=3),
    "flips a bit once": Doc(DATA, flip_at=1000, flips=1),
    "gzip though nobody asked": Doc(DATA, encode=True),
    "gzip, dropped": Doc(DATA, encode=True, drop_after=90_000),
    "chunked": Doc(DATA, chunked=True),
    "chunked, dropped": Doc(DATA, chunked=True, drop_after=90_000),
    "no length": Doc(DATA, length=False),
    "no length, dropped": Doc(DATA, length=False, drop_after=90_000),
    "says more than it sends": Doc(DATA, lie_length=0, drop_after=299_999),
    "slow": Doc(DATA, pace=1_000_000),
    "a page first, then the file": Doc(DATA, page="<html><body>busy</body></html>", pages=0),
    "changes, and If-Range is not known": Doc(
        blob(300_000, 5), drop_after=100_000, change_to=DATA, drops=1, ignore_condition=True
    ),
    "changes meanwhile": Doc(blob(300_000, 5), drop_after=100_000, change_to=DATA, drops=1),
    "asks to confirm": Doc(DATA, confirm=DRIVE_CONFIRM.format(action="/f", id="x1")),
    "asks to confirm by a link": Doc(DATA, confirm=DRIVE_CONFIRM_OLD.format(action="/f", id="x1")),
    "asks to confirm and drops": Doc(
        DATA, confirm=DRIVE_CONFIRM.format(action="/f", id="x1"), drop_after=90_000
    ),
}


@pytest.mark.parametrize("how", SURVIVABLE)
def test_arrives_byte_exact(how: str, server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = replace(SURVIVABLE[how])
    file = SourceFile(path="a/f.bin", urls=(f"{server.url}/f",), bytes=len(DATA), sha256=sha256(DATA))
    outcome = get(tmp_path, file)
    assert outcome.missing == []
    assert (tmp_path / "a/f.bin").read_bytes() == DATA
    assert visible(tmp_path) == ["a/f.bin"]
    assert list((tmp_path / ".ffhqref/parts").iterdir()) == []
    asked = len(server.asked)
    again = get(tmp_path, file)
    assert (again.there, len(server.asked)) == (1, asked)


@pytest.mark.parametrize(
    "how", ["drops", "drops with a weak ETag and a date", "gzip, dropped", "chunked, dropped"]
)
def test_a_drop_costs_no_byte_twice(how: str, server: Server, tmp_path: Path) -> None:
    doc = server.docs["/f"] = replace(SURVIVABLE[how])
    get(tmp_path, SourceFile(path="f", urls=(f"{server.url}/f",), bytes=len(DATA), md5=md5(DATA)))
    whole = len(gzip.compress(DATA, mtime=0)) if doc.encode else len(DATA)
    assert server.total_sent == whole
    assert all(wanted for _, wanted in server.asked[1:])


# What cannot be had: said in one sentence, nothing under the final name.
REFUSED = {
    "404": (Doc(b"", fail_status=404), "no such file (status 404)", 1),
    "403": (Doc(b"", fail_status=403), "forbids it (status 403)", 1),
    "410": (Doc(b"", fail_status=410), "has it no more", 1),
    "500 for ever": (Doc(b"", fail_status=500), "answers 500", 4),
    "Retry-After beyond patience": (Doc(b"", fail_status=503, retry_after="86400"), "to wait 86400 s", 1),
    "quota page": (Doc(DATA, page=DRIVE_QUOTA), "quota for this file is used up", 1),
    "quota page as bytes": (
        Doc(DATA, page=DRIVE_QUOTA, page_type="application/octet-stream"),
        "quota for this file is used up",
        1,
    ),
    "too many users": (Doc(DATA, page=DRIVE_TOO_MANY), "too many users", 1),
    "automated queries": (Doc(DATA, fail_status=429, page=SORRY), "automated queries", 1),
    "quota page with 403": (Doc(DATA, fail_status=403, page=DRIVE_QUOTA), "quota", 1),
    "some page": (Doc(DATA, page="<html><title>Welcome\n here</title>"), "a web page ('Welcome here')", 1),
    "confirms for ever": (
        Doc(DATA, page=DRIVE_CONFIRM.format(action="/f", id="x")),
        "again and again to confirm",
        3,
    ),
    "confirms elsewhere": (
        Doc(DATA, page=DRIVE_CONFIRM.format(action="http://example.invalid/f", id="x")),
        "a web page",
        1,
    ),
    "flips a bit for ever": (Doc(DATA, flip_at=1000), "sent another file: its sha256", 2),
    "too long": (Doc(DATA + b"x", length=False), "sends more than the 300,000 bytes", 2),
    "says a shorter length": (Doc(DATA, lie_length=-1000), "has a file of 299,000 bytes", 2),
    "drops at once for ever": (Doc(DATA, drop_after=0), "broke the connection (before the end)", 4),
    "stalls at once for ever": (Doc(DATA, stall_after=0), "stopped answering", 4),
    "redirects in a circle": (Doc(b"", redirect="/f"), "redirects in a circle", 1),
    "redirects to a file": (Doc(b"", redirect="file:///etc/passwd"), "which is no web address", 1),
    "huge headers": (Doc(DATA, headers={"X-Huge": "x" * 70_000}), "broke the connection", 4),
    "too many headers": (Doc(DATA, many_headers=200), "broke the connection", 4),
    "a gzip bomb": (Doc(bytes(3_000_000), encode=True), "its gzip cannot be undone", 2),
}


@pytest.mark.parametrize("how", REFUSED)
def test_cannot_be_had(how: str, server: Server, tmp_path: Path) -> None:
    doc, words, asked = REFUSED[how]
    server.docs["/f"] = replace(doc)
    file = SourceFile(path="f.bin", urls=(f"{server.url}/f",), bytes=len(DATA), sha256=sha256(DATA))
    outcome = get(tmp_path, file, manners=replace(QUICK, timeout=0.2))
    assert words in reason(outcome)
    assert visible(tmp_path) == []
    assert server.asked_for("/f") == asked
    assert "f.bin" in (tmp_path / "missing.csv").read_text()
    server.docs["/f"] = Doc(DATA)  # the server is mended: the same command finishes it
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f.bin").read_bytes() == DATA
    assert not (tmp_path / "missing.csv").exists()


def test_https_is_not_left_for_http(server: Server) -> None:
    class Answer:
        headers = {"Location": "http://example.invalid/x"}

        def close(self) -> None:
            pass

    with pytest.raises(Refused, match="from https to http"):
        network._redirected("https://example.invalid/y", Answer())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "body", "ok"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\nrest", True),
        ("a.png", b'{"error": "try later"}', False),
        ("a.zip", b"PK\x03\x04 and more", True),
        ("a.zip", b"not a zip", False),
        ("a.csv", b"gt_image,ref_image\n", True),
    ],
)
def test_without_a_digest_the_first_bytes_decide(
    name: str, body: bytes, ok: bool, server: Server, tmp_path: Path
) -> None:
    server.docs["/f"] = Doc(body)
    outcome = get(tmp_path, SourceFile(path=name, urls=(f"{server.url}/f",)))
    assert (outcome.missing == []) is ok
    assert visible(tmp_path) == ([name] if ok else [])


def test_without_a_digest_what_came_first_is_held_to(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(b"first\n")
    file = SourceFile(path="f.txt", urls=(f"{server.url}/f",))
    assert get(tmp_path, file).missing == []
    server.docs["/f"] = Doc(b"other\n")
    (tmp_path / "f.txt").write_bytes(b"spoilt on disk\n")
    assert "not the file that was first downloaded" in reason(get(tmp_path, file))
    server.docs["/f"] = Doc(b"first\n")
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f.txt").read_bytes() == b"first\n"


def test_without_length_and_digest_nothing_is_believed(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(b"perhaps cut off", length=False)
    outcome = get(tmp_path, SourceFile(path="f.txt", urls=(f"{server.url}/f",)))
    assert "does not say how long" in reason(outcome)
    assert visible(tmp_path) == []


def test_gzip_without_a_digest_is_undone(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(b"gt_image,ref_image\n" * 100, encode=True)
    assert get(tmp_path, SourceFile(path="f.csv", urls=(f"{server.url}/f",))).missing == []
    assert (tmp_path / "f.csv").read_bytes() == b"gt_image,ref_image\n" * 100


def test_a_tgz_that_is_called_gzip_encoded_stays_packed(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(b"tar inside", mtime=0)
    server.docs["/f"] = Doc(packed, headers={"Content-Encoding": "gzip"})
    file = SourceFile(path="f.tgz", urls=(f"{server.url}/f",), bytes=len(packed), md5=md5(packed))
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f.tgz").read_bytes() == packed


def test_urls_in_turn_and_a_part_goes_on_elsewhere(server: Server, tmp_path: Path) -> None:
    server.docs["/dies"] = Doc(DATA, drop_after=200_000, gone_after=1, etag='"a"')
    server.docs["/gone"] = Doc(b"", fail_status=404)
    server.docs["/good"] = Doc(DATA, etag='"b"')
    urls = tuple(f"{server.url}/{name}" for name in ("gone", "dies", "good"))
    file = SourceFile(path="f", urls=urls, bytes=len(DATA), md5=md5(DATA))
    assert get(tmp_path, file).missing == []
    assert server.sent == {"/dies": 200_000, "/good": 100_000}


def test_resumes_behind_a_redirect_as_of_github(server: Server, tmp_path: Path) -> None:
    server.docs["/releases/f.zip"] = Doc(b"", redirect="/signed?token=1")
    server.docs["/signed"] = Doc(DATA, drop_after=120_000)
    file = SourceFile(path="f", urls=(f"{server.url}/releases/f.zip",), bytes=len(DATA))
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f").read_bytes() == DATA
    assert server.sent == {"/signed": len(DATA)}


def test_a_hugging_face_repository_and_its_token(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.docs["/datasets/me/ffhq/resolve/main/00001.png"] = Doc(b"pixels")
    file = SourceFile(path="images1024x1024/00000/00001.png", bytes=6, md5=md5(b"pixels"))
    assert get(tmp_path, file, mirrors=("hf://datasets/me/ffhq",)).missing == []


def test_one_failure_does_not_stop_the_rest(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(path.encode() * 1000) if path != "/7" else None
    files = [SourceFile(path=f"{number}.bin", urls=(f"{server.url}/{number}",)) for number in range(20)]
    outcome = get(tmp_path, *files)
    assert [path for path, _ in outcome.missing] == ["7.bin"]
    assert len(visible(tmp_path)) == 19
    server.asked.clear()
    server.docs["/7"] = Doc(b"late")
    assert get(tmp_path, *files).missing == []
    assert [path for path, _ in server.asked] == ["/7"]


def test_a_host_that_gives_nothing_is_left_alone(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(b"", page=DRIVE_QUOTA)
    files = [SourceFile(path=f"{n}.png", urls=(f"{server.url}/{n}",)) for n in range(100)]
    outcome = get(tmp_path, *files, jobs=2)
    assert len(outcome.missing) == 100
    assert len(server.asked) <= network.HOST_STRIKES + 2
    assert "is left alone for now" in outcome.missing[-1][1] + outcome.missing[50][1]


def test_retry_after_is_obeyed_by_all_threads(server: Server, tmp_path: Path) -> None:
    server.docs["/0"] = Doc(b"0" * 100, fail_status=429, fails=1, retry_after="1")
    server.make = lambda path: Doc(b"x" * 100, pace=2000)
    files = [SourceFile(path=str(number), urls=(f"{server.url}/{number}",)) for number in range(6)]
    assert get(tmp_path, *files, jobs=2).missing == []
    gaps = np.diff(sorted(server.times))
    assert gaps.max() > 0.8  # everyone waited


def test_retry_after_forms() -> None:
    assert retry_after("120") == 120
    assert 50 < retry_after(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert retry_after("") == retry_after("soon") == retry_after("-5") == 0


def test_connections_to_one_host_are_bounded(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(b"x" * 1000, pace=20_000)
    files = [SourceFile(path=str(number), urls=(f"{server.url}/{number}",)) for number in range(30)]
    assert get(tmp_path, *files, jobs=12, manners=replace(QUICK, per_host=2)).missing == []
    assert server.most_open <= 4  # two, and two whose last bytes the server has just handed over


def test_rate_is_kept(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(DATA[:150_000])
    files = [SourceFile(path=str(number), urls=(f"{server.url}/{number}",)) for number in range(4)]
    began = time.monotonic()
    assert get(tmp_path, *files, manners=replace(QUICK, rate=500_000)).missing == []
    assert 0.9 < time.monotonic() - began  # 600 kB, of which the first quarter of a second is free


def test_proxy_of_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def make(path: str) -> Doc:
        asked.append(path)
        return Doc(b"through the proxy")

    server.make = make
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert get(tmp_path, SourceFile(path="f", urls=("http://example.invalid/f",))).missing == []
    assert (tmp_path / "f").read_bytes() == b"through the proxy"
    assert asked == ["/f"]


def test_verify_mends_only_what_is_bad(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(blob(1000, int(path[1:])))
    files = [
        SourceFile(path=f"{n}", urls=(f"{server.url}/{n}",), bytes=1000, md5=md5(blob(1000, n)))
        for n in range(5)
    ]
    assert get(tmp_path, *files).missing == []
    stat = (tmp_path / "3").stat()
    (tmp_path / "3").write_bytes(bytes(1000))  # rots silently: same size, same time
    os.utime(tmp_path / "3", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    server.asked.clear()
    assert get(tmp_path, *files).there == 5
    assert server.asked == []
    assert get(tmp_path, *files, verify=True).missing == []
    assert [path for path, _ in server.asked] == ["/3"]
    assert (tmp_path / "3").read_bytes() == blob(1000, 3)


def test_a_right_file_costs_a_stat_and_not_a_read(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.docs["/f"] = Doc(DATA)
    file = SourceFile(path="f", urls=(f"{server.url}/f",), bytes=len(DATA), md5=md5(DATA))
    get(tmp_path, file)
    (tmp_path / "f").chmod(0o000)
    monkeypatch.setattr("ffhqref.download.ledger.Digests.read", lambda *_: pytest.fail("it was read"))
    assert get(tmp_path, file).there == 1


def test_files_that_came_by_other_means_are_taken_after_reading(server: Server, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(DATA)
    file = SourceFile(path="f", urls=(f"{server.url}/f",), bytes=len(DATA), md5=md5(DATA))
    assert get(tmp_path, file).missing == []
    assert server.asked == []
    (tmp_path / "f").write_bytes(DATA[:-1] + b"!")
    server.docs["/f"] = Doc(DATA)
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f").read_bytes() == DATA


def test_mirrors_nested_and_flat(server: Server, tmp_path: Path) -> None:
    disk, out = tmp_path / "disk", tmp_path / "out"
    (disk / "00000").mkdir(parents=True)
    (disk / "00000" / "00001.png").write_bytes(b"one")
    (disk / "00002.png").write_bytes(b"two")
    server.docs["/m/images1024x1024/00000/00003.png"] = Doc(b"three")
    server.docs["/m/00004.png"] = Doc(b"four")
    server.docs["/o/5"] = Doc(b"five")
    contents = [b"one", b"two", b"three", b"four", b"five"]
    files = [
        SourceFile(
            path=f"images1024x1024/00000/{number:05d}.png",
            urls=(f"{server.url}/o/{number}",),
            bytes=len(content),
            md5=md5(content),
        )
        for number, content in enumerate(contents, 1)
    ]
    outcome = get(out, *files, mirrors=(str(disk), f"{server.url}/m"), jobs=1)
    assert outcome.missing == []
    assert [(out / file.path).read_bytes() for file in files] == contents
    assert server.asked_for("/o/1") == server.asked_for("/o/4") == 0
    with pytest.raises(UserError, match="give a folder that exists"):
        get(out, *files, mirrors=(str(tmp_path / "nowhere"),))


def test_a_wrong_file_on_a_mirror_is_passed_over(server: Server, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "f").write_bytes(b"wrong")
    server.docs["/f"] = Doc(b"right")
    file = SourceFile(path="f", urls=(f"{server.url}/f",), bytes=5, md5=md5(b"right"))
    assert get(tmp_path / "out", file, mirrors=(str(disk),)).missing == []
    assert (tmp_path / "out/f").read_bytes() == b"right"
    assert (disk / "f").read_bytes() == b"wrong"


def test_pixels_vouch_for_a_re_encoded_picture(server: Server, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    original = images.encode(picture)
    stream = io.BytesIO()
    images.Image.fromarray(picture).save(stream, "PNG", compress_level=9, optimize=True)
    other = stream.getvalue()
    assert other != original
    server.docs["/f"] = Doc(other, drop_after=1000)
    known = dict(bytes=len(original), md5=md5(original), pixel_md5=md5(picture.tobytes()))
    file = SourceFile(path="f.png", urls=(f"{server.url}/f",), **known)  # type: ignore[arg-type]
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f.png").read_bytes() == other
    assert get(tmp_path, file).there == 1
    changed = picture.copy()
    changed[0, 0, 0] ^= 1
    server.docs["/f"] = Doc(images.encode(changed))
    assert "sent another file" in reason(get(tmp_path / "b", file))


def test_two_processes_do_not_harm_each_other(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(DATA, pace=300_000)
    file = SourceFile(path="f", urls=(f"{server.url}/f",), bytes=len(DATA), md5=md5(DATA))
    first = threading.Thread(target=get, args=(tmp_path, file))
    first.start()
    while not server.asked:
        time.sleep(0.01)
    with pytest.raises(UserError, match="is being written by"):
        get(tmp_path, file)
    first.join()
    assert (tmp_path / "f").read_bytes() == DATA


def test_free_space_is_checked_first(server: Server, tmp_path: Path) -> None:
    file = SourceFile(path="f", urls=(f"{server.url}/f",), bytes=10**18)
    with pytest.raises(UserError, match="free some"):
        get(tmp_path, file)
    assert server.asked == []


def test_a_full_disk_ends_the_run_and_keeps_the_part(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffhqref.download.transfer.SPARE", 1 << 60)
    server.docs["/f"] = Doc(DATA)
    monkeypatch.setattr(
        "ffhqref.download.transfer.Transfer._filled", staticmethod(lambda before, after: True)
    )
    with pytest.raises(UserError, match="is full"):
        get(tmp_path, SourceFile(path="f", urls=(f"{server.url}/f",), bytes=len(DATA)))
    assert visible(tmp_path) == []
    assert [path for path in (tmp_path / ".ffhqref/parts").iterdir() if path.stat().st_size]


def test_selection(server: Server, tmp_path: Path) -> None:
    server.make = lambda path: Doc(b"x")
    files = [SourceFile(path=f"a/{n:05d}.bin", urls=(f"{server.url}/{n}",)) for n in range(6)]
    (tmp_path / "gone.txt").write_text("00004.bin\n# a remark\n3  # asked to be removed\n")
    out = tmp_path / "out"
    get(out, *files, only=("0-1",))
    assert visible(out) == ["a/00000.bin", "a/00001.bin"]
    get(out, *files, only=("00004.bin", "a/00003*"), exclude=tmp_path / "gone.txt")
    assert visible(out) == ["a/00000.bin", "a/00001.bin", "a/00003.bin"]
    for bad in ("nothing*", "5-2"):
        with pytest.raises(UserError):
            get(out, *files, only=(bad,))


def test_a_manifest_may_not_write_elsewhere(tmp_path: Path) -> None:
    for path in ("../x", "/etc/x", "a/../../x", "", "c:x", "a\\b", ".ffhqref/downloads.jsonl", "a\nb"):
        toml = tmp_path / "m.toml"
        toml.write_text(f"[[file]]\npath = {json.dumps(path)}\nurls = ['http://127.0.0.1/x']\n")
        with pytest.raises(UserError, match="path"):
            load_source(str(toml))
    toml.write_text("[[file]]\npath = 'x'\nurls = ['file:///etc/passwd']\n")
    with pytest.raises(UserError, match="must start with http"):
        load_source(str(toml))


def test_shipped_sources_load_and_know_their_terms() -> None:
    names = "ffhq ffhq-thumbnails ffhq-metadata celebahq celeba-identities ffhq-ref refldm".split()
    names += "arcface-webface12m buffalo_l buffalo_s buffalo_sc antelopev2 fairface lfw".split()
    assert set(names) <= set(sources())
    for name in sources():
        source = load_source(name)
        assert source.licence and source.citation and source.files
        if "non-commercial" in source.licence:
            assert source.terms


def test_torn_ledger_line_costs_one_file(tmp_path: Path, server: Server) -> None:
    server.make = lambda path: Doc(path.encode())
    files = [SourceFile(path=str(n), urls=(f"{server.url}/{n}",)) for n in range(3)]
    get(tmp_path, *files)
    journal = tmp_path / ".ffhqref/downloads.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert len(Ledger(tmp_path).entries()) == 2
    server.asked.clear()
    assert get(tmp_path, *files).missing == []
    assert server.asked == []  # it is read and recorded again, not fetched
    assert len(Ledger(tmp_path).entries()) == 3


def test_stopping_is_prompt(server: Server, tmp_path: Path) -> None:
    with pytest.raises(network.Stopped):
        running = Network(QUICK)
        threading.Timer(0.1, running.stop.set).start()
        running.sleep(60)


def _manifest(tmp_path: Path, server: Server, contents: dict[str, bytes]) -> Path:
    lines = []
    for name, data in contents.items():
        server.docs[f"/{name}"] = Doc(data)
        lines.append(f'[[file]]\npath = "{name}"\nurls = ["{server.url}/{name}"]\n')
        lines.append(f'bytes = {len(data)}\nmd5 = "{md5(data)}"\n')
    path = tmp_path / "mine.toml"
    path.write_text("".join(lines))
    return path


def test_command(server: Server, tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, server, {f"{n}.bin": blob(1000, n) for n in range(4)})
    out, runner = tmp_path / "out", CliRunner()
    call = ["download", str(manifest), "--out", str(out)]
    plan = runner.invoke(app, [*call, "--dry-run"])
    assert plan.exit_code == 0 and "4.0 kB" in plan.output and not out.exists()
    server.docs["/2.bin"].fail_status = 404
    failed = runner.invoke(app, call)
    assert failed.exit_code == 1
    assert "2.bin" in failed.output and "404" in failed.output
    assert "1 of 4 files are missing" in failed.output and "same command" in failed.output
    server.docs["/2.bin"].fail_status = 0
    done = runner.invoke(app, [*call, "--rate", "10M"])
    assert (
        done.exit_code == 0 and "4 files are in" in done.output and "(3 were there, 1 fetched)" in done.output
    )
    for wrong in (["--rate", "fast"], ["--only", "zzz"], ["--exclude", str(tmp_path / "none")]):
        result = runner.invoke(app, [*call, *wrong])
        assert result.exit_code == 1 and result.output.startswith("Error: ")
    assert runner.invoke(app, ["download", "nothing-of-the-kind", "--out", str(out)]).exit_code == 1
    listed = runner.invoke(app, ["download"])
    assert listed.exit_code == 0 and all(name in listed.output for name in sources())


def test_terms_are_shown_and_accepted_once(server: Server, tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, server, {"a": b"a"})
    manifest.write_text('terms = "Be kind."\n' + manifest.read_text())
    call = ["download", str(manifest), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, call)
    assert refused.exit_code == 1 and "Be kind." in refused.output and "--accept-terms" in refused.output
    assert "Article 5(1)(e)" in refused.output
    assert server.asked == []
    assert CliRunner().invoke(app, [*call, "--accept-terms"]).exit_code == 0
    again = CliRunner().invoke(app, call)
    assert again.exit_code == 0 and "Be kind." not in again.output


def _kill_many_times(
    manifest: Path, out: Path, kills: int, most: float, seed: int
) -> subprocess.CompletedProcess[str]:
    """Start the command, kill it with SIGKILL at a random moment, `kills` times; then let it finish."""
    rng = random.Random(seed)
    command = [sys.executable, "-m", "ffhqref", "download", str(manifest), "--out", str(out), "--jobs", "4"]
    for _ in range(kills):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.3, most))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


def _check_after_kills(server: Server, out: Path, contents: dict[str, bytes]) -> float:
    """Every file is right; the share of the bytes that were fetched more than once."""
    for name, data in contents.items():
        assert (out / name).read_bytes() == data
    assert visible(out) == sorted(contents)
    return server.total_sent / sum(map(len, contents.values())) - 1


def test_killed_and_run_again(server: Server, tmp_path: Path) -> None:
    contents = {f"{n}.bin": blob(400_000, n) for n in range(25)}
    manifest = _manifest(tmp_path, server, contents)
    for doc in server.docs.values():
        doc.pace = 600_000
    done = _kill_many_times(manifest, tmp_path / "out", 3, 1.5, seed=1)
    assert done.returncode == 0, done.stderr
    assert _check_after_kills(server, tmp_path / "out", contents) < 0.05


@pytest.mark.slow
def test_killed_twenty_times_fetches_less_than_one_percent_twice(server: Server, tmp_path: Path) -> None:
    """Counted where it is sent: what a server still sends to a process that is just dying counts too."""
    contents = {f"{n:03d}.bin": blob(1_300_000, n) for n in range(200)}
    contents["one.zip"] = b"PK\x03\x04" + blob(60_000_000, 99)
    manifest = _manifest(tmp_path, server, contents)
    lines = manifest.read_text().splitlines()
    for number, line in enumerate(lines):  # of every other file only If-Range says whether a part may go on
        if line.startswith(("md5", "bytes")) and number // 4 % 2:
            lines[number] = ""
    manifest.write_text("\n".join(lines))
    for doc in server.docs.values():
        doc.pace = 1_500_000
    done = _kill_many_times(manifest, tmp_path / "out", 20, 3.0, seed=2)
    assert done.returncode == 0, done.stderr
    share = _check_after_kills(server, tmp_path / "out", contents)
    print(f"{share:.2%} of {sum(map(len, contents.values())) / 1e6:.0f} MB fetched twice")
    assert share < 0.01
