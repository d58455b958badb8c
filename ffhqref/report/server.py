"""The review in a browser on this machine: one page, a few addresses below it, nothing for anybody else.

Every address but the page's own files needs the random token; a request must name this server as its host
and, where it says where it comes from, be from this page. Nothing is written but verdicts.csv, by `session`.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ffhqref.core.store import UserError
from ffhqref.core.terminal import shown
from ffhqref.dataset import verdicts
from ffhqref.report import doubts
from ffhqref.report.doubts import Doubt
from ffhqref.report.page import TEMPLATES, environment
from ffhqref.report.session import Session, history
from ffhqref.report.thumbnails import Thumbnails

IDLE = 3600.0  # s without a request after which the server stops
MOST_BODY = 1 << 16  # bytes of an answer
PHOTO_SIDE = 320  # px
MOST_SHOWN = 60  # photos of a side
POLICY = "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
HEADERS = {
    "Content-Security-Policy": POLICY + "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ASSETS = {"/review.js": "text/javascript", "/style.css": "text/css", "/review.css": "text/css"}

JsonDict = dict[str, Any]


class Review(ThreadingHTTPServer):
    """The server of a session on loopback; `address` is what to open. Its requests answer one at a time."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0, idle: float = IDLE) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.session, self.token = session, secrets.token_urlsafe(24)
        self.turn = threading.Lock()
        self.idle, self.last = idle, time.monotonic()
        pictures = Thumbnails(session.known.images, session.known.faces)
        names = session.known.faces.names
        self.photo: Callable[[int], bytes | None] = lru_cache(512)(
            lambda at: pictures.picture(names[at], PHOTO_SIDE)
        )

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/?token={self.token}"

    def service_actions(self) -> None:
        """Called twice a second: ends the serving after an idle hour."""
        if time.monotonic() - self.last > self.idle:
            threading.Thread(target=self.shutdown, daemon=True).start()

    def hosts(self) -> set[str]:
        return {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Review
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ffhqref", ""
    timeout = 30

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if not self._allowed(place.query, asset=place.path in ASSETS):
            return
        if place.path in ASSETS:
            data = (TEMPLATES / place.path[1:]).read_bytes()
            self._send(HTTPStatus.OK, ASSETS[place.path], data)
        elif place.path == "/":
            page = environment().get_template("review.html").render(
                title=self.server.session.known.title, token=self.server.token
            )  # fmt: skip
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode())
        elif place.path == "/photo":
            self._photo(parse_qs(place.query))
        elif place.path == "/state":
            self._answer(lambda: self.server.session.refresh())
        elif place.path == "/question":
            self._question(parse_qs(place.query))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def do_POST(self) -> None:
        place = urlsplit(self.path)
        if not self._allowed(place.query):
            return
        body = self._body()
        if body is None:
            return
        session = self.server.session
        if place.path == "/answer":
            self._answer(lambda: session.answer(body["kind"], body["key"], body["photos"], body["note"]))
        elif place.path == "/undo":
            self._answer(session.undo)
        elif place.path == "/redo":
            self._answer(session.redo)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _allowed(self, query: str, asset: bool = False) -> bool:
        """Whether the request is from the page that this server gave out; the refusal is sent where not."""
        self.server.last = time.monotonic()
        hosts = self.server.hosts()
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in hosts or (origin and origin not in {f"http://{h}" for h in hosts}):
            self._refuse(HTTPStatus.FORBIDDEN, "This server answers its own page alone.")
            return False
        given = self.headers.get("X-Token") or parse_qs(query).get("token", [""])[0]
        if not asset and not hmac.compare_digest(given.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "Open the address that `ffhqref review` printed.")
            return False
        return True

    def _body(self) -> JsonDict | None:
        """The JSON of a POST: kind, key, note, photos (numbers); None where a refusal was sent."""
        length = self.headers.get("Content-Length", "")
        right = self.headers.get("Content-Type", "").split(";")[0] == "application/json"
        if not right or not length.isdecimal() or int(length) > MOST_BODY:
            self._refuse(HTTPStatus.BAD_REQUEST, "Send an answer as JSON.")
            return None
        try:
            given = json.loads(self.rfile.read(int(length)))
            photos = [int(at) for at in given.get("photos", [])]
            texts = {name: str(given.get(name, "")) for name in ("kind", "key", "note")}
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            self._refuse(HTTPStatus.BAD_REQUEST, "Send an answer as JSON.")
            return None
        return {**texts, "photos": photos}

    def _answer(self, act: Callable[[], None]) -> None:
        """Do something to the session and send its state, or the sentence that says why not."""
        with self.server.turn:
            try:
                act()
                found = state(self.server.session)
            except UserError as error:
                self._refuse(HTTPStatus.CONFLICT, str(error))
                return
        self._json(HTTPStatus.OK, found)

    def _photo(self, query: Mapping[str, list[str]]) -> None:
        at = query.get("at", [""])[0]
        there = at.isdecimal() and len(at) < 9 and int(at) < len(self.server.session.known.faces.names)
        data = self.server.photo(int(at)) if there else None
        if data is None:
            self._refuse(HTTPStatus.NOT_FOUND, "That photo cannot be read.")
        else:
            self._send(HTTPStatus.OK, "image/jpeg", data)

    def _question(self, query: Mapping[str, list[str]]) -> None:
        with self.server.turn:
            doubt = self.server.session.asked.get(query.get("key", [""])[0])
            found = question(self.server.session, doubt) if doubt else None
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such question.")
        else:
            self._json(HTTPStatus.OK, found)

    def _json(self, status: HTTPStatus, value: JsonDict) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.close_connection = True  # a body may be left unread
        self._json(status, {"error": sentence})

    def _send(self, status: HTTPStatus, kind: str, data: bytes) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address and the end."""


def state(session: Session) -> JsonDict:
    """What the page shows of the whole review."""
    answered, progress = session.answered(), session.progress()
    done, undone = history(session.lines, session.options.who)
    against = verdicts.contradictions(session.lines)
    return {
        "who": session.options.who,
        "order": [[key, answered.get(key, "")] for key in session.asked],
        "seen": progress.seen,
        "total": progress.total,
        "progress": str(progress),
        "undo": len(done),
        "redo": len(undone),
        "contradictions": [shown(str(one)) for one in against[:20]],
    }


def question(session: Session, doubt: Doubt) -> JsonDict:
    """What the page shows of one question; photos by number and name."""
    known = session.known
    sides = [(doubt.left, doubt.left_side), (doubt.right, doubt.right_side)]
    return {
        "title": "One person?" if doubt.together else "Two people?",
        "why": doubts.why(doubt, known.distance),
        "gain": round(doubt.gain, 1),
        "together": doubt.together,
        "sides": [
            {
                "person": shown(known.identity[first]),
                "split": known.split[first],
                "photos": [
                    _photo(session, at) for at in [first, *(a for a in side if a != first)][:MOST_SHOWN]
                ],
                "more": max(len(side) - MOST_SHOWN, 0),
            }
            for first, side in sides
        ],
        "near": [_photo(session, at) for at in session.near(doubt)],
        "notes": [shown(f"{v.who}: {v.note}") for v in session.notes(doubt)],
    }


def _photo(session: Session, at: int) -> JsonDict:
    return {
        "at": at,
        "name": shown(session.known.faces.names[at]),
        "excluded": session.known.faces.names[at] in session.excluded(),
    }
