"""FFHQ's metadata JSON (268 MB, an entry an image) -> the files it lists, and who made and licensed each.

The JSON is decoded an entry at a time from a window of a few MB, so memory does not grow with the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ffhqref.core import tables
from ffhqref.core.store import JsonObject, UserError, atomic
from ffhqref.core.stream import entries
from ffhqref.core.tables import TableRow
from ffhqref.core.terminal import progress
from ffhqref.download.sources import OWN_NAME, SourceFile

ROWS = 2048  # rows written together
ATTRIBUTION_FILE = tables.ATTRIBUTION_FILE


def _rows(path: Path, part: str, total: int) -> Iterator[tuple[TableRow, TableRow]]:
    """A listing row and an attribution row for each entry; UserError where it is not FFHQ's metadata."""
    where = "it starts"
    try:
        with path.open(encoding="utf-8") as opened:
            for key, entry in progress(entries(opened), path.name, " entries", total or None):
                where = f"entry {key[:20]!r}"
                yield _listed(entry[part]), _attributed(entry)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is not FFHQ's metadata ({where}: {str(error)[:80]}): delete it and download again."
        ) from None


def _listed(file: JsonObject) -> TableRow:
    name = file["file_path"]
    row = {
        tables.IMAGE: name,
        tables.URL: file["file_url"],
        tables.BYTES: file["file_size"],
        tables.MD5: file["file_md5"],
        tables.PIXEL_MD5: file["pixel_md5"],
    }
    if _file(row).path == ATTRIBUTION_FILE:  # the rest is checked by the file itself
        raise ValueError(f"a file is called {name}")
    return _encodable(row)


def _attributed(entry: JsonObject) -> TableRow:
    about = entry["metadata"]
    row = {key: str(about.get(key) or "") for key in tables.ATTRIBUTION.names if key != tables.IMAGE}
    whole = {tables.IMAGE: entry["image"]["file_path"], **row, tables.CATEGORY: str(entry["category"])}
    if not isinstance(whole[tables.IMAGE], str):
        raise TypeError("an image has no path")
    return _encodable(whole)


def _encodable(row: TableRow) -> TableRow:
    """The row; ValueError where a table cannot take a text of it."""
    for value in row.values():
        if isinstance(value, str):
            value.encode("utf-8")
    return row


def usual_names(part: str, count: int) -> Iterator[str]:
    """The paths that FFHQ's metadata lists under `part`, as far as they are known without it."""
    folder = {"image": "images1024x1024", "thumbnail": "thumbnails128x128"}.get(part, "in-the-wild-images")
    return (f"{folder}/{number // 1000:02d}000/{number:05d}.png" for number in range(count))


def list_files(
    out: Path,
    metadata: Path,
    digest: str,
    part: str,
    excluded: Callable[[str], bool],
    keep: bool = True,
    total: int = 0,
) -> list[SourceFile]:
    """The files under `part` (image, thumbnail, in_the_wild) of every entry, in the metadata's order.

    With `keep` the listing stays as Parquet under the metadata's digest, so that it is parsed once, and
    so does `attribution.parquet`: who made each image and under which licence, without those `excluded`.
    `total` is how many entries are expected, for the bar.
    """
    kept = out / OWN_NAME / f"{part}-{digest[:32]}.parquet"
    if keep and (not kept.is_file() or not (out / ATTRIBUTION_FILE).is_file()):
        _write_tables(metadata, part, kept, out / ATTRIBUTION_FILE, total)
    if keep:
        _leave_out(out / ATTRIBUTION_FILE, excluded)
    if not kept.is_file():
        return [_file(row) for row, _ in _rows(metadata, part, total)]
    return [_file(row) for row in tables.read(kept, tables.LISTING).to_pylist()]


def _file(row: TableRow) -> SourceFile:
    return SourceFile(
        path=row[tables.IMAGE],
        urls=(row[tables.URL],),
        bytes=row[tables.BYTES],
        md5=row[tables.MD5],
        pixel_md5=row[tables.PIXEL_MD5],
    )


def _leave_out(attribution: Path, excluded: Callable[[str], bool]) -> None:
    """Take the rows of excluded images out of the table."""
    table = tables.read(attribution, tables.ATTRIBUTION)
    stay = [not excluded(str(name)) for name in table.column(tables.IMAGE).to_pylist()]
    if not all(stay):
        tables.write(attribution, tables.ATTRIBUTION, table.filter(pa.array(stay)))


def _write_tables(metadata: Path, part: str, listing: Path, attribution: Path, total: int) -> None:
    """Both tables in one pass, in batches; neither appears before both are whole."""
    with atomic(attribution) as first, atomic(listing) as second:
        with (
            pq.ParquetWriter(first, tables.ATTRIBUTION, compression="zstd") as people,
            pq.ParquetWriter(second, tables.LISTING, compression="zstd") as files,
        ):
            batch: list[tuple[TableRow, TableRow]] = []
            for rows in _rows(metadata, part, total):
                batch.append(rows)
                if len(batch) == ROWS:
                    _flush(files, people, batch)
            _flush(files, people, batch)


def _flush(files: pq.ParquetWriter, people: pq.ParquetWriter, batch: list[tuple[TableRow, TableRow]]) -> None:
    if batch:
        files.write_table(pa.Table.from_pylist([row for row, _ in batch], tables.LISTING))
        people.write_table(pa.Table.from_pylist([row for _, row in batch], tables.ATTRIBUTION))
        batch.clear()
