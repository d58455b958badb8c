"""What can be downloaded: manifests/sources/*.toml, or a user's own file of that form, as dataclasses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import PurePosixPath
from typing import Literal

from ffhqref.core.recipe import build, load_toml, locate, manifests
from ffhqref.core.store import PART_SUFFIX, UserError
from ffhqref.download.addresses import address_fault, public

Listing = Literal["", "image", "thumbnail", "in_the_wild"]
OWN_NAME = ".ffhqref"  # what we keep beside downloaded files starts with this; no file may be called so
MISSING = "missing.csv"  # the list of what could not be had, at the top of the output folder
MOST_BYTES = 1 << 60


def name_fault(name: str) -> str:
    """Why a manifest's or archive's path may not become a file below a root, or empty."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        return "it is absolute, empty or holds '..'"
    if "\\" in name or re.match(r"[A-Za-z]:", name) or any(ord(character) < 32 for character in name):
        return "it holds a backslash, a drive or a control character"
    if any(part.startswith(OWN_NAME) for part in parts):
        return f"names that start with {OWN_NAME} are kept for this program"
    if "/".join(parts).casefold() == MISSING or any(
        p.startswith(".") and p.endswith(PART_SUFFIX) for p in parts
    ):
        return f"{MISSING} and hidden names that end with {PART_SUFFIX} are kept for this program"
    if any(len(part.encode("utf-8", "surrogatepass")) > 255 for part in parts) or len(name) > 1024:
        return "it is longer than a file system takes"
    return ""


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file to download. Digests are hexadecimal; empty where nobody published one.

    A file without a digest is trusted when it first arrives and checked against that from then on.
    `unpack` names the folder below the output to which an archive is extracted ("." is the output
    itself); `strip` is a leading folder of its members that is left out, `members` globs which to take.
    """

    path: str  # below the output folder, POSIX
    urls: tuple[str, ...] = ()  # tried in turn: http(s)://..., hf://[datasets/]owner/repository/path
    bytes: int | None = None
    md5: str = ""
    sha256: str = ""
    pixel_md5: str = ""  # of the decoded RGB bytes: a re-encoded picture with these pixels is right too
    checksum_by: str = ""  # who published the digest, where that is not the source itself
    unpack: str = ""
    strip: str = ""
    members: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks: list[tuple[object, str]] = [
            (_is_utf8(self.path), f"path {self.path!r} is not UTF-8"),
            (not name_fault(self.path), f"path {self.path!r}: {name_fault(self.path)}"),
            (
                self.unpack in ("", ".") or not name_fault(self.unpack),
                f"unpack {self.unpack!r} is not a folder",
            ),
            (
                self.bytes is None or (type(self.bytes) is int and 0 <= self.bytes <= MOST_BYTES),
                f"{self.path}: bytes must be from 0 to {MOST_BYTES:,}",
            ),
            (
                not self.unpack or self.path.endswith((".zip", ".tar", ".tgz", ".tar.gz")),
                f"{self.path}: only .zip, .tar, .tar.gz and .tgz can be unpacked",
            ),
        ]
        for kind, digits in (("md5", 32), ("sha256", 64), ("pixel_md5", 32)):
            hexadecimal = re.fullmatch(rf"([0-9a-f]{{{digits}}})?", getattr(self, kind))
            checks.append((hexadecimal, f"{self.path}: {kind} must be {digits} hexadecimal digits"))
        for url in self.urls:
            fault = address_fault(url)
            checks.append((not fault, f"{self.path}: {public(url)!r} {fault}"))
        for good, fault in checks:
            if not good:
                raise ValueError(fault)

    @property
    def digest(self) -> str:
        """The published digest of the file's bytes, the strongest one, or empty."""
        return self.sha256 or self.md5


@dataclass(frozen=True, kw_only=True)
class Source:
    """Something to download: files, their licence, and what must be accepted first.

    With a `listing` the source's only file is FFHQ's metadata JSON, and the files under that key of each
    of its entries are downloaded too. `groups` are names for `--only` that stand for globs.
    """

    name: str
    title: str
    files: tuple[SourceFile, ...]
    licence: str = ""
    terms: str = ""  # must be accepted before anything is fetched
    citation: str = ""
    homepage: str = ""
    listing: Listing = ""
    listed_files: int = 0  # how many the listing names
    about_bytes: int = 0  # of all whose size nobody published exactly: an estimate, for people
    next: str = ""  # the command that follows, with {out} for the folder
    exclude: tuple[str, ...] = ()  # names nobody may download any more: people asked to be removed
    exclude_date: str = ""  # the day, as 2026-11-27, up to which `exclude` is complete as far as we know
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.exclude and not self.exclude_date:
            raise ValueError("exclude needs exclude_date, the day of the list, such as 2026-11-27")
        if self.exclude_date:
            date.fromisoformat(self.exclude_date)


@dataclass(frozen=True, kw_only=True)
class _Group:
    globs: tuple[str, ...]


def sources() -> list[str]:
    """The names of the shipped sources."""
    return sorted(path.stem for path in (manifests() / "sources").glob("*.toml"))


def load_source(name_or_file: str) -> Source:
    """A shipped source by its name, or a user's own manifest by its path.

    A manifest needs no more than `[[file]]` tables with `path` and `urls`.
    """
    path = locate(name_or_file, "sources")
    table = load_toml(path)
    lists, groups = table.pop("file", []), table.pop("groups", {})
    if not isinstance(lists, list) or not lists or not all(isinstance(item, dict) for item in lists):
        raise UserError(f"{path} lists no files: give [[file]] tables with path and urls.")
    if not isinstance(groups, dict):
        raise UserError(f"{path}: groups must be a table of lists of globs.")
    files = tuple(_file(item, f"{path}, file {number}") for number, item in enumerate(lists, 1))
    if len({PurePosixPath(one.path) for one in files}) < len(files):
        raise UserError(f"{path} lists one path twice: every [[file]] needs a path of its own.")
    checked = {
        key: build(_Group, {"globs": globs}, f"{path}: group {key}").globs for key, globs in groups.items()
    }
    source = build(Source, {"name": path.stem, "title": path.stem, "files": (), **table}, str(path))
    return replace(source, files=files, groups=checked)


def _file(table: Mapping[str, object], where: str) -> SourceFile:
    """A file of a manifest; the sentence on what is wrong with it shows no password."""
    try:
        return build(SourceFile, table, where)
    except UserError as error:
        raise UserError(public(str(error))) from None
