"""Archives from strangers: listed and judged before a byte is written, extracted so that a kill costs little.

A zip or tar is refused whole where a member would leave the folder, is a link or a device, stands twice,
or where it unpacks to more than it declares or than any honest archive of its size would.
"""

from __future__ import annotations

import fnmatch
import gzip
import hashlib
import json
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, cast

from ffhqref.core.store import PART_SUFFIX, below, digest, flush, write_text
from ffhqref.download.addresses import public
from ffhqref.download.ledger import BLOCK, Entry, Ledger, from_table
from ffhqref.download.sources import OWN_NAME, SourceFile, name_fault

MAX_RATIO = 100  # unpacked over packed bytes of a whole archive; deflate alone reaches 1,032
MAX_SLACK = 64 << 20  # bytes that any archive may unpack to
MAX_READ = 32 << 20  # bytes of a directory or header that are taken into memory at once
MAX_MEMBERS = 1_000_000
BATCH_FILES, BATCH_BYTES = 256, 256 << 20  # what is flushed together, before any of it gets its name
JUNK = ("__MACOSX/", ".DS_Store", "Thumbs.db")


class BadArchive(Exception):
    """An archive that is not opened; the text is the reason for people."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file of an archive: `name` inside it, `path` below the output folder."""

    name: str
    path: str
    bytes: int  # unpacked
    packed: int  # in the archive; 0 in a tar, whose members are not packed one by one


class _Bounded:
    """A file that refuses to give more at once than a header can honestly need; it closes nothing."""

    def __init__(self, inner: IO[bytes]) -> None:
        self._inner = inner
        self.seek, self.tell, self.seekable = inner.seek, inner.tell, inner.seekable

    def read(self, size: int = -1) -> bytes:
        if size > MAX_READ:
            raise BadArchive("it declares a header larger than memory should hold")
        data = self._inner.read(size if size >= 0 else MAX_READ + 1)
        if len(data) > MAX_READ:
            raise BadArchive("it declares a header larger than memory should hold")
        return data

    def close(self) -> None:
        pass


def list_members(archive: IO[bytes], size: int, file: SourceFile) -> list[Member]:
    """Every file the archive (of `size` bytes) would unpack to; BadArchive where one is dangerous."""
    if file.path.endswith(".zip"):
        with _zip(archive) as opened:
            found = list(_zip_members(opened, size))
    else:
        with _tar(archive) as opened_tar:
            found = list(_tar_members(opened_tar, size))
    members = [placed for one in found if (placed := _place(one, file))]
    paths = {member.path.casefold() for member in members}
    if len(paths) < len(members):
        raise BadArchive("two of its members would be one file")
    if not members:
        raise BadArchive("it holds none of the files that were expected")
    return members


@contextmanager
def _faults() -> Iterator[None]:
    """What the parsers raise on damaged or hostile bytes, as one exception."""
    try:
        yield
    except BadArchive:
        raise
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise BadArchive(f"it is damaged ({str(error)[:120]})") from None
    except (ValueError, OverflowError, RuntimeError, KeyError, IndexError) as error:
        raise BadArchive(f"it is damaged ({type(error).__name__})") from None


@contextmanager
def _zip(archive: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    with _faults(), zipfile.ZipFile(cast(IO[bytes], _Bounded(archive))) as opened:
        yield opened


@contextmanager
def _tar(archive: IO[bytes]) -> Iterator[tarfile.TarFile]:
    with _faults():
        start = archive.read(2)
        archive.seek(0)
        plain = cast(IO[bytes], gzip.GzipFile(fileobj=archive)) if start == b"\x1f\x8b" else archive
        with tarfile.open(fileobj=cast(IO[bytes], _Bounded(plain)), mode="r:", ignore_zeros=False) as opened:
            yield opened


def _zip_members(opened: zipfile.ZipFile, size: int) -> Iterator[Member]:
    total = packed = 0
    for number, info in enumerate(opened.infolist()):
        total, packed = total + info.file_size, packed + info.compress_size
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 1:
            raise BadArchive(f"its member {info.filename[:80]!r} is encrypted")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadArchive(f"its member {info.filename[:80]!r} is a link or a device")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BadArchive(f"its member {info.filename[:80]!r} is packed in an unusual way")
        if packed > size:
            raise BadArchive("its members overlap")
        _bound(number, total, size)
        if not info.is_dir():
            yield Member(name=info.filename, path="", bytes=info.file_size, packed=info.compress_size)


def _tar_members(opened: tarfile.TarFile, size: int) -> Iterator[Member]:
    total = 0
    for number, info in enumerate(_tar_headers(opened)):
        if not (info.isreg() or info.isdir()) or info.issparse():
            raise BadArchive(f"its member {info.name[:80]!r} is a link or a device")
        total += info.size if info.isreg() else 0
        _bound(number, total, size)
        if info.isreg():
            yield Member(name=info.name, path="", bytes=info.size, packed=0)


def _tar_headers(opened: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while info := opened.next():
        vars(opened)["members"] = []  # it would keep every header
        yield info


def _bound(number: int, total: int, size: int) -> None:
    if number >= MAX_MEMBERS:
        raise BadArchive(f"it has more than {MAX_MEMBERS:,} members")
    if total > MAX_RATIO * size + MAX_SLACK:
        raise BadArchive(f"it would unpack to {total:,} bytes from {size:,}: it is a bomb")


def _place(member: Member, file: SourceFile) -> Member | None:
    """The member with its path below the output, or None where the manifest does not want it."""
    name = member.name.removeprefix("./")
    if any(name.startswith(junk) or name.endswith(junk) for junk in JUNK):
        return None
    if reason := name_fault(name):
        raise BadArchive(f"its member {member.name[:80]!r} has an unsafe name: {reason}")
    if file.strip:
        name = name.removeprefix(file.strip.rstrip("/") + "/")
    if file.members and not any(fnmatch.fnmatchcase(name, glob) for glob in file.members):
        return None
    path = PurePosixPath(file.unpack, name).as_posix()
    if reason := name_fault(path):  # of the place, that of the name may be good
        raise BadArchive(f"its member {member.name[:80]!r} has an unsafe name: {reason}")
    if path.casefold() == file.path.casefold():
        raise BadArchive(f"its member {member.name[:80]!r} would replace the archive itself")
    return replace(member, path=path)


def _index_path(out: Path, file: SourceFile) -> Path:
    return out / OWN_NAME / "members" / f"{digest(file.path.encode())[:32]}.json"


def write_index(out: Path, file: SourceFile, members: Iterable[Member]) -> None:
    """Keep what an archive holds, so that its files can be checked when it is gone."""
    rows = [asdict(member) for member in members]
    write_text(_index_path(out, file), json.dumps({"archive": _described(file), "members": rows}))


def _described(file: SourceFile) -> dict[str, object]:
    """The archive's lines of the manifest as JSON has them, without passwords."""
    described: dict[str, object] = json.loads(json.dumps(asdict(file)))
    return {**described, "urls": [public(url) for url in file.urls]}


def read_index(out: Path, file: SourceFile) -> list[Member] | None:
    """What the archive holds, as it was listed under the same manifest; None where that is not known."""
    try:
        kept = json.loads(_index_path(out, file).read_text(encoding="utf-8"))
        if kept["archive"] != _described(file):
            return None
        members = [from_table(Member, row) for row in kept["members"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    known = [member for member in members if member is not None and not name_fault(member.path)]
    return known if len(known) == len(members) else None


class _Batch:
    """Extracted files that get their names together, after all of them were flushed."""

    def __init__(self, out: Path, ledger: Ledger) -> None:
        self._out = out
        self._ledger = ledger
        self._waiting: list[tuple[Path, Entry]] = []
        self._bytes = 0

    def add(self, part: Path, entry: Entry) -> None:
        self._waiting.append((part, entry))
        self._bytes += entry.bytes
        if len(self._waiting) >= BATCH_FILES or self._bytes >= BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        for part, _ in self._waiting:
            with part.open("rb+") as file:
                os.fsync(file.fileno())
        for part, entry in self._waiting:
            os.replace(part, below(self._out, entry.path))
        for folder in {part.parent for part, _ in self._waiting}:
            flush(folder)
        for _, entry in self._waiting:
            final = below(self._out, entry.path).stat()
            self._ledger.add(replace(entry, mtime_ns=final.st_mtime_ns))
        self._waiting, self._bytes = [], 0


def extract(
    archive: IO[bytes],
    file: SourceFile,
    wanted: Iterable[Member],
    out: Path,
    ledger: Ledger,
    *,
    pinned: bool,
    tell: Callable[[int], None],
) -> None:
    """Write the wanted members below `out` and into the ledger; BadArchive where one is not as declared.

    `pinned` holds each member to the digest it had before, for archives nothing else vouches for.
    """
    by_name = {member.name: member for member in wanted}
    batch = _Batch(out, ledger)
    streams = _zip_streams if file.path.endswith(".zip") else _tar_streams
    try:
        with _faults():
            for member, stream in streams(archive, by_name):
                part, entry = _write_member(out, member, stream, file.path)
                before = ledger.get(member.path)
                if pinned and before and before.sha256 and before.sha256 != entry.sha256:
                    part.unlink()
                    raise BadArchive(f"its member {member.name!r} is not the one that was downloaded first")
                batch.add(part, entry)
                tell(member.bytes)
    except (BadArchive, OSError):
        with suppress(OSError):  # of a full disk: renaming may work where writing does not
            batch.flush()  # those before it are as they should be
        raise
    batch.flush()


def _zip_streams(archive: IO[bytes], wanted: dict[str, Member]) -> Iterator[tuple[Member, IO[bytes]]]:
    with _zip(archive) as opened:
        for info in opened.infolist():
            if info.filename in wanted and not info.is_dir():
                with opened.open(info) as stream:
                    yield wanted[info.filename], stream


def _tar_streams(archive: IO[bytes], wanted: dict[str, Member]) -> Iterator[tuple[Member, IO[bytes]]]:
    with _tar(archive) as opened:
        for info in _tar_headers(opened):
            if info.name in wanted and info.isreg() and (stream := opened.extractfile(info)):
                yield wanted[info.name], stream


def _write_member(out: Path, member: Member, stream: IO[bytes], archive: str) -> tuple[Path, Entry]:
    final = below(out, member.path)
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.parent / f".{digest(os.fsencode(final.name))[:16]}{PART_SUFFIX}"
    checksum, size = hashlib.sha256(), 0
    try:
        with part.open("wb") as sink:
            while piece := stream.read(BLOCK):
                size += len(piece)
                if size > member.bytes:
                    break
                checksum.update(piece)
                sink.write(piece)
        if size != member.bytes:
            raise BadArchive(f"its member {member.name[:80]!r} is not as long as it declares")
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    entry = Entry(path=member.path, bytes=size, mtime_ns=0, sha256=checksum.hexdigest(), origin=archive)
    return part, entry
