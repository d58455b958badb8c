"""A file on a server as something to seek and read in, by ranges: a zip's directory without the zip."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, cast

import requests

from ffhqref.download.network import Network, Refused, Trouble, confirmation, read_page, troubles
from ffhqref.download.transfer import CONTENT_RANGE

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LEAST = 1 << 16  # bytes fetched at a time, so that a directory costs one request and not hundreds


class RemoteFile(io.RawIOBase):
    """Read-only and seekable. Refused where the server knows no ranges or its file changes meanwhile."""

    def __init__(self, network: Network, url: str) -> None:
        super().__init__()
        self._network = network
        self._url = url
        self._at = 0
        self._validator = ""
        self._first: tuple[str, str] | None = None  # ETag and date of the first answer
        self.fetched = 0  # bytes, of the file's own
        self.size = -1
        self.size = self._retried(lambda: self._range(0, 0))[1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        count = min(len(view), self.size - self._at)
        if count <= 0:
            return 0
        data, _ = self._retried(lambda: self._range(self._at, self._at + count - 1))
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _retried(self, ask: Callable[[], tuple[bytes, int]]) -> tuple[bytes, int]:
        spent = 0
        while True:
            try:
                with self._network.slot(self._url):
                    return ask()
            except Trouble as trouble:
                spent += trouble.cost
                if spent >= self._network.manners.retries:
                    raise Refused(f"{trouble} ({spent} attempts)") from None
                wait = max(trouble.wait, self._network.backoff(self._url, spent - 1))
            self._network.sleep(wait)

    def _range(self, first: int, last: int) -> tuple[bytes, int]:
        """Bytes `first` to `last`, and the size of the whole."""
        headers = {"Range": f"bytes={first}-{last}"}
        if self._validator:
            headers["If-Range"] = self._validator
        response = self._network.get(self._url, headers)
        if response.status_code == 200 and "text/html" in response.headers.get("Content-Type", "").lower():
            page, address = read_page(response), response.url
            response.close()
            self._url = confirmation(page, address)
            response = self._network.get(self._url, headers)
        try:
            return self._read(response, first, last)
        finally:
            response.close()

    def _read(self, response: requests.Response, first: int, last: int) -> tuple[bytes, int]:
        found = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if response.status_code != 206 or not found or response.headers.get("Content-Encoding"):
            raise Refused("the server gives no parts of the file, or the file changed meanwhile")
        if int(found.group(1)) != first or found.group(2) == "*":
            raise Refused("the server gives other parts of the file than it was asked for")
        total = int(found.group(2))
        if self.size not in (-1, total):
            raise Refused("the file changed while it was read")
        wanted = min(last, total - 1) - first + 1
        with troubles(self._url):
            data = response.raw.read(wanted, decode_content=False)
        if len(data) != wanted:
            raise Trouble("the server broke off")
        self._hold_to(response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
        self.fetched += len(data)
        self._network.took(len(data))
        return data, total

    def _hold_to(self, etag: str, modified: str) -> None:
        """Refused where the version of the file is not that of the first answer."""
        now = (etag, modified)
        first = self._first = self._first or now
        if (first[0] and first[0] != etag) or (first[1] and modified and first[1] != modified):
            raise Refused("the file changed while it was read")
        strong = etag if not etag.startswith("W/") else ""
        self._validator = self._validator or strong or modified


def open_remote(network: Network, url: str) -> tuple[IO[bytes], RemoteFile]:
    """A buffered reader over the file at `url`, and the file beneath it, which knows its size."""
    remote = RemoteFile(network, url)
    return cast("IO[bytes]", io.BufferedReader(remote, LEAST)), remote
