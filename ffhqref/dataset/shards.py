"""The files of tables/embeddings/: shards that the receipt names, and rows that a run has finished so far.

A run writes finished rows into small files named by the digest of their bytes (`rows-<sha256>.parquet`), so
that what a kill or damage did to one is seen. At its end they become shards of `SHARD` photos. A file is
trusted if the last receipt, or its own name, has its digest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ffhqref.core import store, tables
from ffhqref.core.images import Photo

SHARD = 512  # photos a file; fixed, since the same photos must give the same bytes
PHOTOS_KEY, ROWS_KEY = b"ffhqref", b"rows"  # of a file's metadata: photos and work; rows of each photo
ROWS, NEW = "rows-", ".rows-new.parquet"  # what files of unfinished runs begin with; one without its name
PASSING = "not_read"  # a status that another run may change: it is tried again
Stamp = tuple[str, int, int, str]


@dataclass(frozen=True)
class Entry:
    """A photo, and all of it that decides its rows beside the work."""

    photo: Photo
    excluded: bool = False
    landmarks: str = ""  # digest of the points given for it

    @property
    def stamp(self) -> Stamp:
        """Name, size in bytes, time of change, points."""
        return self.photo.name, self.photo.size, self.photo.mtime_ns, self.landmarks

    @property
    def unusable(self) -> bool:
        """Whether no picture needs to be read: a bad name, or excluded."""
        return bool(self.photo.bad) or self.excluded


def pack(entries: Sequence[Entry], parts: Sequence[pa.Table], key: str) -> pa.Table:
    """The rows of these photos as one table whose metadata says what each was made of."""
    listing = [[*entry.stamp, entry.photo.bad, entry.excluded] for entry in entries]
    metadata = {
        PHOTOS_KEY: json.dumps({"key": key, "photos": listing}).encode(),
        ROWS_KEY: json.dumps([len(part) for part in parts]).encode(),
    }
    return pa.concat_tables(parts).combine_chunks().replace_schema_metadata(metadata)


def stands(path: Path, table: pa.Table) -> bool:
    """Whether a trusted file holds these rows of these photos by the same work."""
    return bool(_read(path).equals(table, check_metadata=True))


class Rows:
    """Rows of photos that an earlier run of the same work has finished, by what decided them."""

    def __init__(
        self, folder: Path, digests: Mapping[str, str], key: str, lost: Callable[[pa.Table], bool]
    ) -> None:
        """`digests` are those of the last receipt by file name; `lost` says that rows must be made again."""
        self.folder, self._key, self._lost = folder, key, lost
        self.trusted = {path.name for path in _files(folder) if _trusted(path, digests)}
        self._places: dict[Stamp, tuple[Path, int, int]] = {}
        self._read = lru_cache(maxsize=8)(_read)  # photos are asked for in the order of the files
        for name in sorted(self.trusted):
            self._index(folder / name)

    def _index(self, path: Path, fresh: bool = False) -> None:
        """Note where the rows of each photo are; of an earlier run, unless they are to be made again."""
        metadata = pq.read_schema(path).metadata or {}
        about, counts = json.loads(metadata[PHOTOS_KEY]), json.loads(metadata[ROWS_KEY])
        if about["key"] != self._key:
            return
        table, at = tables.read(path, tables.EMBEDDINGS, [tables.IMAGE, tables.STATUS, tables.CROP]), 0
        for (*stamp, bad, excluded), count in zip(about["photos"], counts, strict=True):
            rows, at = table.slice(at, count), at + count
            again = not fresh and (rows[tables.STATUS][0].as_py() == PASSING or self._lost(rows))
            if not (bad or excluded or again):
                name, size, changed, landmarks = stamp
                self._places[name, size, changed, landmarks] = (path, at - count, count)

    def __contains__(self, stamp: Stamp) -> bool:
        return stamp in self._places

    def take(self, stamp: Stamp) -> pa.Table:
        """The rows of a photo."""
        path, at, count = self._places[stamp]
        return self._read(path).slice(at, count).replace_schema_metadata(None)

    def keep(self, entries: Sequence[Entry], parts: Sequence[pa.Table]) -> None:
        """Write finished rows, so that no later run makes them again."""
        path = self.folder / NEW
        tables.write(path, tables.EMBEDDINGS, pack(entries, parts, self._key))
        final = self._own_name(path)
        self.trusted.add(final.name)
        self._index(final, fresh=True)

    def retire(self, path: Path) -> None:
        """Give a shard that is about to be replaced a name of its own: a kill must not cost its rows."""
        if path.name in self.trusted:
            self.trusted.remove(path.name)
            moved = self._own_name(path)
            self._places = {
                stamp: (moved if there == path else there, at, count)
                for stamp, (there, at, count) in self._places.items()
            }
            self.trusted.add(moved.name)

    def _own_name(self, path: Path) -> Path:
        return path.rename(path.with_name(f"{ROWS}{store.digest_file(path)}.parquet"))


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("shard-*.parquet")
    yield from folder.glob(f"{ROWS}*.parquet")


def _trusted(path: Path, digests: Mapping[str, str]) -> bool:
    wanted = path.stem.removeprefix(ROWS) if path.name.startswith(ROWS) else digests.get(path.name)
    return wanted is not None and store.digest_file(path) == wanted


def _read(path: Path) -> pa.Table:
    return tables.read(path, tables.EMBEDDINGS)


def sweep(folder: Path, shards: Sequence[Path], *, keep_others: bool) -> None:
    """Remove all but the shards, which hold every row; `keep_others`: not what holds rows of more photos."""
    held = {photo for path in shards for photo in _photos_of(path)} if keep_others else set()
    for path in {*_files(folder), folder / NEW} - set(shards):
        if not (keep_others and path.is_file() and _photos_of(path) - held):
            path.unlink(missing_ok=True)


def _photos_of(path: Path) -> set[str]:
    """The photos whose rows a file holds; of a damaged one none."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        return {json.dumps(photo) for photo in json.loads(metadata[PHOTOS_KEY])["photos"]}
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return set()


def sizes(out: Path) -> dict[str, int]:
    """The size in bytes that each photo of a finished dataset had when it was embedded, by its name.

    Of crops nothing: they are known by their digests.
    """
    found: dict[str, int] = {}
    for path in finished(out):
        with suppress(OSError, KeyError, ValueError, pa.ArrowException):  # damage is seen by its digest
            about = json.loads((pq.read_schema(path).metadata or {})[PHOTOS_KEY])
            found |= {photo[0]: photo[1] for photo in about["photos"]}
    for name, _ in crops(out):
        found.pop(name, None)
    return found


def crops(out: Path) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of each picture that `embed` cut out of a photograph."""
    for path in finished(out):
        table = tables.read(path, tables.EMBEDDINGS, [tables.IMAGE, tables.CROP])
        names, digests = tables.texts(table, tables.IMAGE), tables.texts(table, tables.CROP)
        yield from ((name, digest) for name, digest in zip(names, digests, strict=True) if digest)


def finished(out: Path) -> list[Path]:
    """The shards of a finished dataset, as its receipt names them."""
    receipt = store.read_receipt(out, "embed")
    return [store.below(out, name) for name in (receipt.outputs if receipt else ())]


def photos(path: Path) -> list[tuple[str, int, int, str, str, bool]]:
    """The photos of a file: name, size, time of change, digest of points, fault of the name, excluded."""
    about = json.loads((pq.read_schema(path).metadata or {})[PHOTOS_KEY])
    return [tuple(photo) for photo in about["photos"]]


def without(path: Path, gone: Callable[[str], bool]) -> pa.Table | None:
    """A file's rows but those of names that are `gone`, a photo of several rows while one is left; None where
    there is nothing to take out."""
    table = _read(path)
    metadata = table.schema.metadata or {}
    if PHOTOS_KEY not in metadata:  # not made by `embed`: rows alone
        rows = [at for at, name in enumerate(tables.texts(table, tables.IMAGE)) if not gone(name)]
        return None if len(rows) == len(table) else table.take(rows).combine_chunks()
    about, counts = json.loads(metadata[PHOTOS_KEY]), json.loads(metadata[ROWS_KEY])
    names, at = tables.texts(table, tables.IMAGE), 0
    kept: list[int] = []
    listing: list[object] = []
    left: list[int] = []
    for photo, count in zip(about["photos"], counts, strict=True):
        rows = [row for row in range(at, at + count) if not gone(names[row])]
        at += count
        if rows and not gone(photo[0]):
            kept, listing, left = kept + rows, [*listing, photo], [*left, len(rows)]
    if len(listing) == len(counts) and len(kept) == len(table):
        return None
    said = {
        PHOTOS_KEY: json.dumps({**about, "photos": listing}).encode(),
        ROWS_KEY: json.dumps(left).encode(),
    }
    return table.take(kept).combine_chunks().replace_schema_metadata(said)
