"""The run: what a reader wants -> files below a folder of their own, a journal and a receipt.

Nothing is written before every picture was looked at, and nothing of others is overwritten: a folder with
files that no earlier run of the same export made is refused.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ffhqref.core import journal
from ffhqref.core.journal import Made
from ffhqref.core.store import (
    Receipt,
    UserError,
    below,
    digest,
    digest_given,
    lock,
    need_space,
    read_receipt,
    receipt_path,
    write_receipt,
)
from ffhqref.core.terminal import progress, shown
from ffhqref.export import faceme, hub, people, published, records, shards, targets
from ffhqref.export.contents import Contents
from ffhqref.export.entries import REVISION, Entry
from ffhqref.export.options import PACKED, ExportOptions, Reader

STAGE = "export"
LONGEST = 255  # bytes of a file's name, on most file systems
Plan = Callable[[Contents], Iterable[Entry]]
PLANS: dict[str, Plan] = {
    "refldm": published.plan,
    "instantrestore": targets.instantrestore,
    "faceme": faceme.plan,
    "restorerid": people.restorerid,
    "dmdnet": targets.dmdnet,
    "asffnet": targets.dmdnet,
    "coderefformer": people.coderefformer,
    "dualpivot": people.personal,
    "gen2res": people.personal,
    "folders": people.folders,
    "hf": hub.plan,
    "webdataset": shards.plan,
    "lmdb": records.plan,
}


@dataclass(frozen=True)
class ExportOutcome:
    """What became of an export: files that were made and kept, and sentences on what is not in it."""

    out: Path
    made: int
    kept: int
    notes: tuple[str, ...]


def export_dataset(
    dataset: Path,
    reader: Reader,
    out: Path,
    *,
    photos: Path | None = None,
    options: ExportOptions | None = None,
) -> ExportOutcome:
    """Write the built dataset in the form of `reader` into the folder `out`, which is for this alone.

    `photos` may be left out where `embed` recorded the folder. Crops (images512x512/ of the dataset) are
    taken where there are any. A run that was killed goes on where it stopped, to the same bytes. UserError
    where pictures are missing or not square, two would have one name, or `out` holds anything else.
    """
    options = options or ExportOptions()
    if options.links != "copy" and reader in PACKED:
        raise UserError(f"--for {reader} packs pictures into few files: leave out --links.")
    _refuse_place(dataset, out, photos)
    _refuse_others(out, reader)
    contents = Contents(dataset, photos, options)
    entries = settled(progress(PLANS[reader](contents), f"plan {reader}", "file"))
    contents.check()
    if not entries:
        raise UserError(" ".join(["Nothing would be in the export.", *contents.notes]))
    with lock(out, f"export --for {reader}"):
        return _Run(reader, out, options, tuple(contents.notes), entries).make()


def settled(planned: Iterable[Entry]) -> list[Entry]:
    """Each file once, in order; UserError where two pictures would be one file, or a name is too long."""
    known: dict[str, Entry] = {}
    for entry in planned:
        key = unicodedata.normalize("NFC", entry.file).casefold()
        other = known.setdefault(key, entry)
        if (other.file, other.key) != (entry.file, entry.key):
            raise UserError(
                f"{shown(other.origin)} and {shown(entry.origin)} would both be {shown(entry.file)} in the "
                "export: rename one of them and build again."
            )
        if any(len(os.fsencode(part)) > LONGEST for part in PurePosixPath(entry.file).parts):
            raise UserError(
                f"{shown(entry.origin)} would have a name of more than {LONGEST} bytes: shorten it."
            )
    return [known[key] for key in sorted(known)]


def _refuse_place(dataset: Path, out: Path, photos: Path | None) -> None:
    place = out.resolve()
    for root, what in ((dataset, "dataset"), (photos, "folder of the photographs")):
        if root is not None and (
            place == root.resolve() or (photos is root and root.resolve() in place.parents)
        ):
            raise UserError(f"{out} lies in the {what}: give --out a folder of its own.")


def journal_path(out: Path, reader: str) -> Path:
    """Where an export says what it made."""
    return out / "receipts" / f"{STAGE}-{reader}.jsonl"


def _refuse_others(out: Path, reader: str) -> None:
    """UserError where the folder has files and no export for this reader was begun in it."""
    if not out.is_dir() or journal_path(out, reader).is_file():
        return
    begun = sorted((out / "receipts").glob(f"{STAGE}-*.jsonl"))
    if begun:
        other = begun[0].stem.removeprefix(f"{STAGE}-")
        raise UserError(f"{out} holds an export for {other}: give --out another folder.")
    if odd := next(_visible(out), None):
        raise UserError(f"{out} holds {shown(odd)}, which no export made: give --out an empty folder.")


def _visible(out: Path) -> Iterator[str]:
    """Every file and link below `out` but hidden ones and our own records, in order."""
    for folder, subfolders, files in os.walk(out):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        linked = [name for name in subfolders if Path(folder, name).is_symlink()]
        for name in sorted(file for file in [*files, *linked] if not file.startswith(".")):
            relative = Path(folder, name).relative_to(out).as_posix()
            if not (relative.startswith(f"receipts/{STAGE}") and relative.endswith((".json", ".jsonl"))):
                yield relative


@dataclass(frozen=True)
class _Run:
    reader: str
    out: Path
    options: ExportOptions
    notes: tuple[str, ...]
    entries: Sequence[Entry]

    @property
    def journal(self) -> Path:
        return journal_path(self.out, self.reader)

    def make(self) -> ExportOutcome:
        known = journal.read(self.journal)
        self._refuse_foreign(known)
        missing = [
            entry
            for entry in progress(self.entries, "check", "file")
            if not journal.stands(self.out, entry, known.get(entry.file)) or known[entry.file].status != "ok"
        ]
        stale = known.keys() - {entry.file for entry in self.entries}
        wanted, done = self._wanted(), read_receipt(self.out, STAGE)
        if missing or stale or not (done and done.same_work(wanted)):
            receipt_path(self.out, STAGE).unlink(missing_ok=True)
            need_space(self.out, sum(entry.about for entry in missing), "The export")
            made = known | journal.make_all(
                missing, lambda entry: entry.make(self.out), self.journal,
                workers=self.options.workers, what=f"export {self.reader}",
            )  # fmt: skip
            self._finish(stale, known, made, wanted)
        return ExportOutcome(self.out, len(missing), len(self.entries) - len(missing), self.notes)

    def _wanted(self) -> Receipt:
        options = self.options
        parameters = {
            "reader": self.reader, "splits": list(options.splits), "level": options.level,
            "links": options.links, "size": options.size, "seed": options.seed,
        }  # fmt: skip
        keys = digest(json.dumps([[entry.file, entry.key] for entry in self.entries]).encode())
        landmarks = digest_given(str(options.landmarks) if options.landmarks else None)
        return Receipt(
            stage=STAGE,
            revision=REVISION,
            parameters=parameters,
            inputs={"files": keys, "landmarks": landmarks},
        )

    def _refuse_foreign(self, known: Mapping[str, Made]) -> None:
        """UserError where a file is there that no run of this export made or is about to make."""
        ours = known.keys() | {entry.file for entry in self.entries}
        for file in _visible(self.out):
            if file not in ours:
                raise UserError(
                    f"{self.out} holds {shown(file)}, which this export did not make: move it away first."
                )

    def _finish(
        self, stale: set[str], known: Mapping[str, Made], made: Mapping[str, Made], wanted: Receipt
    ) -> None:
        for file in stale:
            if journal.unchanged(self.out, file, known[file]):
                below(self.out, file).unlink()
                _remove_empty(below(self.out, file).parent, self.out)
        kept = {entry.file: made[entry.file] for entry in self.entries}
        journal.write(self.journal, kept)
        bad = [result for result in kept.values() if result.status != "ok"]
        if bad:
            more = f" and {len(bad) - 1:,} more pictures failed" if len(bad) > 1 else ""
            raise UserError(f"{bad[0].reason}{more}: put back the files and run this again.")
        write_receipt(self.out, wanted, [self.journal], {"files": len(kept), "notes": list(self.notes)})


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder that is empty now, and those above it."""
    while folder != root and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
