"""What `download` keeps of files that are still arriving, and where else their bytes may lie."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from ffhqref.core.store import UserError, atomic, digest, flush
from ffhqref.download.addresses import public
from ffhqref.download.ledger import from_json
from ffhqref.download.sources import OWN_NAME, SourceFile

PARTS = f"{OWN_NAME}/parts"
MIRROR_MISSES = 30  # files in a row a mirror may lack before it is asked no more

Tell = Callable[[int], None]  # hears how many bytes more (or, negative, fewer) of the file are there


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a part file was fetched from, written beside it: what decides whether it may be continued."""

    url: str  # without passwords
    etag: str = ""
    modified: str = ""
    length: int | None = None  # of the whole, as the server gave it
    encoding: str = ""

    @property
    def validator(self) -> str:
        """What If-Range takes: a strong ETag, or the date of the last change."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class Part:
    """A file that is still arriving, under the output's own folder, named by a digest of its path."""

    def __init__(self, out: Path, path: str) -> None:
        self.path = out / PARTS / digest(path.encode())[:32]
        self._note = self.path.with_suffix(".json")

    def size(self) -> int:
        """Its bytes so far; UserError where something else stands in its place."""
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{self.path} is not a file, and ffhqref keeps one there: remove it.")
        return found.st_size

    def origin(self) -> Origin | None:
        """Where it comes from; None where nothing usable is noted."""
        try:
            return from_json(Origin, self._note.read_bytes())
        except OSError:
            return None

    def usable(self, file: SourceFile, url: str) -> tuple[int, Origin | None]:
        """How many of its bytes may stay when `url` is asked, and their origin.

        From the same address they may where a validator lets the server tell a change; from any where a
        published digest will tell.
        """
        size, origin = self.size(), self.origin()
        if size and (origin is None or size > (origin.length or file.bytes or size)):
            self.drop()
            return 0, None
        same = origin is not None and origin.url == url and bool(origin.validator)
        if size and (same or (file.digest and origin and not origin.encoding)):
            return size, origin
        return 0, None

    def start(self, origin: Origin) -> None:
        """Empty it and note its new origin, in this order: the bytes are never those of another origin."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.drop()  # and not written through where it is a link
        self.path.write_bytes(b"")
        self._note.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def name(self, final: Path) -> None:
        """Flush it and give it its final name, on this disk or another."""
        final.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            os.replace(self.path, final)
            flush(final.parent)
        except OSError as error:
            if error.errno != errno.EXDEV:  # the final folder is a link to another disk
                raise
            with atomic(final) as beside:
                shutil.copyfile(self.path, beside)
        self.drop()


def sweep_orphans(out: Path) -> None:
    """Remove notes whose part file got its name before a kill; only for the holder of the lock."""
    for note in (out / PARTS).glob("*.json"):
        if not note.with_suffix("").is_file():
            note.unlink(missing_ok=True)


class Mirror:
    """Another place with the same files: an address or a folder, nested as the original or flattened."""

    def __init__(self, base: str) -> None:
        self.base = base.rstrip("/")
        self.folder = None if re.match(r"(https?|hf)://", base, re.IGNORECASE) else Path(base)
        self._depth = 0  # leading folders to leave out, as they were for the file found last
        self.misses = 0
        if self.folder is not None and not self.folder.is_dir():
            raise UserError(f"--mirror {public(base)}: give a folder that exists, or an address.")

    @property
    def exhausted(self) -> bool:
        return self.misses >= MIRROR_MISSES

    def names(self, path: str) -> list[str]:
        """The names `path` may have here, the kind that was found last first."""
        parts = PurePosixPath(path).parts
        depths = sorted(range(len(parts)), key=lambda depth: (depth != self._depth, depth))
        return ["/".join(parts[depth:]) for depth in depths]

    def found(self, path: str, name: str) -> None:
        self._depth = path.count("/") - name.count("/")
        self.misses = 0

    def url(self, name: str) -> str:
        return f"{self.base}/{quote(name)}" if not self.base.startswith("hf://") else f"{self.base}/{name}"


class Reported:
    """What the progress bar was told of one file, so that it can be corrected."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.size = 0

    def set(self, size: int) -> int:
        if size != self.size:
            self._tell(size - self.size)
            self.size = size
        return size
