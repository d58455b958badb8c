"""The review's server: whom it answers, what it refuses, that it stops by itself."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from ffhqref.dataset import verdicts
from ffhqref.report import facts
from ffhqref.report.server import Review
from ffhqref.report.session import ReviewOptions, Session
from tests.report.making import make_dataset


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Review]:
    out = make_dataset(tmp_path_factory.mktemp("server"))
    session = Session(facts.load(out), ReviewOptions("ann"), verdicts.path_of(out))
    with Review(session) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Review, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a request with the token, unless headers say otherwise."""
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    sent = {"X-Token": server.token, **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body is None:
        connection.request("GET", path, headers=sent)
    else:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, {"Content-Type": "application/json", **sent})
    answer = connection.getresponse()
    found = answer.status, answer.read(), dict(answer.getheaders())
    connection.close()
    return found


def files(server: Review) -> set[str]:
    out = server.session.known.out.parent
    return {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}


def test_it_answers_its_own_page(server: Review) -> None:
    status, page, headers = ask(server, f"/?token={server.token}")
    assert status == 200 and server.token.encode() in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer" and headers["Cache-Control"] == "no-store"
    for asset in ("/review.js", "/style.css", "/review.css"):
        assert ask(server, asset)[0] == 200
    assert ask(server, "/photo?at=0")[1][:2] == b"\xff\xd8"
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Token": ""},
        {"X_Token": "wrong"},
        {"X_Token": "\u00e9"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_nobody_else_is_answered(server: Review, headers: dict[str, str]) -> None:
    key = next(iter(server.session.asked))
    before = files(server)
    assert ask(server, "/state", **headers)[0] == 403
    assert ask(server, "/answer", {"kind": "same", "key": key}, **headers)[0] == 403
    assert files(server) == before


def test_another_origin_s_form_cannot_answer(server: Review) -> None:
    """What a page elsewhere may send without asking first: plain text, a form."""
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert ask(server, "/answer", {"kind": "same"}, Content_Type=kind)[0] == 400


@pytest.mark.parametrize(
    "body",
    [b"{", b"[]", b'{"photos": ["x"]}', b'{"photos": 5}', b"[" * 60000, b'{"photos": [1e999]}'],
)
def test_a_damaged_answer_is_refused(server: Review, body: bytes) -> None:
    assert ask(server, "/answer", body)[0] == 400


def test_an_answer_that_is_too_long_is_refused(server: Review) -> None:
    assert ask(server, "/answer", b'{"kind": "same"}' + b" " * (1 << 17))[0] == 400
    assert ask(server, "/answer", b'{"kind": "same"}' + b" " * (1 << 15))[0] == 409, "the same, not too long"
    assert ask(server, "/answer", b"{}", Content_Length="x")[0] == 400


@pytest.mark.parametrize(
    "path", ["/photo?at=-1", "/photo?at=99", "/photo?at=../made", "/photo", "/../facts.py", "/report.html",
             "/question?key=x", "/photo?at=" + "9" * 400],
)  # fmt: skip
def test_nothing_else_is_served(server: Review, path: str) -> None:
    status, body, _ = ask(server, path)
    assert status == 404 and "error" in json.loads(body)


def test_answers_are_written_to_verdicts_alone(server: Review) -> None:
    before = files(server)
    key = next(iter(server.session.asked))
    status, body, _ = ask(server, "/answer", {"kind": "same", "key": key, "photos": []})
    assert status == 200 and json.loads(body)["seen"] == 1
    assert files(server) - before == {"made/verdicts.csv", "made/.verdicts.csv.lock"}
    assert ask(server, "/answer", {"kind": "same", "key": "no"})[0] == 409
    assert json.loads(ask(server, "/undo", {})[1])["seen"] == 0
    assert json.loads(ask(server, "/redo", {})[1])["order"][0] == [key, "same"]
    shown = json.loads(ask(server, f"/question?key={key}")[1])
    assert [side["split"] for side in shown["sides"]] and shown["near"]


def test_it_stops_after_an_idle_time(server: Review, tmp_path: Path) -> None:
    with Review(Session(server.session.known, ReviewOptions("ann"), tmp_path / "v.csv"), idle=0.1) as idle:
        thread = threading.Thread(target=idle.serve_forever)
        thread.start()
        thread.join(20)
        assert not thread.is_alive()
