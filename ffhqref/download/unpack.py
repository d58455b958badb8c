"""The archives of a download: what of them is there, and how to get what is not with the least traffic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from ffhqref.core.store import below, need_space
from ffhqref.download.archives import BadArchive, Member, extract, list_members, read_index, write_index
from ffhqref.download.ledger import read_entry
from ffhqref.download.network import Refused
from ffhqref.download.parts import Tell
from ffhqref.download.remote import open_remote
from ffhqref.download.selection import Task
from ffhqref.download.sources import SourceFile
from ffhqref.download.transfer import Transfer


class Unpacker:
    """Has the wanted members of archives: from the archive, or by ranges where few are wanted.

    An archive counts as there while its wanted members are, so that it may be deleted once unpacked.
    `on_disk` says whether a file stands under its name and is right by its bytes.
    """

    def __init__(
        self,
        out: Path,
        transfer: Transfer,
        verify: bool,
        on_disk: Callable[[SourceFile], bool],
        tell: Tell,
    ) -> None:
        self._out = out
        self._transfer = transfer
        self._ledger = transfer.ledger
        self._verify = verify
        self._on_disk = on_disk
        self._tell = tell
        self.others: frozenset[str] = frozenset()  # paths of the run's files, which no archive may replace

    def done(self, task: Task) -> bool:
        """Whether every wanted member is there, by its stat."""
        members = read_index(self._out, task.file)
        return members is not None and not self._bad(_chosen(task, members), read=False)

    def do(self, task: Task) -> None:
        """Have the members; Refused or BadArchive where they cannot be had."""
        known = read_index(self._out, task.file)
        path = below(self._out, task.file.path)
        if known is not None and not self._bad(_chosen(task, known), self._verify):
            if not (self._verify and path.exists()) or self._on_disk(task.file):
                return
        if self.by_ranges(task) and self._by_ranges(task):
            return
        if not self._on_disk(task.file):
            need_space(self._out, task.file.bytes or 0, task.file.path)
            self._transfer.fetch(task.file, self._tell)
        try:
            self._from_disk(task, path)
        except BadArchive as error:
            if not task.file.digest:  # nothing says that this is the right one: do not keep it
                path.unlink(missing_ok=True)
                self._ledger.forget(task.file.path)
            raise BadArchive(f"the archive is not opened: {error}") from None

    def by_ranges(self, task: Task) -> bool:
        """Whether members are wanted out of a zip that is not here: then the server is asked for parts."""
        if not task.file.path.endswith(".zip") or below(self._out, task.file.path).exists():
            return False
        return not task.selection.wants(task.file.path) or read_index(self._out, task.file) is not None

    def _from_disk(self, task: Task, path: Path) -> None:
        size = path.stat().st_size
        with path.open("rb") as archive:
            members = self._listed(archive, size, task)
            wanted = self._bad(_chosen(task, members), self._verify)
            need_space(self._out, sum(member.bytes for member in wanted), f"Unpacking {task.file.path}")
            write_index(self._out, task.file, members)
            archive.seek(0)
            extract(archive, task.file, wanted, self._out, self._ledger, pinned=False, tell=self._unpacked)

    def _listed(self, archive: IO[bytes], size: int, task: Task) -> list[Member]:
        """What the archive would unpack to; BadArchive or Refused where something else stands there."""
        members = list_members(archive, size, task.file)
        for member in members:
            if member.path in self.others:
                raise BadArchive(f"its member {member.name[:80]!r} is another file of the download")
        for member in _chosen(task, members):
            if below(self._out, member.path).is_dir():
                raise Refused(f"{below(self._out, member.path)} is a folder: move it away")
        return members

    def _unpacked(self, count: int) -> None:
        self._transfer.network.took(0)  # ends here where the run is stopping

    def _bad(self, members: Sequence[Member], read: bool) -> list[Member]:
        """The members that are not there as they were extracted; with `read`, by their bytes."""
        bad = []
        for member in members:
            entry = self._ledger.get(member.path)
            if entry is None or entry.bytes != member.bytes or not self._ledger.unchanged(entry):
                bad.append(member)
            elif read:
                now = read_entry(SourceFile(path=member.path), below(self._out, member.path))
                if now.sha256 != entry.sha256:
                    bad.append(member)
        return bad

    def _by_ranges(self, task: Task) -> bool:
        """Fetch the wanted members out of a remote zip; False where the whole archive is the better way."""
        mirrors = [one for one in self._transfer.mirrors if one.folder is None]
        places = [one.url(name) for one in mirrors for name in one.names(task.file.path)]
        for url in [*places, *task.file.urls]:
            try:
                archive, remote = open_remote(self._transfer.network, url)
                if task.file.bytes in (None, remote.size):
                    return self._from_remote(task, archive, remote.size)
            except Refused:
                continue  # the next address, or the whole archive
        return False

    def _from_remote(self, task: Task, archive: IO[bytes], size: int) -> bool:
        members = self._listed(archive, size, task)
        wanted = self._bad(_chosen(task, members), self._verify)
        if 2 * sum(member.packed for member in wanted) > size:
            return False
        write_index(self._out, task.file, members)
        extract(archive, task.file, wanted, self._out, self._ledger, pinned=True, tell=self._unpacked)
        return True


def _chosen(task: Task, members: Sequence[Member]) -> list[Member]:
    """The members that `--only` and `--exclude` leave; all where the archive itself is selected."""
    selection = task.selection
    whole = selection.wants(task.file.path)
    return [
        member
        for member in members
        if not selection.excludes(member.path) and (whole or selection.wants(member.path))
    ]
