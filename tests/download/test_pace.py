"""Servers that give a byte now and then, in every part of an answer, and what is left alone."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ffhqref.download.network import Manners, Network, Refused, Trouble
from ffhqref.download.sources import Source, SourceFile
from ffhqref.download.stage import DownloadOptions, DownloadOutcome, download
from tests.download.servers import Doc, Server

HASTY = Manners(backoff=0.01, timeout=0.3, retries=4, least_speed=1000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
DRIPS: dict[
    str, tuple[bytes, Iterable[bytes]]
] = {  # what comes at once, and what comes then, a piece each 20 ms
    "the status line": (b"", itertools.repeat(b"H")),
    "a header": (b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X")),
    "headers": (b"HTTP/1.1 200 OK\r\n", itertools.repeat(b"X: y\r\n")),
    "the body": (HEAD, itertools.repeat(b"x")),
    "a chunk's size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", itertools.repeat(b"0")),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", itertools.repeat(b"1\r\nx\r\n")),
}


@contextmanager
def dripping(at_once: bytes, then: Iterable[bytes], pause: float = 0.02) -> Iterator[str]:
    """The address of a server that answers everyone so, until the client has gone."""

    def answer(client: socket.socket) -> None:
        with client:
            try:
                client.recv(65536)
                client.sendall(at_once)
                for piece in then:
                    time.sleep(pause)
                    client.sendall(piece)
            except OSError:
                return

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def get(
    out: Path, urls: tuple[str, ...], manners: Manners = HASTY, size: int | None = None
) -> DownloadOutcome:
    source = Source(name="mine", title="mine", files=(SourceFile(path="f", urls=urls, bytes=size),))
    return download([source], out, DownloadOptions(manners=manners))


@pytest.mark.parametrize("what", DRIPS)
def test_a_byte_now_and_then_ends_in_the_next_address(what: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with dripping(*DRIPS[what]) as slow, Server() as server:
        server.docs["/f"] = Doc(b"whole")
        assert get(tmp_path, (f"{slow}/f", f"{server.url}/f")).missing == []
        assert (tmp_path / "f").read_bytes() == b"whole"
        assert time.monotonic() - began < 5
        ((_, reason),) = get(tmp_path / "b", (f"{slow}/f",)).missing
        assert "sends less than 1,000 bytes a second" in reason


def test_headers_without_an_end_are_left(tmp_path: Path) -> None:
    hundred = b"HTTP/1.1 100 Continue\r\n\r\n" * 4000
    with dripping(b"", itertools.repeat(hundred), pause=0) as endless:
        with pytest.raises(Trouble, match="broke the connection"):
            Network(HASTY).get(f"{endless}/f", {})


def test_slow_is_allowed_where_it_is_asked_for(tmp_path: Path) -> None:
    with Server() as server:
        server.docs["/f"] = Doc(b"x" * 400, pace=400)
        assert get(tmp_path, (f"{server.url}/f",), Manners(timeout=0.3, least_speed=0)).missing == []
        assert get(tmp_path / "b", (f"{server.url}/f",), Manners(timeout=0.3, least_speed=200)).missing == []


def test_our_own_limit_is_not_the_servers_fault(tmp_path: Path) -> None:
    manners = Manners(timeout=0.3, least_speed=1e6, rate=200_000, retries=1)
    with Server() as server:
        server.docs["/f"] = Doc(b"x" * 250_000)
        assert get(tmp_path, (f"{server.url}/f",), manners, 250_000).missing == []


def test_a_slow_start_is_not_slowness(tmp_path: Path) -> None:
    """The first byte may take as long as a silence may; only then the speed counts."""
    with dripping(b"", [HEAD + b"x" * 299_000, b"x" * 1000], pause=0.25) as server:
        assert get(tmp_path, (f"{server}/f",), HASTY, 300_000).missing == []


@pytest.mark.parametrize("size", [None, 100_000_000])
def test_a_trickle_is_not_progress(size: int | None, tmp_path: Path) -> None:
    """Bytes that come too slowly must not start the attempts anew."""
    with Server() as server:
        server.docs["/f"] = Doc(b"x" * 5000, pace=100, length=False)
        outcome = get(tmp_path, (f"{server.url}/f",), size=size)
        assert "less than" in outcome.missing[0][1] and server.asked_for("/f") == 2


def test_a_host_without_a_name() -> None:
    with pytest.raises(Trouble, match=r"the name nowhere\.invalid cannot be resolved") as raised:
        Network(HASTY).get("http://nowhere.invalid/f", {})
    assert "connection" not in str(raised.value)


def test_malformed_redirects_are_sentences() -> None:
    with Server() as server:
        server.docs["/f"] = Doc(b"", redirect="http://[bad/x")
        with pytest.raises((Refused, Trouble)):
            Network(HASTY).get(f"{server.url}/f", {})
        server.docs["/f"] = Doc(b"", redirect="ftp://user:hush@h/x")
        with pytest.raises(Refused, match="no web address") as raised:
            Network(HASTY).get(f"{server.url}/f", {})
        assert "hush" not in str(raised.value)
