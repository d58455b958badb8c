"""One file from its addresses to its final name: resumed where it stopped, verified before it is named."""

from __future__ import annotations

import errno
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import IO

import requests

from ffhqref.core.store import UserError, below
from ffhqref.download.addresses import host, public
from ffhqref.download.ledger import BLOCK, Beside, Digests, Entry, Ledger, verified
from ffhqref.download.network import Network, Refused, Trouble, Wrong, confirmation, troubles
from ffhqref.download.pages import MAX_PAGE, page_text
from ffhqref.download.parts import Mirror, Origin, Part, Reported, Tell
from ffhqref.download.sources import SourceFile

CHUNK = 1 << 18  # bytes asked of the socket at a time; it gives what is there, so a kill loses little
SPARE = 64 << 20  # bytes of disk that are never filled
MAX_CONFIRMATIONS = 3
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
LARGE = 16 << 20  # bytes from which on a thread of its own is worth it for the digest


class Transfer:
    """Fetches files into one folder. Shared by threads; a file is fetched by one of them."""

    def __init__(self, out: Path, network: Network, ledger: Ledger, mirrors: list[Mirror]) -> None:
        self.out = out
        self.network = network
        self.ledger = ledger
        self.mirrors = mirrors

    def fetch(self, file: SourceFile, tell: Tell) -> Entry:
        """Get the file under its final name and into the ledger; Refused with every address's reason.

        `tell` hears the bytes as they arrive, those that an earlier run left first.
        """
        part = Part(self.out, file.path)
        told = Reported(tell)
        told.set(part.size())
        reasons: list[str] = []
        for entry in self._attempts(file, part, told, reasons):
            self.ledger.add(entry)
            return entry
        told.set(0)
        unique = list(dict.fromkeys(reasons))
        raise Refused("; ".join(unique) or "it has no address: give --mirror")

    def _attempts(self, file: SourceFile, part: Part, told: Reported, reasons: list[str]) -> Iterator[Entry]:
        """Yield the entry of the finished file from the first place that gives it."""
        for mirror in self.mirrors:
            if mirror.exhausted:
                reasons.append(
                    f"{public(mirror.base)} lacked {mirror.misses} files in a row and was asked no more"
                )
                continue
            for name in mirror.names(file.path):
                try:
                    yield self._from_mirror(file, part, mirror, name, told)
                except Refused as refusal:
                    reasons.append(str(refusal))
            mirror.misses += 1
        for url in file.urls:
            try:
                yield self._from_url(file, part, url, told)
            except Refused as refusal:
                reasons.append(str(refusal))

    def _from_mirror(self, file: SourceFile, part: Part, mirror: Mirror, name: str, told: Reported) -> Entry:
        if mirror.folder is None:
            entry = self._from_url(file, part, mirror.url(name), told)
        else:
            entry = self._from_disk(file, part, mirror.folder / name, told)
        mirror.found(file.path, name)
        return entry

    def _from_disk(self, file: SourceFile, part: Part, origin: Path, told: Reported) -> Entry:
        if not origin.is_file():
            raise Refused(f"{origin.parent} has no such file")
        part.start(Origin(url=str(origin)))
        told.set(0)
        digests = Digests(file)
        with origin.open("rb", buffering=0) as source, part.path.open("ab", buffering=0) as sink:
            while piece := source.read(BLOCK):
                self._write(sink, piece, digests.update, told)
        try:
            return self._finish(file, part, digests, str(origin))
        except Trouble as trouble:
            raise Refused(str(trouble)) from None

    def _from_url(self, file: SourceFile, part: Part, url: str, told: Reported) -> Entry:
        """Attempt until it is there; attempts that bring the file forward are not counted."""
        manners = self.network.manners
        spent, best = 0, part.size()
        while True:
            try:
                with self.network.slot(url):
                    entry = self._attempt(file, part, url, told)
                self.network.count(url)
                return entry
            except Refused as refusal:
                if refusal.whole_host:
                    self.network.count(url, str(refusal))
                raise
            except Trouble as trouble:
                size = part.size()
                told.set(size)
                step = min(1 << 20, max(1, (file.bytes or 0) // 200))
                spent = 0 if size >= best + step and trouble.cost == 1 else spent + trouble.cost
                best = max(best, size)
                if spent >= manners.retries:
                    self.network.count(url, "" if isinstance(trouble, Wrong) else str(trouble))
                    raise Refused(f"{trouble} ({manners.retries} attempts)") from None
                if trouble.wait:
                    self.network.pause(url, trouble.wait)
                wait = max(trouble.wait, self.network.backoff(f"{url} {file.path}", max(0, spent - 1)))
            self.network.sleep(wait)

    def _attempt(self, file: SourceFile, part: Part, url: str, told: Reported) -> Entry:
        """One request, from where the part file stops, to the end of the file or of the connection."""
        place = public(url)
        have, origin = part.usable(file, place)
        if origin and have and have == (origin.length or file.bytes):  # killed after the last byte
            digests = Digests(file)
            digests.read(part.path)
            return self._finish(file, part, digests, origin.url)
        headers = {"Range": f"bytes={have}-"} if have else {}
        if have and origin and origin.validator and origin.url == place:
            headers["If-Range"] = origin.validator
        response, pieces = self._open(file, url, headers)
        try:
            if response.status_code == 416:
                part.drop()
                raise Trouble(f"{host(url)} has a shorter file than before")
            digests = self._receive(file, part, place, response, pieces, told)
        finally:
            response.close()
        return self._finish(file, part, digests, place)

    def _open(
        self, file: SourceFile, url: str, headers: dict[str, str]
    ) -> tuple[requests.Response, Iterator[bytes]]:
        """The answer and its body, behind the pages that only ask to confirm."""
        address = url
        for _ in range(MAX_CONFIRMATIONS):
            response = self.network.get(address, headers)
            pieces = _pieces(response)
            if response.status_code != 200 or file.path.endswith((".html", ".htm")):
                return response, pieces
            head = b""
            while len(head) < 64 and (piece := next(pieces, b"")):
                head += piece
            kind = response.headers.get("Content-Type", "").lower()
            if "text/html" not in kind and not re.match(rb"\s*<(!doctype html|html)", head, re.IGNORECASE):
                return response, chain([head], pieces)
            while len(head) < MAX_PAGE and (piece := next(pieces, b"")):
                head += piece
            page = page_text(head, response.headers.get("Content-Encoding", ""))
            response.close()
            address = confirmation(page, response.url)
        raise Refused(f"{host(url)} asks again and again to confirm")

    def _receive(
        self,
        file: SourceFile,
        part: Part,
        url: str,
        response: requests.Response,
        pieces: Iterator[bytes],
        told: Reported,
    ) -> Digests:
        """Write the body to the part file, from 0 or, where the server agrees, from where it stops."""
        digests = Digests(file)
        start, origin = _agreed(response, part, file, url)
        if start:
            digests.read(part.path)
        else:
            _check_length(file, origin)
            part.start(origin)
        size = told.set(start)
        limit = _limit(file, origin)
        large = (origin.length or 0) - start > LARGE
        with (
            part.path.open("ab", buffering=0) as sink,
            Beside(digests) if large else nullcontext(digests.update) as update,
        ):
            for piece in pieces:
                size += len(piece)
                if size > limit:
                    break
                self._write(sink, piece, update, told)
        if size > limit:
            part.drop()
            raise Wrong(f"{host(url)} sends more than the {limit:,} bytes it should")
        self._check_end(file, part, url, response, origin, size)
        return digests

    @staticmethod
    def _check_end(
        file: SourceFile, part: Part, url: str, response: requests.Response, origin: Origin, size: int
    ) -> None:
        """Whether the body ended where it should: Trouble where it broke off, Refused where none can say."""
        exact = file.bytes if not (origin.encoding or file.pixel_md5) else None
        whole = origin.length if origin.length is not None else exact
        if whole is not None and size < whole:
            raise Trouble(f"{host(url)} broke off after {size:,} of {whole:,} bytes")
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        if origin.length is None and not chunked and file.bytes is None and not file.digest:
            part.drop()
            raise Refused(f"{host(url)} does not say how long the file is: give its bytes or sha256")

    def _write(self, sink: FileIO, piece: bytes, update: Callable[[bytes], None], told: Reported) -> None:
        view = memoryview(piece)
        while view:
            view = view[sink.write(view) :]
        if self._filled(told.size, told.size + len(piece)) and shutil.disk_usage(self.out).free < SPARE:
            raise OSError(errno.ENOSPC, "no space left")
        update(piece)
        told.set(told.size + len(piece))
        self.network.took(len(piece))

    @staticmethod
    def _filled(before: int, after: int) -> bool:
        """Whether it is time again to look how much of the disk is left."""
        return before // (SPARE // 2) != after // (SPARE // 2)

    def _finish(self, file: SourceFile, part: Part, digests: Digests, url: str) -> Entry:
        """Verify the part file and give it its name; Trouble, and no part file, where it is wrong."""
        pin = self.ledger.get(file.path)
        entry, reason = verified(file, part.path, digests.entry(file, part.path, url), pin)
        origin = part.origin()
        if origin and origin.encoding and (reason or not _known(file, pin)):
            entry, reason = self._decoded(file, part, url, pin)
        if reason:
            part.drop()
            raise Wrong(f"{host(url)} sent another file: {reason}")
        final = below(self.out, file.path)
        part.name(final)
        return replace(entry, mtime_ns=final.stat().st_mtime_ns)

    def _decoded(self, file: SourceFile, part: Part, url: str, pin: Entry | None) -> tuple[Entry, str]:
        """Undo the gzip a server put around a file, never beyond the size the file may have."""
        limit = file.bytes if file.bytes is not None else 100 * part.size() + BLOCK
        digests, plain = Digests(file), part.path.with_suffix(".plain")
        try:
            with part.path.open("rb") as source, plain.open("wb") as sink:
                for piece in _gunzipped(source, limit):
                    sink.write(piece)
                    digests.update(piece)
            os.replace(plain, part.path)
        except (zlib.error, OSError) as error:
            plain.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise
            return digests.entry(file, part.path, url), f"its gzip cannot be undone ({error})"
        return verified(file, part.path, digests.entry(file, part.path, url), pin)


def full_disk(out: Path) -> UserError:
    """What is raised where the disk is full, so that the run ends and keeps what is there."""
    return UserError(
        f"The disk of {out} is full: free some space and run the same command again; what is there is kept."
    )


def _gunzipped(source: IO[bytes], limit: int) -> Iterator[bytes]:
    """What gzip's members (or zlib's stream) hold, one after another; zlib.error where one is cut short."""
    machine, size, data = zlib.decompressobj(47), 0, source.read(CHUNK)
    while data:
        if machine.eof:  # another member follows
            machine = zlib.decompressobj(31)
        piece = machine.decompress(data, BLOCK)
        size += len(piece)
        if size > limit:
            raise zlib.error("it unpacks to more than the file's size")
        yield piece
        data = machine.unconsumed_tail or machine.unused_data or source.read(CHUNK)
    if not machine.eof:
        raise zlib.error("it is cut short")


def _known(file: SourceFile, pin: Entry | None) -> bool:
    """Whether something beside the server's word says what the bytes are."""
    return bool(file.digest or file.bytes is not None or pin or file.path.endswith((".gz", ".tgz")))


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """The body as it arrives and as it was sent (no content encoding undone)."""
    while True:
        with troubles(response.url):
            piece = response.raw.read1(CHUNK, decode_content=False)
        if not piece:
            return
        yield piece


def _agreed(response: requests.Response, part: Part, file: SourceFile, url: str) -> tuple[int, Origin]:
    """From which byte the server sends, and of what; Trouble where that does not fit the part file."""
    headers = response.headers
    length = headers.get("Content-Length", "")
    encoding = headers.get("Content-Encoding", "").strip().lower()
    origin = Origin(
        url=url,
        etag=headers.get("ETag", "")[:500],
        modified=headers.get("Last-Modified", "")[:100],
        length=int(length) if re.fullmatch(r"\d{1,18}", length) else None,
        encoding="" if encoding == "identity" else encoding,
    )
    if response.status_code == 200:
        return 0, origin
    found = CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    before = part.origin()
    if not found or before is None or int(found.group(1)) != part.size():
        part.drop()
        raise Wrong(f"{host(url)} sent another range than it was asked for")
    total = None if found.group(2) == "*" else int(found.group(2))
    whole = (before.length or total) == total and before.encoding == origin.encoding
    if not whole or (url == before.url and _changed(before, origin, told=not file.digest)):
        part.drop()
        raise Trouble(f"the file at {host(url)} changed")
    if total is None and not file.digest:
        part.drop()
        raise Trouble(f"{host(url)} does not say of how long a file it sends a part")
    return part.size(), replace(origin, length=total)


def _changed(before: Origin, now: Origin, *, told: bool) -> bool:
    """Whether an answer is of another version of a file than its beginning was.

    With `told` the server must say that it is not, for want of a digest that would show it: with the ETag
    that it gave first, which an answer to If-Range always repeats, or else with the date.
    """
    if told and (before.etag or before.modified):
        if before.etag != now.etag or (not before.etag and before.modified != now.modified):
            return True
    pairs = [(before.etag, now.etag), (before.modified, now.modified)]
    return any(one and other and one != other for one, other in pairs)


def _check_length(file: SourceFile, origin: Origin) -> None:
    """Do not fetch what cannot be the file."""
    if file.bytes is None or origin.length is None or origin.encoding or file.pixel_md5:
        return
    if origin.length != file.bytes:
        raise Wrong(
            f"{host(origin.url)} has a file of {origin.length:,} bytes and it should have {file.bytes:,}"
        )


def _limit(file: SourceFile, origin: Origin) -> int:
    """The most bytes that are taken: the file's own, the server's, or a picture's greatest."""
    if file.pixel_md5:
        return 8 * (file.bytes or 0) + (16 << 20)
    if file.bytes is not None and not origin.encoding:
        return file.bytes
    return origin.length if origin.length is not None else 1 << 42
