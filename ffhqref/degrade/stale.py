"""The table of what was degraded, and low-quality images whose targets a dataset no longer has."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from ffhqref.core import images, journal, lists, store, tables
from ffhqref.core.store import UserError

TABLE = "tables/degradations.parquet"  # below the output folder
_JOURNAL = re.compile(r"degrade-(?P<level>.+)-(?P<split>test|val)\.jsonl")


def read_rows(out: Path) -> pa.Table:
    """The rows that are there, of any level and split; UserError where the table is damaged."""
    path = out / TABLE
    if not path.is_file():
        return tables.DEGRADATIONS.empty_table()
    try:
        return tables.read(path, tables.DEGRADATIONS)
    except UserError:
        raise UserError(
            f"{path} is damaged or of another version: remove it and run `ffhqref degrade` again "
            "for each level; images that stand are kept."
        ) from None


def rows_without(out: Path, files: set[str]) -> pa.Table:
    """The table without the rows of these files."""
    rows = read_rows(out)
    keep = [file not in files for file in rows[tables.LQ_IMAGE].to_pylist()]
    return rows.filter(pa.array(keep, pa.bool_()))


def remove_stale(out: Path) -> int:
    """Remove the low-quality images, of every level, of photos that are no longer targets; how many.

    Their rows and their lines in the journals go, too, and journals that have no line left. A file that is
    not as it was made is somebody's work, and stays.
    """
    removed = 0
    with store.lock(out, "degrade"):
        for path, prefix, files in list(_journals(out)):
            made = journal.read(path)
            wanted = {prefix + images.png_name(file) for file in files}
            stale = {file for file in made if file not in wanted and file.startswith(prefix)}
            if not stale and made:
                continue
            path.with_suffix(".json").unlink(missing_ok=True)  # the receipt
            if stale and (out / TABLE).is_file():
                tables.write(out / TABLE, tables.DEGRADATIONS, rows_without(out, stale))
            for file in stale:
                removed += remove_made(out, file, made[file])
            left = {file: one for file, one in made.items() if file not in stale}
            journal.write(path, left) if left else path.unlink()
    return removed


def _journals(out: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """Each journal of the dataset with the folder of its images and the files that its split has there."""
    files: dict[str, list[str]] = {}
    for path in sorted((out / "receipts").glob("degrade-*.jsonl")):
        found = _JOURNAL.fullmatch(path.name)
        if not found or path.is_symlink():
            continue
        split = found["split"]
        mapping = out / "reference_mapping" / f"{split}_references.csv"
        if split not in files:
            rows = lists.read_mapping(mapping) if mapping.is_file() else {}
            files[split] = [row.lq for row in rows.values()]
        yield path, level_folder(found["level"], split), files[split]


def level_folder(level: str, split: str) -> str:
    """Where a level's images lie in a built dataset, with a slash at the end."""
    return f"{split}_images/{level}_degrad/"


def remove_made(out: Path, file: str, made: journal.Made) -> bool:
    """Remove a file of ours if it is as it was made, and its folders where they are empty then."""
    if not journal.unchanged(out, file, made):
        return False
    path = store.below(out, file)
    path.unlink()
    with suppress(OSError):  # not empty
        for folder in path.parents[: len(Path(file).parts) - 1]:
            os.rmdir(folder)
    return True
