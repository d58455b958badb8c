"""Where names are mentioned below a folder, in any file's path or content, and how they are taken out.

A name is looked for as it is, with `.png` and `.webp` in place of its suffix, with `__` for its slashes, and
as JSON, HTML, URLs, CSV and Python write it. It counts where it stands alone: `1.png` is not in `11.png`, and
not in `b/1.png` where that is another photo's name.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffhqref.core import images, store, tables
from ffhqref.core.store import UserError

LABELS = (tables.IDENTITY, tables.COMPONENT, tables.OTHER)  # columns that name people
PICTURES = frozenset({*images.SUFFIXES, ".tif", ".tiff", ".bmp", ".gif"})
LINES = {".csv", ".tsv", ".txt", ".log", ".jsonl"}  # a line that mentions a name goes
PAGES = {".html", ".md", ".tex", ".svg"}  # go whole
PIECE = 1 << 24  # bytes of a file of no known form that are looked at together
LONGEST = 1 << 13  # bytes that two such pieces share: no name is longer in any form


def forms(name: str) -> set[str]:
    """Every way in which a file may write this name."""
    stem = os.path.splitext(name)[0]
    paths = {name, f"{stem}.png", f"{stem}.webp"}
    paths |= {path.replace("/", "__") for path in paths}
    written = set(paths)
    for path in paths:
        written |= {json.dumps(path)[1:-1], json.dumps(path, ensure_ascii=False)[1:-1], repr(path)[1:-1]}
        written |= {html.escape(path), html.escape(path, quote=False), path.replace('"', '""')}
        written |= {html.escape(path).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}
        written |= {quote(path), quote(path, safe="")}
    return written


def _key(name: str) -> str:
    """The longest part of a name that stays as it is in every form."""
    return max(re.findall("[A-Za-z0-9]+", os.path.splitext(name)[0]), key=len, default="")


class Traces:
    """What must not be found: names and digests that go. Those that stay say what is another's name."""

    def __init__(self, gone: Iterable[str], digests: Iterable[str] = (), stay: Iterable[str] = ()) -> None:
        gone = set(gone)
        self._forms: dict[str, set[str]] = {}
        for name in gone:
            self._forms.setdefault(_key(name), set()).update(forms(name))
        keys = tuple(self._forms)
        near = [name for name in stay if name not in gone and any(key in name for key in keys)]
        others = {form for name in near for form in forms(name)}
        for written in self._forms.values():
            written -= others
        mine = {form for written in self._forms.values() for form in written}
        self._others = {form: [other for other in others if form in other] for form in mine}
        self._forms |= {digest: {digest} for digest in digests if digest}

    def mentioned(self, text: str) -> bool:
        """Whether a text mentions what must go."""
        for key, written in self._forms.items():
            if key in text and any(self._stands(text, form) for form in written):
                return True
        return False

    def _stands(self, text: str, form: str) -> bool:
        at = text.find(form)
        while at >= 0:
            around = text[at - 1 : at] + text[at + len(form) : at + len(form) + 1]
            if not re.search(r"[\w-]", around) and not self._of_another(text, form, at):
                return True
            at = text.find(form, at + 1)
        return False

    def _of_another(self, text: str, form: str, at: int) -> bool:
        """Whether the name at this place is a part of the name of a photo that stays."""
        return any(
            text.startswith(other, start)
            for other in self._others.get(form, ())
            for start in (at - found.start() for found in re.finditer(f"(?={re.escape(form)})", other))
            if start >= 0
        )


def walk(root: Path, without: Iterable[Path] = ()) -> Iterator[Path]:
    """Every file and link below `root`, in order, but the files and folders `without`."""
    skipped = {path.absolute() for path in without}
    for folder, subfolders, files in os.walk(root):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if (here / name).absolute() not in skipped)
        linked = [name for name in subfolders if (here / name).is_symlink()]
        yield from (
            here / name for name in sorted([*files, *linked]) if (here / name).absolute() not in skipped
        )


def refuse_links(root: Path, without: Iterable[Path] = ()) -> None:
    """UserError where a link would have to be followed; one to a picture is a file like others."""
    for path in walk(root, without):
        if path.is_symlink() and (path.is_dir() or path.suffix.lower() not in PICTURES):
            raise UserError(
                f"{path} is a link, which is never followed: replace it by what it points to, or remove it."
            )


def contents(path: Path) -> Iterator[str]:
    """Every text in a file, decoded; none of a picture, whose name is its path."""
    suffix = path.suffix.lower()
    if suffix in PICTURES or path.is_symlink() or not path.is_file():
        return
    if suffix == ".parquet":
        try:
            yield from _parquet_texts(path)
            return
        except (OSError, pa.ArrowException):  # damaged: as it lies
            pass
    if suffix in (".json", ".jsonl") and path.stat().st_size < store.MAX_JSON:
        for part in _json_parts(path):
            yield from part if isinstance(part, str) else _strings(part)
    yield from _pieces(path)


def _json_parts(path: Path) -> Iterator[object]:
    text = path.read_bytes().decode("utf-8", "replace")
    for part in text.splitlines() if path.suffix.lower() == ".jsonl" else [text]:
        try:
            yield json.loads(part)
        except (ValueError, RecursionError):
            continue


def _strings(value: object) -> Iterator[str]:
    """Every text in nested lists and tables, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def _pieces(path: Path) -> Iterator[str]:
    """A file as text, a piece at a time; pieces overlap so that no name is cut."""
    with path.open("rb") as file:
        kept = b""
        while data := file.read(PIECE):
            yield (kept + data).decode("utf-8", "replace")
            kept = data[-LONGEST:]


def _parquet_texts(path: Path) -> Iterator[str]:
    with pq.ParquetFile(path) as file:
        for key, value in (file.schema_arrow.metadata or {}).items():
            text = value.decode("utf-8", "replace")
            yield from (key.decode("utf-8", "replace"), text)
            if text[:1] in "[{":
                yield from _strings(loaded(text))
        columns = [item.name for item in file.schema_arrow if _holds_text(item.type)]
        for batch in file.iter_batches(columns=columns):
            for column in batch.columns:
                values = (
                    pc.unique(column).to_pylist() if pa.types.is_string(column.type) else column.to_pylist()
                )
                yield from _strings(values)


def loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
        return True
    return any(_holds_text(kind.field(at).type) for at in range(kind.num_fields))


@dataclass
class Scan:
    """What a scan found: files looked at, and those whose path or content still mentions a name."""

    files: int = 0
    mentions: list[Path] = field(default_factory=list)


def scan(root: Path, traces: Traces, without: Iterable[Path] = ()) -> Scan:
    """Look through all files below `root`: paths, text, JSON and Parquet decoded, others as they lie."""
    found = Scan()
    for path in walk(root, without):
        found.files += 1
        if mentions(root, path, traces):
            found.mentions.append(path)
    return found


def mentions(root: Path, path: Path, traces: Traces) -> bool:
    """Whether a file below `root` mentions what must go, in its path there or in its content."""
    if traces.mentioned(path.relative_to(root).as_posix()):
        return True
    return any(traces.mentioned(text) for text in contents(path))


# ---- taking out ----------------------------------------------------------------------------------


def erase(root: Path, path: Path, traces: Traces, relabel: Mapping[str, str]) -> str:
    """Take every mention out of a file: `removed`, `changed`, or empty where there is nothing to do or
    its form is not known."""
    suffix = path.suffix.lower()
    if traces.mentioned(path.relative_to(root).as_posix()):
        return remove(root, path)
    if suffix == ".parquet" and not path.is_symlink():
        return erase_table(path, traces, relabel)
    if not any(traces.mentioned(text) for text in contents(path)):
        return ""
    if suffix in PAGES:
        return remove(root, path)
    if suffix in LINES:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        store.write_text(path, "".join(line for line in lines if not _line_mentions(line, traces)))
        return "changed"
    if suffix == ".json":
        pruned = prune(loaded(path.read_text(encoding="utf-8", errors="replace")), traces)
        store.write_text(path, json.dumps(pruned, indent=1, sort_keys=True) + "\n")
        return "changed"
    return ""


def _line_mentions(line: str, traces: Traces) -> bool:
    return traces.mentioned(line) or any(map(traces.mentioned, _strings(loaded(line))))


def remove(root: Path, path: Path) -> str:
    """Remove a file or link, and the folders above it that are empty then."""
    store.refuse_leaving(path)
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()
    return "removed"


def prune(value: object, traces: Traces) -> object:
    """Nested lists and tables without the entries that mention what must go."""
    if isinstance(value, dict):
        kept = {
            key: one for key, one in value.items() if not traces.mentioned(key) and not _said(one, traces)
        }
        return {key: prune(one, traces) for key, one in kept.items()}
    if isinstance(value, list):
        return [prune(one, traces) for one in value if not _said(one, traces)]
    return value


def _said(value: object, traces: Traces) -> bool:
    return isinstance(value, str) and traces.mentioned(value)


def erase_table(path: Path, traces: Traces, relabel: Mapping[str, str]) -> str:
    """Drop the rows of a Parquet file that mention what must go; people named after it get another name."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException):  # damaged: the stage that wrote it writes it again
        return ""
    with file:
        schema = file.schema_arrow
        batches = [_cleaned(batch, traces, relabel) for batch in file.iter_batches()]
        metadata = {
            k: v
            for k, v in (schema.metadata or {}).items()
            if not traces.mentioned(v.decode("utf-8", "replace"))
        }
        if not any(changed for _, changed in batches) and metadata == (schema.metadata or {}):
            return ""
        table = pa.Table.from_batches([batch for batch, _ in batches], schema)
    tables.write(path, schema, table.replace_schema_metadata(metadata or None))
    return "changed"


def _cleaned(
    batch: pa.RecordBatch, traces: Traces, relabel: Mapping[str, str]
) -> tuple[pa.RecordBatch, bool]:
    """A batch without the rows that go, and whether anything differs."""
    columns, gone, changed = list(batch.columns), pa.array([False] * len(batch), pa.bool_()), False
    for at, item in enumerate(batch.schema):
        if item.name in LABELS and pa.types.is_string(item.type) and relabel:
            values = columns[at].to_pylist()
            named = [relabel.get(str(value), value) for value in values]
            changed = changed or named != values
            columns[at] = pa.array(named, item.type)
        gone = pc.or_(gone, _rows_that_mention(columns[at], traces))
    changed = changed or bool(pc.any(gone).as_py())
    kept = pa.RecordBatch.from_arrays(columns, schema=batch.schema).filter(pc.invert(gone))
    return kept, changed


def _rows_that_mention(column: Any, traces: Traces) -> Any:  # arrays of text -> of truth
    if pa.types.is_string(column.type):
        values = pc.unique(column)
        bad = [value for value in values.to_pylist() if value and traces.mentioned(value)]
        return pc.is_in(column, pa.array(bad, column.type))
    if not _holds_text(column.type):
        return pa.array([False] * len(column), pa.bool_())
    said = [any(map(traces.mentioned, _strings(value))) for value in column.to_pylist()]
    return pa.array(said, pa.bool_())
