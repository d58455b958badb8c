"""FFHQ's metadata JSON as a list of files, and the download of FFHQ through it."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ffhqref.core import images, stream, tables
from ffhqref.core.store import UserError
from ffhqref.download import metadata
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile
from ffhqref.download.stage import DownloadOptions, DownloadOutcome, download, preview
from tests.download.servers import DRIVE_QUOTA, Doc, Server

QUICK = Manners(backoff=0.01, timeout=1, retries=3)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def entry(number: int, picture: bytes, pixels: str, url: str) -> dict[str, Any]:
    """One entry in the published form."""
    folder = f"{number // 1000:02d}000"
    file = {
        "file_url": f"{url}/image/{number}",
        "file_path": f"images1024x1024/{folder}/{number:05d}.png",
        "file_size": len(picture),
        "file_md5": hashlib.md5(picture).hexdigest(),
        "pixel_size": [8, 8],
        "pixel_md5": pixels,
        "face_landmarks": [[131.62, 453.8 + number % 7]] * 68,
    }
    about = {
        "photo_url": "https://www.flickr.com/photos/x/1/",
        "photo_title": 'Ein "Titel", größer 中',
        "author": f"author {number}",
        "country": "",
        "license": "Attribution-NonCommercial License",
        "license_url": "https://creativecommons.org/licenses/by-nc/2.0/",
        "date_uploaded": "2007-08-16",
        "date_crawled": "2018-10-10",
    }
    small = {**file, "file_url": f"{url}/thumb/{number}", "file_path": f"thumbnails128x128/{number:05d}.png"}
    return {
        "category": "training" if number < 60000 else "validation",
        "metadata": about,
        "image": file,
        "thumbnail": small,
        "in_the_wild": {**file, "face_rect": [1, 2, 3, 4], "face_quad": [[0.5, 0.5]] * 4},
    }


def picture(number: int) -> tuple[bytes, str]:
    pixels = np.full((8, 8, 3), number % 256, np.uint8)
    return images.encode(pixels), hashlib.md5(pixels.tobytes()).hexdigest()


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("window", [50, 5000, 1 << 22])
def test_entries_are_those_of_json(indent: int | None, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "BUFFER", window)
    whole = {str(n): {"a": [n, 1.5, None], "b": '}{",: \\ 中' * (n % 5), "c": {"d": {}}} for n in range(200)}
    for ascii_only in (True, False):
        text = json.dumps(whole, indent=indent, ensure_ascii=ascii_only)
        assert dict(stream.entries(io.StringIO(text))) == whole
    assert list(stream.entries(io.StringIO(" { } "))) == []


@pytest.mark.parametrize("text", ["", "[1]", '{"a": {"b": 1}', '{"a" 1}', "{1: 2}", '{"a": {]}', "<html>"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        list(stream.entries(io.StringIO(text)))


def ffhq(server: Server, count: int, out: Path, **options: Any) -> DownloadOutcome:
    return download([source(server, count)], out, DownloadOptions(manners=QUICK, **options))


def source(server: Server, count: int) -> Source:
    table = {}
    for number in range(count):
        data, pixels = picture(number)
        table[str(number)] = entry(number, data, pixels, server.url)
        server.docs.setdefault(f"/image/{number}", Doc(data))
    text = json.dumps(table).encode()
    server.docs["/json"] = Doc(text)
    file = SourceFile(
        path="ffhq-dataset-v2.json",
        urls=(f"{server.url}/json",),
        bytes=len(text),
        md5=hashlib.md5(text).hexdigest(),
    )
    return Source(name="ffhq", title="FFHQ", files=(file,), listing="image", listed_files=count)


def test_ffhq_through_its_metadata(server: Server, tmp_path: Path) -> None:
    assert preview([source(server, 12)], tmp_path / "out", DownloadOptions()).wanted == 13
    assert not (tmp_path / "out").exists()
    outcome = ffhq(server, 12, tmp_path, only=("0-4", "00007.png"))
    assert (outcome.missing, outcome.wanted) == ([], 7)
    for number in (0, 1, 2, 3, 4, 7):
        path = tmp_path / f"images1024x1024/00000/{number:05d}.png"
        assert path.read_bytes() == picture(number)[0]
    assert len(list(tmp_path.glob("images1024x1024/*/*.png"))) == 6
    table = tables.read(tmp_path / "attribution.parquet", tables.ATTRIBUTION).to_pylist()
    assert len(table) == 12
    assert table[3] == {
        "image": "images1024x1024/00000/00003.png",
        "author": "author 3",
        "photo_title": 'Ein "Titel", größer 中',
        "photo_url": "https://www.flickr.com/photos/x/1/",
        "country": "",
        "license": "Attribution-NonCommercial License",
        "license_url": "https://creativecommons.org/licenses/by-nc/2.0/",
        "date_uploaded": "2007-08-16",
        "date_crawled": "2018-10-10",
        "category": "training",
    }
    asked = len(server.asked)
    assert ffhq(server, 12, tmp_path, only=("0-4",)).there == 6
    assert len(server.asked) == asked


def test_excluded_images_are_neither_fetched_nor_credited(server: Server, tmp_path: Path) -> None:
    gone = tmp_path / "gone.txt"
    gone.write_text("00002\nimages1024x1024/00000/00005.png\n")
    out = tmp_path / "out"
    outcome = ffhq(server, 8, out, exclude=gone)
    assert outcome.missing == [] and outcome.excluded_on_disk == 0
    there = {path.stem for path in out.glob("images1024x1024/*/*.png")}
    assert there == {"00000", "00001", "00003", "00004", "00006", "00007"}
    named = tables.read(out / "attribution.parquet", tables.ATTRIBUTION).column("image").to_pylist()
    assert {Path(name).stem for name in named} == there
    gone.write_text("00000\n00002\n00005")
    assert ffhq(server, 8, out, exclude=gone).excluded_on_disk == 1


def test_names_that_exclude_nobody_are_said(server: Server, tmp_path: Path) -> None:
    gone = tmp_path / "gone.txt"
    gone.write_text("00002.jpg\n./00003\n00001\n# a remark\n")
    outcome = ffhq(server, 5, tmp_path / "out", exclude=gone, only=("0-1",))
    (note,) = outcome.notes
    assert "2 names of" in note and note.endswith("fit no file: ./00003, 00002.jpg")


def test_the_sources_own_list_of_removed_images_holds(server: Server, tmp_path: Path) -> None:
    removed = replace(source(server, 5), exclude=("00002", "00004"), exclude_date="2026-11-27")
    outcome = download([removed], tmp_path, DownloadOptions(manners=QUICK))
    assert {path.stem for path in tmp_path.glob("images1024x1024/*/*.png")} == {"00000", "00001", "00003"}
    assert tables.read(tmp_path / "attribution.parquet", tables.ATTRIBUTION).num_rows == 3
    assert outcome.notes == ["ffhq: 2 images are left out because people asked for it (as of 2026-11-27)"]


@pytest.mark.parametrize(
    "spoil", ["brackets", "digits", "surrogate", "huge", "fraction", "attribution", "no path"]
)
def test_metadata_of_another_hand_is_one_sentence(spoil: str, server: Server, tmp_path: Path) -> None:
    bad = entry(0, b"x", "", "http://127.0.0.1:1")
    match spoil:
        case "surrogate":
            bad["metadata"]["author"] = "\ud800"
        case "huge":
            bad["image"]["file_size"] = 10**30
        case "fraction":
            bad["image"]["file_size"] = 1.5
        case "attribution":
            bad["image"]["file_path"] = "attribution.parquet"
        case "no path":
            bad["image"]["file_path"] = ["x"]
    text = json.dumps({"0": bad})
    if spoil in ("brackets", "digits"):
        text = text.replace('"author 0"', "[" * 100_000 if spoil == "brackets" else "9" * 5000)
    path = tmp_path / "ffhq-dataset-v2.json"
    path.write_text(text)
    with pytest.raises(UserError, match="is not FFHQ's metadata"):
        metadata.list_files(tmp_path, path, "0" * 64, "image", lambda name: False)


def test_quota_pages_among_the_images(server: Server, tmp_path: Path) -> None:
    for number in (3, 6):
        server.docs[f"/image/{number}"] = Doc(picture(number)[0], page=DRIVE_QUOTA)
    outcome = ffhq(server, 9, tmp_path)
    assert [Path(path).stem for path, _ in outcome.missing] == ["00003", "00006"]
    assert "24 hours, or give --mirror" in outcome.missing[0][1]
    assert len(list(tmp_path.glob("images1024x1024/*/*.png"))) == 7
    for number in (3, 6):
        server.docs[f"/image/{number}"].page = ""
    assert ffhq(server, 9, tmp_path).missing == []


def test_metadata_that_is_not_ffhqs(server: Server, tmp_path: Path) -> None:
    bad = entry(0, b"x", "", "http://127.0.0.1:1")
    bad["image"]["file_path"] = "../../evil.png"
    for text in (json.dumps({"0": bad}), json.dumps({"0": {"image": 3}}), "[]"):
        path = tmp_path / "ffhq-dataset-v2.json"
        path.write_text(text)
        with pytest.raises(UserError, match="is not FFHQ's metadata"):
            metadata.list_files(tmp_path, path, "0" * 64, "image", lambda name: False)
        assert not (tmp_path / "attribution.parquet").exists()


@pytest.mark.slow
def test_memory_and_time_of_the_whole_metadata(tmp_path: Path) -> None:
    """70,000 entries, 268 MB: parsed in bounded memory; json.load of it needs gigabytes."""
    path = tmp_path / "ffhq-dataset-v2.json"
    digest = "0" * 32
    with path.open("w") as file:
        for number in range(70_000):
            one = entry(number, b"", digest, "https://drive.google.com/uc?id=x")
            one["filler"] = "x" * 900
            file.write(("{" if number == 0 else ", ") + f'"{number}": ' + json.dumps(one))
        file.write("}")
    assert path.stat().st_size > 250e6
    program = (
        "import resource, sys; from pathlib import Path; from ffhqref.download import metadata\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "out = Path(sys.argv[1])\n"
        "path = out / 'ffhq-dataset-v2.json'\n"
        "files = metadata.list_files(out, path, '0' * 64, 'image', lambda name: False)\n"
        "print(len(files), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    count, kilobytes = map(int, done.stdout.split())
    print(f"{time.monotonic() - began:.1f} s, {kilobytes / 1e3:.0f} MB more memory")
    assert count == 70_000
    assert kilobytes < 400_000
