"""A file to be made: a picture (a copy, a link or a new PNG), or bytes that are known already."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from ffhqref.core import images
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage
from ffhqref.core.journal import Made
from ffhqref.core.store import PART_SUFFIX, UserError, below, digest, flush, write_bytes
from ffhqref.degrade.stage import resize_square
from ffhqref.export.contents import Picture
from ffhqref.export.options import Links

REVISION = 1  # of what is written
PNG_START = b"\x89PNG\r\n\x1a\n"
RGB8 = b"\x08\x02"  # bit depth 8, colour type 2, at byte 24 of a PNG


class Entry(Protocol):
    """Something to be made below the export's folder."""

    @property
    def file(self) -> str:
        """Where, in POSIX form."""

    @property
    def key(self) -> str:
        """A digest of everything that decides its bytes."""

    @property
    def origin(self) -> str:
        """What of the dataset it is made from, for people."""

    @property
    def about(self) -> int:
        """How many bytes it takes on disk, roughly."""

    def make(self, out: Path) -> Made:
        """Make it: the work of a thread."""


def keyed(*parts: object) -> str:
    """The digest of what decides an entry's bytes."""
    return digest(json.dumps([REVISION, *parts]).encode())


def png_of(picture: Picture, size: int) -> tuple[bytes, bool]:
    """A picture as a PNG of 8-bit RGB, `size` px square (0: its own size); whether it is the file itself."""
    if picture.stamp[0] > images.MAX_FILE_BYTES:
        raise BadImage("too_large", f"larger than {images.MAX_FILE_BYTES >> 20} MiB")
    try:
        data = picture.path.read_bytes()
    except OSError as error:
        raise BadImage("unreadable", f"cannot be read ({error.strerror})") from None
    image = images.decode(data)
    as_it_is = data.startswith(PNG_START) and data[24:26] == RGB8 and b"eXIf" not in data
    if as_it_is and image.shape[0] == image.shape[1] == (size or image.shape[0]):
        return data, True
    return images.encode(resize_square(image, size, "bicubic") if size else image), False


@lru_cache(maxsize=64)  # a person's photos recur: about 30 MB at 512 px
def packed(picture: Picture, size: int) -> bytes:
    """`png_of` for files that hold many pictures; UserError where it cannot be read."""
    try:
        return png_of(picture, size)[0]
    except BadImage as error:
        raise UserError(f"{picture.path} {error}: put back the file and run this again.") from None


@dataclass(frozen=True)
class PictureEntry:
    """A picture as a PNG file."""

    file: str
    picture: Picture
    size: int
    links: Links

    @property
    def key(self) -> str:
        return keyed(str(self.picture.path), self.picture.stamp, self.size, self.links)

    @property
    def origin(self) -> str:
        return self.picture.name

    @property
    def about(self) -> int:
        return self.picture.bytes_about(self.size) if self.links == "copy" else 0

    def make(self, out: Path) -> Made:
        try:
            data, as_it_is = png_of(self.picture, self.size)
        except BadImage as error:
            return Made(self.key, "", error.status, f"{self.picture.path} {error}")
        if as_it_is and self.links != "copy":
            link(below(out, self.file), self.picture.path, self.links)
        else:
            write_bytes(below(out, self.file), data)
        return Made(self.key, digest(data))


def link(path: Path, source: Path, kind: Links) -> None:
    """Put a link to `source` at `path`, whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f".{digest(os.fsencode(path.name))[:16]}{PART_SUFFIX}"
    part.unlink(missing_ok=True)
    try:
        if kind == "hard":
            os.link(source.resolve(), part)
        else:
            part.symlink_to(source.resolve())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"Cannot link {path} to {source} ({error.strerror}): use --links copy.") from None
    finally:
        part.unlink(missing_ok=True)  # two links to one file: the rename leaves both
    flush(path.parent)


@dataclass(frozen=True)
class BytesEntry:
    """A small file whose bytes are known: lists, landmarks."""

    file: str
    data: bytes
    origin: str = "a list"

    @property
    def key(self) -> str:
        return keyed(digest(self.data))

    @property
    def about(self) -> int:
        return len(self.data)

    def make(self, out: Path) -> Made:
        write_bytes(below(out, self.file), self.data)
        return Made(self.key, digest(self.data))


def text_entry(file: str, lines: Iterable[str]) -> BytesEntry:
    """A UTF-8 text file of these lines."""
    return BytesEntry(file, "".join(f"{line}\n" for line in lines).encode())


def json_lines(file: str, rows: Iterable[Mapping[str, str | Sequence[str] | None]]) -> BytesEntry:
    """A JSON object a line."""
    return text_entry(file, (json.dumps(row) for row in rows))


def npy_entry(file: str, array: Float32, origin: str) -> BytesEntry:
    """An array as a .npy file."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    return BytesEntry(file, data.getvalue(), origin)
