"""`lmdb`: what basicsr reads: SPLIT_gt.lmdb and SPLIT_lq.lmdb, each with its meta_info.txt.

A database is written in batches beside its place, so that a killed run goes on with the next batch, and
then copied to its place in the order of its keys: the bytes do not tell in how many runs it was made.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ffhqref.core import lists
from ffhqref.core.journal import Made
from ffhqref.core.store import UserError, below, digest_file, flush, write_text
from ffhqref.export.contents import Contents, Picture, flat
from ffhqref.export.entries import BytesEntry, Entry, keyed, packed, text_entry

BATCH = 64  # pictures in a transaction
COMPRESSION = 3  # of the PNGs that are written here; basicsr reads it and does nothing with it
LONGEST_KEY = 511  # bytes, LMDB's own bound


def key_of(name: str) -> str:
    """A name as a key: basicsr takes what comes before the first dot or space of a line."""
    return re.sub(r"[^\w-]", "_", flat(name))


def plan(contents: Contents) -> Iterator[Entry]:
    """The databases, and reference_mapping/SPLIT_references.csv with their keys as names (`.png` added)."""
    if find_spec("lmdb") is None:
        raise UserError("The package lmdb writes this: `pip install 'ffhqref[export]'`.")
    for split in contents.mappings:
        samples = contents.samples(split)
        if not samples:
            continue
        clean = {picture.name: picture for s in samples for picture in (s.target, *s.references)}
        yield from _database(contents, f"{split}_gt.lmdb", clean)
        low = {sample.target.name: sample.lq for sample in samples if sample.lq}
        if low:
            yield from _database(contents, f"{split}_lq.lmdb", low)
        rows = [
            (f"{key_of(s.target.name)}.png", [f"{key_of(r.name)}.png" for r in s.references]) for s in samples
        ]
        text = lists.reference_csv(rows, with_lq=split != "train")
        yield BytesEntry(f"reference_mapping/{split}_references.csv", text.encode())


def _database(contents: Contents, folder: str, pictures: dict[str, Picture]) -> Iterator[Entry]:
    size = contents.options.size
    keys: dict[str, str] = {}
    for name in pictures:
        other = keys.setdefault(key_of(name), name)
        if other != name:
            raise UserError(f"{other} and {name} would both be the key {key_of(name)}: rename one of them.")
        if len(key_of(name).encode()) > LONGEST_KEY:
            raise UserError(f"{name} would be a key of more than {LONGEST_KEY} bytes: shorten it.")
    ordered = sorted(keys, key=str.encode)
    sides = [size or pictures[keys[key]].side for key in ordered]
    lines = [f"{key}.png ({side},{side},3) {COMPRESSION}" for key, side in zip(ordered, sides, strict=True)]
    yield text_entry(f"{folder}/meta_info.txt", lines)
    yield DatabaseEntry(f"{folder}/data.mdb", tuple((key, pictures[keys[key]]) for key in ordered), size)


@dataclass(frozen=True)
class DatabaseEntry:
    """An LMDB: PNG files by key, in the order of the keys."""

    file: str
    pictures: Sequence[tuple[str, Picture]]
    size: int

    @property
    def key(self) -> str:
        rows = [[key, str(picture.path), picture.stamp] for key, picture in self.pictures]
        return keyed(rows, self.size)

    @property
    def origin(self) -> str:
        return self.file

    @property
    def about(self) -> int:
        return 2 * sum(picture.bytes_about(self.size) for _, picture in self.pictures)

    def make(self, out: Path) -> Made:
        import lmdb

        path = below(out, self.file)
        work, final = (path.parent.parent / f".{path.parent.name}.{kind}" for kind in ("making", "copy"))
        self._begin(work)
        bound = sum(8192 + max(p.stamp[0], 4 * (self.size or p.side) ** 2) for _, p in self.pictures)
        env = lmdb.open(str(work), map_size=(64 << 20) + bound, lock=False, readahead=False)
        try:
            self._fill(env)
            shutil.rmtree(final, ignore_errors=True)
            final.mkdir()
            env.copy(str(final), compact=True)
        finally:
            env.close()
        flush(final / "data.mdb")
        path.parent.mkdir(exist_ok=True)
        (final / "data.mdb").replace(path)
        flush(path.parent)
        shutil.rmtree(final)
        shutil.rmtree(work)
        return Made(self.key, digest_file(path))

    def _begin(self, work: Path) -> None:
        """Keep what an earlier run made of the same pictures; else begin anew."""
        stamp = work / "of"
        if not (stamp.is_file() and stamp.read_text(encoding="ascii", errors="replace") == self.key):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            write_text(stamp, self.key)

    def _fill(self, env: object) -> None:
        done = env.stat()["entries"]  # type: ignore[attr-defined]
        for at in range(done, len(self.pictures), BATCH):
            with env.begin(write=True) as transaction:  # type: ignore[attr-defined]
                for key, picture in self.pictures[at : at + BATCH]:
                    transaction.put(key.encode(), packed(picture, self.size), append=True)
