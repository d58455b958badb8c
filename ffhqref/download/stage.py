"""Manifest -> files on disk: the only stage that uses the network.

One command that can be killed at any moment and run again: what is there and right costs a stat, a file
that had begun goes on where it stopped, and nothing stands under its final name before it is verified.
"""

from __future__ import annotations

import csv
import errno
import io
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ffhqref.core.store import UserError, below, digest, lock, need_space, read_text, write_text
from ffhqref.core.terminal import Bar, progress_bar
from ffhqref.download.archives import BadArchive, read_index
from ffhqref.download.ledger import Ledger, known_right, read_entry, verified
from ffhqref.download.network import Manners, Network, Refused, Stopped, Trouble
from ffhqref.download.parts import Mirror, Part, sweep_orphans
from ffhqref.download.selection import Selection, Task, listed_names, names_of
from ffhqref.download.sources import MISSING, OWN_NAME, Source, SourceFile
from ffhqref.download.transfer import Transfer, full_disk
from ffhqref.download.unpack import Unpacker

TERMS = f"{OWN_NAME}/terms"


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """What the command line says beside the sources."""

    only: tuple[str, ...] = ()
    exclude: Path | None = None
    mirrors: tuple[str, ...] = ()
    jobs: int = 8
    verify: bool = False
    manners: Manners = field(default_factory=Manners)

    def excluded_names(self) -> list[str]:
        """The lines of the file `exclude`; none without one."""
        return read_text(self.exclude, "a list of names, one a line").splitlines() if self.exclude else []


@dataclass(kw_only=True)
class DownloadOutcome:
    """What a run did. `missing` are (path, reason), ordered by path."""

    wanted: int = 0  # files, those of archives too where they are known
    there: int = 0  # were there and right
    bytes_there: int = 0
    bytes_wanted: int = 0  # of the files to fetch, as far as known
    unknown_sizes: int = 0
    fetched: int = 0  # or, of archives, unpacked
    missing: list[tuple[str, str]] = field(default_factory=list)
    excluded_on_disk: int = 0
    notes: list[str] = field(default_factory=list)


def download(sources: Sequence[Source], out: Path, options: DownloadOptions) -> DownloadOutcome:
    """Fetch the sources' files below `out`. Files that cannot be had are in the outcome, not raised."""
    mirrors = [Mirror(base) for base in options.mirrors]
    network = Network(options.manners)
    with lock(out, "download"):
        sweep_orphans(out)
        ledger = Ledger(out)
        try:
            run = _Run(out, options, Transfer(out, network, ledger, mirrors))
            for source in sources:
                run.add_listing(source)
            run.plan(_selected(sources, options, run.listed))
            run.work()
            run.write_missing()
            run.note_exclusions(sources)
            return run.outcome
        finally:
            ledger.close()


def preview(sources: Sequence[Source], out: Path, options: DownloadOptions) -> DownloadOutcome:
    """What `download` would do, from what is on disk; nothing is fetched or written."""
    ledger = Ledger(out)
    run = _Run(out, options, Transfer(out, Network(options.manners), ledger, []))
    for source in sources:
        run.add_listing(source, fetch=False)
    run.plan(_selected(sources, options, run.listed), check_space=False)
    return run.outcome


def accept_terms(source: Source, out: Path, ask: Callable[[str], bool]) -> None:
    """Return once the source's terms are accepted, for this folder now or before; UserError else.

    `ask` shows them and says whether they are.
    """
    kept = out / TERMS / f"{digest(source.terms.encode())[:32]}.txt"
    if not source.terms or kept.is_file():
        return
    if not ask(source.terms):
        raise UserError(
            f"{source.name} was not downloaded: read its terms and give --accept-terms to accept them."
        )
    write_text(kept, f"{source.name}\n\n{source.terms}\n")


def _selected(
    sources: Sequence[Source], options: DownloadOptions, listed: dict[str, list[SourceFile]]
) -> Iterator[Task | str]:
    """The tasks of all sources in order, and the paths that are excluded; UserError where none is left."""
    excluded = options.excluded_names()
    seen: dict[str, SourceFile] = {}
    chosen = False
    for source in sources:
        selection = Selection.make(options.only, source, excluded)
        chosen = chosen or bool(source.listing and source.name not in listed)
        for file, asked in _wanted(source, selection, listed.get(source.name, ())):
            if selection.excludes(file.path):
                yield file.path
                continue
            chosen = chosen or asked
            if seen.setdefault(file.path, file) != file:
                raise UserError(f"Two sources have a file {file.path}: give them folders of their own.")
            if seen[file.path] is file:
                yield Task(file, selection)
    if not chosen:
        raise UserError(f"--only {' '.join(options.only)} selects no file: see --dry-run without it.")


def _wanted(
    source: Source, selection: Selection, listed: Sequence[SourceFile]
) -> Iterator[tuple[SourceFile, bool]]:
    """The files that are excluded or wanted, and whether they count as selected: a listing is always had."""
    always = {file.path for file in source.files} if source.listing else set()
    for file in [*source.files, *listed]:
        wanted = file.unpack or file.path in always or selection.wants(file.path)
        if wanted or selection.excludes(file.path):
            yield file, file.path not in always


class _Run:
    """One run: the tasks that are left, the threads that do them, the bar they move."""

    def __init__(self, out: Path, options: DownloadOptions, transfer: Transfer) -> None:
        self.out = out
        self.options = options
        self.transfer = transfer
        self.ledger = transfer.ledger
        self.network = transfer.network
        self.outcome = DownloadOutcome()
        self.listed: dict[str, list[SourceFile]] = {}
        self.tasks: list[Task] = []
        self.unpacker = Unpacker(out, transfer, options.verify, self._on_disk, self._tell)
        self._lock = threading.Lock()
        self._fatal: list[BaseException] = []
        self._bar: Bar | None = None  # while threads work

    def add_listing(self, source: Source, fetch: bool = True) -> None:
        """Have the source's listing, where it has one, and the files that it names."""
        if not source.listing:
            return
        file = source.files[0]
        if fetch and not self._right(file):
            self.tasks = [Task(file, Selection.make((), source, ()))]
            need_space(self.out, file.bytes or 0, file.path)
            self.work()
            self.tasks = []
        entry = self.ledger.get(file.path)
        if entry and self._right(file):
            from ffhqref.download import metadata

            names = Selection.make((), source, self.options.excluded_names())
            digest_of = entry.sha256 or entry.md5
            self.listed[source.name] = metadata.list_files(
                self.out,
                below(self.out, file.path),
                digest_of,
                source.listing,
                names.excludes,
                keep=fetch,
                total=source.listed_files,
            )
        elif not fetch:
            self._expect(source)

    def _expect(self, source: Source) -> None:
        """Count what is wanted of a listing that is not there yet."""
        from ffhqref.download import metadata

        selection = Selection.make(self.options.only, source, self.options.excluded_names())
        names = metadata.usual_names(source.listing, source.listed_files)
        count = sum(selection.wants(name) and not selection.excludes(name) for name in names)
        size = round(source.about_bytes * count / max(1, source.listed_files))
        self.outcome.notes.append(
            f"{source.name}: {source.files[0].path}, which lists the files, is not there yet; about "
            f"{count:,} files of {size / 1e9:.1f} GB in all are selected"
        )
        self.outcome.wanted += count
        self.outcome.bytes_wanted += size

    def plan(self, selected: Iterator[Task | str], check_space: bool = True) -> None:
        """Leave out what is there and right by its stat; UserError where the disk is too small."""
        needed, paths = 0, set()
        for task in selected:
            if isinstance(task, str):
                self.outcome.excluded_on_disk += below(self.out, task).is_file()
                continue
            self.outcome.wanted += 1
            paths.add(task.file.path)
            if not self.options.verify and self._done(task):
                self.outcome.there += 1
                self.outcome.bytes_there += task.file.bytes or 0
                continue
            self.tasks.append(task)
            size = self._to_fetch(task)
            self.outcome.unknown_sizes += size is None
            self.outcome.bytes_wanted += size or 0
            if not below(self.out, task.file.path).exists():
                needed += max(0, (size or 0) - Part(self.out, task.file.path).size())
        self.unpacker.others = frozenset(paths)
        if check_space and needed:
            need_space(self.out, needed, f"Downloading {len(self.tasks):,} files")

    def _to_fetch(self, task: Task) -> int | None:
        """How many bytes the task fetches; None where that shows on the way."""
        if not task.file.unpack or not self.unpacker.by_ranges(task):
            return task.file.bytes
        if task.file.bytes:
            self.outcome.notes.append(
                f"{task.file.path}: what is selected is read out of its {task.file.bytes / 1e6:,.1f} MB, "
                "if the server sends parts of files"
            )
        return None

    def _right(self, file: SourceFile) -> bool:
        entry = self.ledger.get(file.path)
        return entry is not None and known_right(file, entry) and self.ledger.unchanged(entry)

    def _done(self, task: Task) -> bool:
        if not task.file.unpack:
            return self._right(task.file)
        return self.unpacker.done(task)

    def work(self) -> None:
        """Do the tasks in threads, with a bar in bytes; the first fatal error is raised at the end."""
        tasks = iter(self.tasks)
        count = max(1, min(self.options.jobs, len(self.tasks)))
        total = sum(task.file.bytes or 0 for task in self.tasks)
        threads = [threading.Thread(target=self._worker, args=(tasks,), daemon=True) for _ in range(count)]
        with progress_bar("download", "B", total, scaled=True, smoothing=0.05) as self._bar:
            try:
                for thread in threads:
                    thread.start()
                for thread in threads:
                    while thread.is_alive():
                        thread.join(0.2)
            except BaseException:
                self.network.stop.set()
                for thread in threads:
                    thread.join(5)
                raise
        if self._fatal:
            raise self._fatal[0]

    def _worker(self, tasks: Iterator[Task]) -> None:
        while not self.network.stop.is_set():
            with self._lock:
                task = next(tasks, None)
            if task is None:
                return
            try:
                self._do(task)
            except Stopped:
                return
            except (Refused, Trouble, BadArchive) as error:
                self._miss(task.file.path, str(error))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):  # the other tasks would fare the same
                    return self._end(full_disk(self.out))
                self._miss(task.file.path, f"{error.filename or 'the disk'}: {error.strerror or error}")
            except BaseException as error:
                return self._end(error)

    def _end(self, error: BaseException) -> None:
        self._fatal.append(error)
        self.network.stop.set()

    def _miss(self, path: str, reason: str) -> None:
        written = reason.encode("utf-8", "backslashreplace").decode()  # it may hold a file's name
        with self._lock:
            self.outcome.missing.append((path, written))
            if self._bar is not None:
                self._bar.set_postfix_str(f"{len(self.outcome.missing)} missing", refresh=False)

    def _tell(self, count: int) -> None:
        with self._lock:
            assert self._bar is not None  # only tasks tell
            self._bar.total = max(self._bar.total or 0, self._bar.n + count)
            self._bar.update(count)

    def _do(self, task: Task) -> None:
        if below(self.out, task.file.path).is_dir():
            raise Refused(f"{below(self.out, task.file.path)} is a folder: move it away")
        there = not task.file.unpack and self._on_disk(task.file)
        if task.file.unpack:
            self.unpacker.do(task)
        elif not there:
            self.transfer.fetch(task.file, self._tell)
        with self._lock:
            self.outcome.there += there
            self.outcome.fetched += not there

    def _on_disk(self, file: SourceFile) -> bool:
        """Whether the file stands under its name and is right, by its bytes; then the ledger knows it."""
        path = below(self.out, file.path)
        if not path.is_file():
            return False
        if file.bytes is not None and path.stat().st_size != file.bytes and not file.pixel_md5:
            return False
        told = [0]

        def tell(count: int) -> None:
            told[0] += count
            self._tell(count)
            self.network.took(0)

        found = read_entry(file, path, "disk", tell)
        entry, reason = verified(file, path, found, self.ledger.get(file.path))
        if reason:
            self._tell(-told[0])
            return False
        self.ledger.add(entry)
        return True

    def note_exclusions(self, sources: Sequence[Source]) -> None:
        """Note what a source's own list leaves out, and the names of `--exclude` that fit nothing."""
        fitting: set[str] = set()
        for source in sources:
            if source.exclude:
                self.outcome.notes.append(
                    f"{source.name}: {len(source.exclude):,} images are left out because people asked for it "
                    f"(as of {source.exclude_date})"
                )
            for file in [*source.files, *self.listed.get(source.name, ())]:
                fitting.update(names_of(file.path))
                members = read_index(self.out, file) or () if file.unpack else ()
                fitting.update(name for member in members for name in names_of(member.path))
        left = sorted(listed_names(self.options.excluded_names()) - fitting)
        if left:
            shown = ", ".join(left[:5]) + (", ..." if len(left) > 5 else "")
            self.outcome.notes.append(f"{len(left):,} names of {self.options.exclude} fit no file: {shown}")

    def write_missing(self) -> None:
        """Leave the list of what is missing and why, or none where nothing is."""
        self.outcome.missing.sort()
        path = self.out / MISSING
        if not self.outcome.missing:
            path.unlink(missing_ok=True)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "reason"])
        writer.writerows(self.outcome.missing)
        write_text(path, text.getvalue())
