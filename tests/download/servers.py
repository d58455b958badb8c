"""A web server that misbehaves on demand: threads, real sockets, loopback only.

Each path has a `Doc`; its fields say how it is served. Everything that was asked and sent is counted, so
that tests can say what a client fetched twice.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

# The pages Google Drive sends instead of a file, in the form they have had since 2022 (public reports).
DRIVE_CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>
<style>.uc-footer{{color:#ccc}}</style></head><body><div class="uc-main"><div id="uc-text">
<p class="uc-warning-caption">Google Drive can't scan this file for viruses.</p>
<p class="uc-warning-subcaption"><span class="uc-name-size"><a href="/open?id={id}">big.zip</a> (126M)</span>
is too large for Google to scan for viruses. Would you still like to download this file?</p>
<form id="download-form" action="{action}" method="get"><input type="submit" id="uc-download-link"
 class="goog-inline-block jfk-button jfk-button-action" value="Download anyway"/>
<input type="hidden" name="id" value="{id}"><input type="hidden" name="export" value="download">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="29caa046-0818"></form>
</div></div></body></html>"""
DRIVE_CONFIRM_OLD = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>
<body><a id="uc-download-link" class="goog-inline-block"
 href="{action}?export=download&amp;confirm=AbCd&amp;id={id}">
Download anyway</a></body></html>"""
DRIVE_QUOTA = """<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>
<div class="uc-main"><p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this
time.</p><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Please
try accessing the file again later. If the file you are trying to access is particularly large or is shared
with many people, it may take up to 24 hours to be able to view or download it.</p></div></body></html>"""
DRIVE_TOO_MANY = DRIVE_QUOTA.replace("Drive - Quota exceeded</title>", "Drive</title>")
SORRY = """<html><head><title>Sorry...</title></head><body>We're sorry... but your computer or network may be
sending automated queries. To protect our users, we can't process your request right now.</body></html>"""


@dataclass
class Doc:
    """What lies at a path and how it is served; `attempt` counts from 0."""

    data: bytes
    drop_after: int | None = None  # bytes of body, then the connection is broken
    drops: int = 10**9  # how many attempts are dropped
    stall_after: int | None = None  # bytes of body, then silence
    stalls: int = 10**9
    lie_length: int = 0  # added to Content-Length
    ranges: bool = True
    etag: str | None = None  # None: a digest of the data; "": none
    modified: str = ""
    fail_status: int = 0
    fails: int = 10**9
    retry_after: str = ""
    page: str = ""  # served with status 200 instead of the data
    page_type: str = "text/html; charset=utf-8"
    pages: int = 10**9
    redirect: str = ""
    flip_at: int | None = None  # a bit of this byte is turned
    flips: int = 10**9
    encode: bool = False  # Content-Encoding: gzip
    length: bool = True  # Content-Length is given
    chunked: bool = False
    pace: float = 0  # bytes a second
    headers: dict[str, str] = field(default_factory=dict)
    many_headers: int = 0
    wrong_range: bool = False  # answers 206 with another range than asked
    ignore_condition: bool = False  # ranges are sent whatever If-Range says
    change_to: bytes | None = None  # after the first attempt
    gone_after: int | None = None  # attempts, then 404
    confirm: str = ""  # page sent until the query holds confirm
    then: Doc | None = None  # how it is served after the first attempt


class Server:
    """`with Server() as server: server.docs["/a"] = Doc(b"...")`; `server.url + "/a"` serves it."""

    def __init__(self, make: Callable[[str], Doc | None] | None = None) -> None:
        self.docs: dict[str, Doc] = {}
        self.make = make  # a document for a path that has none
        self.asked: list[tuple[str, str]] = []  # path, Range header
        self.sent: dict[str, int] = {}  # bytes of body by path
        self.times: list[float] = []
        self.authorizations: set[str] = set()
        self.open = 0
        self.most_open = 0
        self._attempts: dict[str, int] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with outer._lock:
                    outer.open += 1
                    outer.most_open = max(outer.most_open, outer.open)
                try:
                    outer._serve(self)
                except (BrokenPipeError, ConnectionResetError, TimeoutError):
                    self.close_connection = True
                finally:
                    with outer._lock:
                        outer.open -= 1

            def log_message(self, *args: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass

        self._httpd = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._httpd.server_address[1]}"

    @property
    def total_sent(self) -> int:
        return sum(self.sent.values())

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join()

    def asked_for(self, path: str) -> int:
        return sum(1 for one, _ in self.asked if one == path)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        path, query = parts.path, parse_qs(parts.query)
        wanted = handler.headers.get("Range", "")
        with self._lock:
            attempt = self._attempts.get(path, 0)
            self._attempts[path] = attempt + 1
            self.asked.append((path, wanted))
            self.times.append(time.monotonic())
            self.authorizations.add(handler.headers.get("Authorization", ""))
        doc = self.docs.get(path) or (self.make(path) if self.make else None)
        if doc is None or (doc.gone_after is not None and attempt >= doc.gone_after):
            return _plain(handler, 404, b"no such file")
        doc = doc.then if doc.then and attempt else doc
        if doc.redirect:
            return _plain(handler, 302, b"", {"Location": doc.redirect})
        if doc.fail_status and attempt < doc.fails:
            head = {"Retry-After": doc.retry_after} if doc.retry_after else {}
            return _plain(handler, doc.fail_status, doc.page.encode(), {**head, **_type(doc)})
        if doc.confirm and "confirm" not in query:
            return _plain(handler, 200, doc.confirm.encode(), {"Content-Type": "text/html; charset=utf-8"})
        if doc.page and attempt < doc.pages:
            return _plain(handler, 200, doc.page.encode(), _type(doc))
        self._send(handler, path, doc, attempt, wanted)

    def _send(self, handler: BaseHTTPRequestHandler, path: str, doc: Doc, attempt: int, wanted: str) -> None:
        data = doc.data if doc.change_to is None or attempt == 0 else doc.change_to
        if doc.encode:
            data = _packed(data)
        etag = f'"{hashlib.md5(data).hexdigest()}"' if doc.etag is None else doc.etag
        start, end, status = 0, len(data), 200
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if doc.ranges else None
        condition = handler.headers.get("If-Range", "")
        if found and (not condition or doc.ignore_condition or condition in (etag, doc.modified)):
            start, status = int(found.group(1)), 206
            end = min(len(data), int(found.group(2)) + 1) if found.group(2) else len(data)
            if start >= len(data):
                return _plain(handler, 416, b"", {"Content-Range": f"bytes */{len(data)}"})
        if doc.flip_at is not None and attempt < doc.flips:
            data = data[: doc.flip_at] + bytes([data[doc.flip_at] ^ 1]) + data[doc.flip_at + 1 :]
        handler.send_response(status)
        if status == 206:
            first = start + 1 if doc.wrong_range else start
            handler.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        if etag:
            handler.send_header("ETag", etag)
        if doc.modified:
            handler.send_header("Last-Modified", doc.modified)
        if doc.encode:
            handler.send_header("Content-Encoding", "gzip")
        if doc.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif doc.length:
            handler.send_header("Content-Length", str(end - start + doc.lie_length))
        for number in range(doc.many_headers):
            handler.send_header(f"X-Filler-{number}", "x" * 1000)
        for key, value in doc.headers.items():
            handler.send_header(key, value)
        if not doc.length or doc.lie_length:
            handler.close_connection = True
        handler.end_headers()
        self._body(handler, path, doc, attempt, data[start:end])

    def _body(self, handler: BaseHTTPRequestHandler, path: str, doc: Doc, attempt: int, body: bytes) -> None:
        drop = doc.drop_after if attempt < doc.drops else None
        stall = doc.stall_after if attempt < doc.stalls else None
        step = 1 << 16 if not doc.pace else max(1, min(1 << 12, int(doc.pace / 50)))
        at, began = 0, time.monotonic()
        while at < len(body):
            if drop is not None and at >= drop:
                handler.close_connection = True
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            if stall is not None and at >= stall:
                handler.connection.settimeout(5)
                handler.connection.recv(1)  # until the client gives up
                handler.close_connection = True
                return
            stops = [stop for stop in (drop, stall) if stop is not None and stop > at]
            piece = body[at : min([at + step, *stops])]
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if doc.chunked else piece)
            at += len(piece)
            with self._lock:
                self.sent[path] = self.sent.get(path, 0) + len(piece)
            if doc.pace:
                time.sleep(max(0.0, began + at / doc.pace - time.monotonic()))
        if doc.chunked:
            handler.wfile.write(b"0\r\n\r\n")


@functools.lru_cache(4)
def _packed(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def _type(doc: Doc) -> dict[str, str]:
    return {"Content-Type": doc.page_type} if doc.page else {}


def _plain(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for key, value in (headers or {}).items():
        handler.send_header(key, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
