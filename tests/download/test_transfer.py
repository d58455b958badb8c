"""One file on its way: which bytes may be joined, when it is whole, what stands in its place."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import zlib
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from ffhqref.core.store import UserError
from ffhqref.download import transfer
from ffhqref.download.network import Manners
from ffhqref.download.parts import Part
from ffhqref.download.sources import Source, SourceFile
from ffhqref.download.stage import DownloadOptions, DownloadOutcome, download
from tests.download.servers import Doc, Server

QUICK = Manners(backoff=0.01, timeout=0.5, retries=4)
OLD, NEW = random.Random(1).randbytes(100_000), random.Random(2).randbytes(100_000)
MONDAY, FRIDAY = "Mon, 23 Nov 2026 00:00:00 GMT", "Fri, 27 Nov 2026 00:00:00 GMT"
TEXT = b"gt_image,ref_image\n" * 3000


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def get(out: Path, *files: SourceFile, **options: Any) -> DownloadOutcome:
    source = Source(name="mine", title="mine", files=files)
    return download([source], out, DownloadOptions(manners=QUICK, **options))


def first(**head: Any) -> Doc:
    return Doc(OLD, drop_after=40_000, **head)


VERSIONS = {  # two versions of one length, of a server that answers a range whatever If-Range says
    "another date": (first(etag="", modified=MONDAY), Doc(NEW, etag="", modified=FRIDAY)),
    "an ETag, then none": (first(etag='"1"', modified=MONDAY), Doc(NEW, etag="", modified=MONDAY)),
    "an ETag, then none and no date": (first(etag='"1"'), Doc(NEW, etag="")),
    "a date, then none": (first(etag="", modified=MONDAY), Doc(NEW, etag="")),
    "a weak ETag, then another": (first(etag='W/"1"', modified=MONDAY), Doc(NEW, etag='W/"2"')),
    "the ETag, but another date": (first(etag='"1"', modified=MONDAY), Doc(NEW, etag='"1"', modified=FRIDAY)),
}  # fmt: skip


@pytest.mark.parametrize("how", VERSIONS)
def test_two_versions_are_never_joined(how: str, server: Server, tmp_path: Path) -> None:
    before, after = VERSIONS[how]
    server.docs["/f"] = replace(before, then=replace(after, ignore_condition=True))
    assert get(tmp_path, SourceFile(path="f.bin", urls=(f"{server.url}/f",))).missing == []
    assert (tmp_path / "f.bin").read_bytes() == NEW


def test_a_part_of_a_file_of_unknown_length_is_not_taken_for_its_end(server: Server, tmp_path: Path) -> None:
    after = {"Content-Range": "bytes 40000-49999/*"}
    part = Doc(OLD[:50_000], etag='"1"', ignore_condition=True, headers=after)
    server.docs["/f"] = Doc(
        OLD, drop_after=40_000, etag='"1"', chunked=True, then=replace(part, chunked=True)
    )
    outcome = get(tmp_path, SourceFile(path="f.bin", urls=(f"{server.url}/f",)))
    assert outcome.missing or (tmp_path / "f.bin").read_bytes() == OLD[:50_000]  # a whole of its own, or none


def test_a_gzip_around_a_file_is_whole(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(TEXT, mtime=0)
    around = {"Content-Encoding": "gzip"}
    file = SourceFile(path="f.csv", urls=(f"{server.url}/f",))
    server.docs["/f"] = Doc(packed[:-9], headers=around)  # of that length, the server says
    ((_, reason),) = get(tmp_path, file).missing
    assert "cut short" in reason and not (tmp_path / "f.csv").exists()
    server.docs["/f"] = Doc(packed + gzip.compress(b"and more\n"), headers=around)
    assert get(tmp_path, file).missing == []
    assert (tmp_path / "f.csv").read_bytes() == TEXT + b"and more\n"


def test_members_of_gzip_as_the_library_reads_them() -> None:
    rng = random.Random(0)
    for _ in range(15):
        members = [rng.randbytes(rng.choice([0, 1, 1000, 300_000])) for _ in range(rng.randint(1, 4))]
        packed = b"".join(gzip.compress(member, mtime=0) for member in members)
        found = b"".join(transfer._gunzipped(BytesIO(packed), 1 << 30))
        assert found == gzip.decompress(packed) == b"".join(members)
        for bad in (packed[:-1], packed[: len(packed) // 2], packed + b"rest"):
            if bad not in (gzip.compress(members[0], mtime=0), b""):
                with pytest.raises(zlib.error):
                    list(transfer._gunzipped(BytesIO(bad), 1 << 30))


def test_a_folder_in_the_place_of_a_file_is_named(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    file, other = (SourceFile(path=f"a/{name}", urls=(f"{server.url}/f",)) for name in "fg")
    assert get(tmp_path, file, other).missing == []
    (tmp_path / "a/f").unlink()
    (tmp_path / "a/f/inside").mkdir(parents=True)
    server.asked.clear()
    ((path, reason),) = get(tmp_path, file, other).missing
    assert path == "a/f" and f"{tmp_path / 'a/f'} is a folder" in reason
    assert server.asked == []
    (tmp_path / "a/f/inside").rmdir()
    (tmp_path / "a/f").rmdir()
    assert get(tmp_path, file, other).missing == []


def test_a_file_in_the_place_of_a_folder_is_named(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    (tmp_path / "a").write_text("a file")
    ((_, reason),) = get(tmp_path, SourceFile(path="a/f", urls=(f"{server.url}/f",))).missing
    assert str(tmp_path / "a") in reason


def test_a_folder_or_a_link_in_the_place_of_a_part_file(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    file = SourceFile(path="f", urls=(f"{server.url}/f",))
    mine = tmp_path / "mine.txt"
    mine.write_text("kept")
    out = tmp_path / "out"
    place = Part(out, "f").path
    place.mkdir(parents=True)
    with pytest.raises(UserError, match="is not a file"):
        get(out, file)
    place.rmdir()
    place.symlink_to(mine)
    with pytest.raises(UserError, match="is not a file"):
        get(out, file)
    assert mine.read_text() == "kept"


def test_folders_that_are_called_like_parts_stay(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    place = tmp_path / ".0123456789abcdef.part"
    place.mkdir()
    assert get(tmp_path, SourceFile(path="f", urls=(f"{server.url}/f",))).missing == []
    assert place.is_dir()


@pytest.mark.parametrize(
    "note", ["[" * 100_000, '{"url": ' + "9" * 5000 + "}", '{"url": "x", "length": "9"}', "[]"]
)
def test_a_note_of_another_hand_starts_the_file_again(note: str, server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    part = Part(tmp_path, "f")
    part.path.parent.mkdir(parents=True)
    part.path.write_bytes(NEW[:1000])
    part.path.with_suffix(".json").write_text(note)
    assert get(tmp_path, SourceFile(path="f", urls=(f"{server.url}/f",))).missing == []
    assert (tmp_path / "f").read_bytes() == OLD


@pytest.mark.parametrize("call", ["pathlib.Path.write_text", "os.replace"])
def test_a_full_disk_ends_the_run_at_once(
    call: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.make = lambda path: Doc(OLD)
    files = [SourceFile(path=str(n), urls=(f"{server.url}/{n}",)) for n in range(100)]
    (tmp_path / ".ffhqref").mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(UserError, match=r"is full.*what is there is kept"):
            get(tmp_path, *files, jobs=2)
    assert len(server.asked) <= 4
    assert get(tmp_path, *files[:8]).missing == []


def test_a_clock_that_went_back_costs_no_download(server: Server, tmp_path: Path) -> None:
    server.docs["/f"] = Doc(OLD)
    file = SourceFile(path="f", urls=(f"{server.url}/f",))
    assert get(tmp_path, file).missing == []
    os.utime(tmp_path / "f", ns=(0, 0))
    assert get(tmp_path, file).there == 1 and len(server.asked) == 1
    (tmp_path / "f").write_bytes(NEW)
    os.utime(tmp_path / "f", ns=(0, 0))  # as long, and of the time that the ledger has: only reading tells
    assert get(tmp_path, file, verify=True).missing == [] and len(server.asked) == 2
    assert (tmp_path / "f").read_bytes() == OLD


def test_names_of_any_script_and_form(server: Server, tmp_path: Path) -> None:
    names = [
        "中文/größer.bin",
        "cafe\u0301.bin",
        "caf\u00e9.bin",
        "a b%20c#d?e&f.bin",
        "🙂.bin",
        "-x",
        "...bin",
    ]
    server.make = lambda path: Doc(path.encode())
    urls = [f"{server.url}/{number}" for number in range(len(names))]
    files = [SourceFile(path=name, urls=(url,)) for name, url in zip(names, urls, strict=True)]
    assert get(tmp_path / "out", *files).missing == []
    assert [(tmp_path / "out" / name).read_bytes() for name in names] == [
        b"/%d" % n for n in range(len(names))
    ]
    asked = len(server.asked)
    mirrored = get(tmp_path / "again", *files, mirrors=(str(tmp_path / "out"),))
    assert mirrored.missing == [] and len(server.asked) == asked
    with pytest.raises(ValueError, match="is not UTF-8"):
        SourceFile(path="\udce9.bin", urls=(f"{server.url}/x",))


def test_passwords_are_used_and_never_kept(server: Server, tmp_path: Path) -> None:
    address = server.url.replace("//", "//user:hush%21@")
    server.docs["/good"] = Doc(OLD, drop_after=30_000, drops=2)
    server.docs["/short.zip"] = Doc(b"PK\x03\x04 cut")
    files = [
        SourceFile(path="good", urls=(f"{address}/good?token=hush2",)),
        SourceFile(path="bad", urls=(f"{address}/bad", "http://user:hush3@127.0.0.1:1/x")),
        SourceFile(path="short.zip", urls=(f"{address}/short.zip",), unpack="."),
    ]
    outcome = get(tmp_path, *files, mirrors=(f"{address}/mirror",))
    assert {path for path, _ in outcome.missing} == {"bad", "short.zip"}
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    seen = b"".join([*kept, json.dumps(outcome.missing).encode()])
    assert b"hush" not in seen and b"user" not in seen
    assert "Basic dXNlcjpodXNoIQ==" in server.authorizations
