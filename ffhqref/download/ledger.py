"""What `download` knows of the files in a folder: their digests, and the stat they were read at.

The ledger is a journal of JSON lines that is only appended to (a line a finished file, so that a kill
costs at most one line) and rewritten whole, atomically, when it has grown. It makes two things cheap: a
file that is right costs a stat, and one whose digest nobody published is held to the first one seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import re
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from ffhqref.core.store import below, write_bytes
from ffhqref.download.sources import OWN_NAME, SourceFile, name_fault

T = TypeVar("T")

LEDGER = f"{OWN_NAME}/downloads.jsonl"
BLOCK = 1 << 20  # bytes read at a time

_LEAVES = re.compile(r"\A\Z|\A/|\.\.|\0")  # what a path that leaves its root has, looked for in 70,000
_MAGIC = {  # how a file of this suffix starts, to catch an error page where no digest is known
    ".png": (b"\x89PNG\r\n\x1a\n",),
    ".jpg": (b"\xff\xd8\xff",),
    ".jpeg": (b"\xff\xd8\xff",),
    ".webp": (b"RIFF",),
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".tgz": (b"\x1f\x8b",),
    ".gz": (b"\x1f\x8b",),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file as it was when it was last read. Digests are hexadecimal, empty where not computed."""

    path: str
    bytes: int
    mtime_ns: int
    sha256: str = ""
    md5: str = ""
    pixel_md5: str = ""  # set where the file is right by its pixels only
    origin: str = ""  # the address it came from (without passwords), its archive, or "disk"


def from_json(kind: type[T], text: bytes | str) -> T | None:
    """A flat frozen dataclass from JSON that anyone may have written; None where it is not of that form."""
    try:
        return from_table(kind, json.loads(text))
    except (ValueError, RecursionError):
        return None


def from_table(kind: type[T], table: object) -> T | None:
    """The same from JSON that is decoded: every key is a field, and every value of its type."""
    hashed: Any = kind
    types = _types(hashed)
    if not isinstance(table, dict) or not table.keys() <= types.keys():
        return None
    if any(type(value) not in types[key] for key, value in table.items()):
        return None
    try:
        return kind(**table)
    except TypeError:  # a field is missing
        return None


@cache
def _types(kind: type[Any]) -> dict[str, tuple[Any, ...]]:
    """The types that each field of a flat dataclass may have."""
    return {key: get_args(hint) or (hint,) for key, hint in get_type_hints(kind).items()}


class Ledger:
    """The entries of one folder, by path; safe to use from several threads."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = out / LEDGER
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._journal: int | None = None
        self._lines = 0
        if self._path.is_file():
            self._load(self._path.read_bytes())

    def _load(self, data: bytes) -> None:
        for line in data.splitlines():
            self._lines += 1
            entry = from_json(Entry, line)  # None where a kill cut it off: its file is read again
            if entry and not (_LEAVES.search(entry.path) and name_fault(entry.path)):
                self._entries[entry.path] = entry

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def entries(self) -> list[Entry]:
        """All entries, ordered by path."""
        return [self._entries[path] for path in sorted(self._entries)]

    def add(self, entry: Entry) -> None:
        """Record a finished file."""
        with self._lock:
            if self._journal is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
                self._journal = os.open(self._path, flags, 0o644)
                os.write(self._journal, b"\n")  # ends a line that a kill cut off
            self._entries[entry.path] = entry
            os.write(self._journal, json.dumps(asdict(entry)).encode() + b"\n")
            self._lines += 1

    def forget(self, path: str) -> None:
        """Hold the file to nothing any more."""
        self.add(Entry(path=path, bytes=-1, mtime_ns=0))

    def close(self) -> None:
        """Flush the journal; rewrite it where more than half of it is out of date."""
        with self._lock:
            if self._journal is not None:
                os.fsync(self._journal)
                os.close(self._journal)
                self._journal = None
            if self._lines > 2 * len(self._entries) + 100:
                lines = [json.dumps(asdict(entry)) + "\n" for entry in self.entries()]
                write_bytes(self._path, "".join(lines).encode())
                self._lines = len(lines)

    def unchanged(self, entry: Entry) -> bool:
        """Whether the file still has the size and time of its entry."""
        try:
            stat = below(self._out, entry.path).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (entry.bytes, entry.mtime_ns)


class Digests:
    """The digests that decide about a file: the published one, or SHA-256 where there is none."""

    def __init__(self, file: SourceFile) -> None:
        kinds = [kind for kind in ("sha256", "md5") if getattr(file, kind)] or ["sha256"]
        self._sums = {kind: hashlib.new(kind, usedforsecurity=False) for kind in kinds}

    def update(self, data: bytes | memoryview) -> None:
        for one in self._sums.values():
            one.update(data)

    def read(self, path: Path, tell: Callable[[int], None] = lambda count: None) -> None:
        """Take in a whole file, in pieces; `tell` hears how many bytes each had."""
        with path.open("rb", buffering=0) as file:
            while piece := file.read(BLOCK):
                self.update(piece)
                tell(len(piece))

    def entry(self, file: SourceFile, path: Path, origin: str) -> Entry:
        """What the ledger keeps of the file at `path` that was read with these digests."""
        stat = path.stat()
        sums = {kind: one.hexdigest() for kind, one in self._sums.items()}
        return Entry(path=file.path, bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, origin=origin, **sums)


def read_entry(
    file: SourceFile, path: Path, origin: str = "", tell: Callable[[int], None] = lambda count: None
) -> Entry:
    """What the ledger keeps of the file at `path`, read whole now; for `tell` see `Digests.read`."""
    digests = Digests(file)
    digests.read(path, tell)
    return digests.entry(file, path, origin)


class Beside:
    """Digests taken by a thread beside the one that receives: hashing and the network at once.

    `with Beside(digests) as update:` - on leaving, everything given to `update` is in the digests.
    """

    def __init__(self, digests: Digests) -> None:
        self._pieces: queue.Queue[bytes | None] = queue.Queue(maxsize=16)  # 4 MiB in memory at most
        self._digests = digests
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._digests.update(piece)

    def __enter__(self) -> Callable[[bytes], None]:
        self._thread.start()
        return self._pieces.put

    def __exit__(self, *_: object) -> None:
        self._pieces.put(None)
        self._thread.join()


def fault(file: SourceFile, path: Path, entry: Entry, pin: Entry | None) -> str:
    """Why the bytes described by `entry` (lying at `path`) are not this file; empty where they are.

    Without a published digest the one first seen (`pin`) decides, and without that the file's first bytes.
    """
    if file.bytes is not None and entry.bytes != file.bytes:
        return f"it has {entry.bytes:,} bytes and should have {file.bytes:,}"
    for kind in ("sha256", "md5"):
        wanted = getattr(file, kind)
        if wanted and getattr(entry, kind) != wanted:
            return f"its {kind} is {getattr(entry, kind)} and should be {wanted}"
    if file.digest:
        return ""
    if pin and pin.sha256 and entry.sha256 != pin.sha256:
        return (
            f"it is not the file that was first downloaded (sha256 {pin.sha256}): if its publisher changed "
            f"it, take its line out of {LEDGER}"
        )
    starts = _MAGIC.get(Path(file.path).suffix.lower(), ())
    if starts and entry.bytes:
        with path.open("rb") as opened:
            head = opened.read(16)
        if not head.startswith(starts):
            return f"it is no {Path(file.path).suffix[1:]} file"
    return ""


def right_pixels(file: SourceFile, path: Path) -> bool:
    """Whether the picture at `path` decodes to the pixels the manifest knows (MD5 of 8-bit RGB)."""
    from ffhqref.core import images  # OpenCV is slow to load and most downloads need no picture decoded

    try:
        pixels = images.read(path)
    except images.BadImage:
        return False
    return hashlib.md5(pixels.tobytes(), usedforsecurity=False).hexdigest() == file.pixel_md5


def verified(file: SourceFile, path: Path, entry: Entry, pin: Entry | None) -> tuple[Entry, str]:
    """The entry to keep and why the file is wrong (empty where right), by bytes or else by pixels."""
    reason = fault(file, path, entry, pin)
    if reason and file.pixel_md5 and right_pixels(file, path):
        return replace(entry, pixel_md5=file.pixel_md5), ""
    return entry, reason


def known_right(file: SourceFile, entry: Entry | None) -> bool:
    """Whether an entry (whose file is unchanged) proves the file right without reading it."""
    if entry is None:
        return False
    if file.pixel_md5 and entry.pixel_md5 == file.pixel_md5:
        return True
    if file.bytes is not None and entry.bytes != file.bytes:
        return False
    if file.sha256 or file.md5:
        return (not file.sha256 or entry.sha256 == file.sha256) and (not file.md5 or entry.md5 == file.md5)
    return bool(entry.sha256)
