"""Archives from strangers, opened from disk and, by ranges, from a server."""

from __future__ import annotations

import errno
import io
import random
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ffhqref.core.store import UserError
from ffhqref.download import archives
from ffhqref.download.network import Manners
from ffhqref.download.sources import Source, SourceFile, load_source
from ffhqref.download.stage import DownloadOptions, DownloadOutcome, download
from tests.download.servers import DRIVE_CONFIRM, Doc, Server

QUICK = Manners(backoff=0.01, timeout=1, retries=3)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def make_zip(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def make_tar(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def blob(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


RELEASE = {
    "FFHQ-Ref/reference_mapping/train_references.csv": b"gt_image,ref_image\n" * 50,
    "FFHQ-Ref/reference_mapping/val_references.csv": b"gt_image,lq_image,ref_image\n" * 9,
    "FFHQ-Ref/reference_mapping/test_references.csv": b"gt_image,lq_image,ref_image\n" * 8,
    **{f"FFHQ-Ref/id_based_ffhq_split/{s}_image.txt": s.encode() * 9 for s in ("train", "val", "test")},
    **{f"FFHQ-Ref/test_images/severe_degrad/{n:05d}.png": blob(40_000, n) for n in range(40)},
    "__MACOSX/FFHQ-Ref/._x": b"junk",
}
GROUPS = {"lists": ("reference_mapping/*.csv", "id_based_ffhq_split/*.txt")}


def get(out: Path, file: SourceFile, manners: Manners = QUICK, **options: Any) -> DownloadOutcome:
    source = Source(name="mine", title="mine", files=(file,), groups=GROUPS)
    return download([source], out, DownloadOptions(manners=manners, **options))


def unpacked(out: Path) -> dict[str, bytes]:
    found = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    keep = {k: v for k, v in found.items() if not k.startswith((".ffhqref", "a.")) and k != "missing.csv"}
    return keep


def archive_file(server: Server, data: bytes, name: str = "a.zip", **more: Any) -> SourceFile:
    server.docs.setdefault(f"/{name}", Doc(data))
    return SourceFile(path=name, urls=(f"{server.url}/{name}",), unpack=".", strip="FFHQ-Ref", **more)


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar"])
def test_whole_archive(name: str, server: Server, tmp_path: Path) -> None:
    data = make_zip(RELEASE) if name == "a.zip" else make_tar(RELEASE, "w:gz" if name == "a.tgz" else "w")
    file = archive_file(server, data, name, bytes=len(data))
    assert get(tmp_path, file).missing == []
    expected = {k.removeprefix("FFHQ-Ref/"): v for k, v in RELEASE.items() if "MACOSX" not in k}
    assert unpacked(tmp_path) == expected
    server.asked.clear()
    assert get(tmp_path, file).there == 1
    spoilt = tmp_path / "test_images/severe_degrad/00003.png"
    spoilt.write_bytes(b"spoilt")
    assert get(tmp_path, file).missing == []
    assert unpacked(tmp_path) == expected
    assert server.asked == []  # mended from the archive on disk


def test_lists_come_by_ranges_without_the_rest(server: Server, tmp_path: Path) -> None:
    data = make_zip(RELEASE, zipfile.ZIP_STORED)
    file = archive_file(server, data, bytes=len(data))
    assert get(tmp_path, file, only=("lists",)).missing == []
    lists = {k.removeprefix("FFHQ-Ref/"): v for k, v in RELEASE.items() if "_references" in k or ".txt" in k}
    assert len(lists) == 6
    assert unpacked(tmp_path) == lists
    assert not (tmp_path / "a.zip").exists()
    assert server.total_sent < len(data) / 4
    server.asked.clear()
    assert get(tmp_path, file, only=("lists",)).there == 1
    assert server.asked == []
    (tmp_path / "id_based_ffhq_split/val_image.txt").unlink()
    assert get(tmp_path, file, only=("lists",)).missing == []
    assert unpacked(tmp_path) == lists
    assert get(tmp_path, file).missing == []  # now all of it
    assert len(unpacked(tmp_path)) == 46


@pytest.mark.parametrize("how", ["no ranges", "drops", "confirms", "changes"])
def test_ranges_that_fail(how: str, server: Server, tmp_path: Path) -> None:
    data = make_zip(RELEASE, zipfile.ZIP_STORED)
    kinds = {
        "no ranges": dict(ranges=False),
        "drops": dict(drop_after=20_000, drops=3),
        "confirms": dict(confirm=DRIVE_CONFIRM.format(action="/a.zip", id="x")),
        "changes": dict(change_to=make_zip({**RELEASE, "FFHQ-Ref/new.txt": b"x"}, zipfile.ZIP_STORED)),
    }
    server.docs["/a.zip"] = Doc(data, **kinds[how])  # type: ignore[arg-type]
    file = archive_file(server, data)
    assert get(tmp_path, file, only=("lists",), manners=replace(QUICK, retries=8)).missing == []
    got = unpacked(tmp_path)
    assert len(got) == 6
    assert all(got[name] == RELEASE[f"FFHQ-Ref/{name}"] for name in got)


@pytest.mark.parametrize(
    ("name", "members", "expected"),
    [
        (
            "celebahq",
            {
                "CelebAMask-HQ/CelebA-HQ-img/0.jpg": b"\xff\xd8\xff",
                "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt": b"idx orig_idx orig_file\n",
                "CelebAMask-HQ/CelebAMask-HQ-mask-anno/0/00000_hair.png": b"mask",
            },
            {"CelebA-HQ-img/0.jpg", "CelebA-HQ-to-CelebA-mapping.txt"},
        ),
        ("buffalo_l", {"det_10g.onnx": b"a", "w600k_r50.onnx": b"b"}, {"det_10g.onnx", "w600k_r50.onnx"}),
        ("antelopev2", {"antelopev2/glintr100.onnx": b"a"}, {"glintr100.onnx"}),
    ],
)
def test_shipped_archives_unpack_as_their_users_expect(
    name: str, members: dict[str, bytes], expected: set[str], server: Server, tmp_path: Path
) -> None:
    source = load_source(name)
    (file,) = source.files
    server.docs["/archive"] = Doc(make_zip(members))
    local = replace(source, files=(replace(file, urls=(f"{server.url}/archive",)),))
    assert download([local], tmp_path, DownloadOptions(manners=QUICK)).missing == []
    found = {path for path in unpacked(tmp_path) if path != file.path}
    prefix = "" if file.unpack == "." else f"{file.unpack}/"
    assert found == {prefix + path for path in expected}


def test_a_deleted_archive_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    data = make_zip(RELEASE)
    file = archive_file(server, data)
    get(tmp_path, file)
    (tmp_path / "a.zip").unlink()
    server.asked.clear()
    assert get(tmp_path, file).there == 1
    assert get(tmp_path, file, verify=True).missing == []
    assert server.asked == []
    (tmp_path / "test_images/severe_degrad/00003.png").unlink()
    sent = server.total_sent
    assert get(tmp_path, file).missing == []
    assert server.total_sent - sent < len(data) / 4  # one picture, by ranges
    assert len(unpacked(tmp_path)) == 46


def test_extraction_goes_on_where_it_was_killed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "BATCH_FILES", 5)
    written: list[str] = []
    plain = archives._write_member

    def counted(out: Path, member: archives.Member, *rest: Any) -> Any:
        written.append(member.path)
        if len(written) == 23:
            raise KeyboardInterrupt
        return plain(out, member, *rest)

    monkeypatch.setattr(archives, "_write_member", counted)
    file = archive_file(server, make_zip(RELEASE))
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, file)
    assert len(unpacked(tmp_path)) == 22  # 20 that were named, 2 with names of parts
    assert get(tmp_path, file).missing == []
    assert len(written) == 23 + 26
    assert len(unpacked(tmp_path)) == 46


def _link() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


def _tar_link(kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    return stream.getvalue()


def _lying_zip() -> bytes:
    """A member that declares 10 bytes unpacked and has 100,000."""
    data = bytearray(make_zip({"x.txt": bytes(100_000)}))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    data[22:26] = struct.pack("<I", 10)
    return bytes(data)


def _overlapping() -> bytes:
    """A directory in which 500 entries point at one member."""
    one = make_zip({"x000.bin": blob(50_000, 1)}, zipfile.ZIP_STORED)
    at, end = one.rfind(b"PK\x01\x02"), one.rfind(b"PK\x05\x06")
    entry = one[at:end]
    many = b"".join(entry.replace(b"x000", b"x%03d" % number) for number in range(500))
    tail = bytearray(one[end:])
    tail[8:12] = struct.pack("<HH", 500, 500)
    tail[12:16] = struct.pack("<I", len(many))
    return one[:at] + many + bytes(tail)


def _pax_bomb() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 200 << 20
        archive.fileobj.write(info.tobuf())  # type: ignore[union-attr]
        for _ in range(200):
            archive.fileobj.write(bytes(1 << 20))  # type: ignore[union-attr]
    return stream.getvalue()


HOSTILE = {
    "out of the folder": ("a.zip", lambda: make_zip({"../evil": b"x"}), "unsafe name"),
    "deep out of the folder": ("a.zip", lambda: make_zip({"a/../../evil": b"x"}), "unsafe name"),
    "absolute": ("a.zip", lambda: make_zip({"/tmp/evil": b"x"}), "unsafe name"),
    "drive": ("a.zip", lambda: make_zip({"C:/evil": b"x"}), "unsafe name"),
    "our own folder": ("a.zip", lambda: make_zip({".ffhqref/downloads.jsonl": b"x"}), "unsafe name"),
    "the list of what is missing": ("a.zip", lambda: make_zip({"FFHQ-Ref/missing.csv": b"x"}), "unsafe name"),
    "a part file's name": ("a.zip", lambda: make_zip({"x/.0123456789abcdef.part": b"x"}), "unsafe name"),
    "its archive": ("a.zip", lambda: make_zip({"FFHQ-Ref/A.zip": b"x"}), "replace the archive itself"),
    "its archive, in a tar": ("a.tgz", lambda: make_tar({"a.tgz": b"x"}), "replace the archive itself"),
    "link": ("a.zip", _link, "a link or a device"),
    "one file twice": ("a.zip", lambda: make_zip({"a.txt": b"x", "A.TXT": b"y"}), "would be one file"),
    "bomb": ("a.zip", lambda: make_zip({"x": bytes(90_000_000)}), "it is a bomb"),
    "longer than declared": ("a.zip", _lying_zip, "damaged"),
    "overlapping": ("a.zip", _overlapping, "overlap"),
    "cut off": ("a.zip", lambda: make_zip(RELEASE)[:-30], "damaged"),
    "empty": ("a.zip", lambda: make_zip({}), "none of the files"),
    "unusual packing": ("a.zip", lambda: make_zip({"x": b"x"}, zipfile.ZIP_LZMA), "unusual way"),
    "tar out of the folder": ("a.tgz", lambda: make_tar({"../evil": b"x"}), "unsafe name"),
    "tar absolute": ("a.tgz", lambda: make_tar({"/tmp/evil": b"x"}), "unsafe name"),
    "tar link": ("a.tgz", lambda: _tar_link(tarfile.SYMTYPE), "a link or a device"),
    "tar hard link": ("a.tgz", lambda: _tar_link(tarfile.LNKTYPE), "a link or a device"),
    "tar device": ("a.tgz", lambda: _tar_link(tarfile.CHRTYPE), "a link or a device"),
    "tar bomb": ("a.tgz", lambda: make_tar({"x": bytes(90_000_000)}), "it is a bomb"),
    "tar header bomb": ("a.tgz", _pax_bomb, "header larger than memory"),
    "tar cut off": ("a.tgz", lambda: make_tar({"x": blob(90_000, 1)})[:-20_000], "damaged"),
    "no tar": ("a.tgz", lambda: b"\x1f\x8b" + blob(500, 2), "damaged"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile(how: str, server: Server, tmp_path: Path) -> None:
    name, make, words = HOSTILE[how]
    out = tmp_path / "deep" / "out"
    outcome = get(out, archive_file(server, make(), name))
    assert len(outcome.missing) == 1
    assert words in outcome.missing[0][1]
    assert unpacked(out) == {}
    assert not (out / name).exists()  # nothing vouches for it: it is not kept as if it were right
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["out"]


def test_a_changed_bit_inside_is_found(server: Server, tmp_path: Path) -> None:
    data = bytearray(make_zip(RELEASE, zipfile.ZIP_STORED))
    data[data.find(RELEASE["FFHQ-Ref/test_images/severe_degrad/00007.png"]) + 99] ^= 1
    outcome = get(tmp_path, archive_file(server, bytes(data)))
    assert "damaged" in outcome.missing[0][1]
    assert "test_images/severe_degrad/00007.png" not in unpacked(tmp_path)


def test_what_is_known_of_an_archive_is_not_believed_blindly(server: Server, tmp_path: Path) -> None:
    file = archive_file(server, make_zip(RELEASE))
    assert get(tmp_path, file).missing == []
    (index,) = (tmp_path / ".ffhqref/members").iterdir()
    right = index.read_text()
    assert archives.read_index(tmp_path, file) is not None
    leaves = right.replace('"path": "', '"path": "../../')
    for text in (
        "[" * 100_000,
        right.replace('"bytes": 36', '"bytes": "36"'),
        leaves,
        "null",
        '{"archive": 1}',
    ):
        index.write_text(text)
        assert archives.read_index(tmp_path, file) is None
    assert get(tmp_path, file).missing == []


def test_an_archive_does_not_replace_another_file(server: Server, tmp_path: Path) -> None:
    server.docs["/lists.txt"] = Doc(b"the list")
    zipped = archive_file(server, make_zip({"lists.txt": b"another"}))
    listed = SourceFile(path="lists.txt", urls=(f"{server.url}/lists.txt",))
    source = Source(name="mine", title="mine", files=(listed, zipped))
    ((path, reason),) = download([source], tmp_path, DownloadOptions(manners=QUICK)).missing
    assert path == "a.zip" and "another file of the download" in reason
    assert (tmp_path / "lists.txt").read_bytes() == b"the list"


def test_a_folder_in_the_place_of_a_member_is_named(server: Server, tmp_path: Path) -> None:
    file = archive_file(server, make_zip(RELEASE))
    assert get(tmp_path, file).missing == []
    place = tmp_path / "id_based_ffhq_split/val_image.txt"
    place.unlink()
    place.mkdir()
    ((_, reason),) = get(tmp_path, file).missing
    assert f"{place} is a folder" in reason
    assert (tmp_path / "a.zip").is_file()
    place.rmdir()
    assert get(tmp_path, file).missing == []


def test_a_disk_that_fills_while_it_unpacks(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = archive_file(server, make_zip(RELEASE))
    plain, left = archives._write_member, [20]

    def filling(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(archives, "_write_member", filling)
        with pytest.raises(UserError, match="is full"):
            get(tmp_path, file)
    assert len(unpacked(tmp_path)) == 20  # what came before has its name
    server.asked.clear()
    assert get(tmp_path, file).missing == []
    assert server.asked == [] and len(unpacked(tmp_path)) == 46
