"""Servers that are not silent and still give nothing: a byte now and then, or headers without an end.

A time limit on the socket ends a silence. Here the bytes are counted below HTTP, so that slow status lines,
headers and chunk sizes are seen as well as slow bodies. Only the time spent waiting for the server counts:
what our own limits or a slow disk cost is not its fault.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import requests.adapters
from urllib3 import PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_HEAD = 1 << 20  # bytes of status lines and headers; http.client bounds each line, not their number


class TooSlow(TimeoutError):
    """The server sends less than the least speed."""


class _Watched(io.RawIOBase):
    """A socket's bytes. TooSlow where fewer than `least` a second came in `window` seconds of waiting.

    The wait for the first byte does not count: the time limit on the socket is there for it.
    """

    def __init__(self, inner: io.RawIOBase, least: float, window: float) -> None:
        super().__init__()
        self._inner = inner
        self._least = least
        self._window = window
        self._came = 0
        self._waited = 0.0
        self._began = False
        self.head_left: int | None = MAX_HEAD  # bytes; None once the headers are read

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()
        super().close()

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        began = time.monotonic()
        count = self._inner.readinto(buffer)
        if self.head_left is not None:
            self.head_left -= count or 0
            if self.head_left < 0:
                raise OSError("its headers have no end")
        if self._began:
            self._count(count or 0, time.monotonic() - began)
        self._began = True
        return count

    def _count(self, came: int, waited: float) -> None:
        self._came += came
        self._waited += waited
        if self._waited >= self._window:
            if self._came < self._least * self._waited:
                raise TooSlow(f"sends less than {self._least:,.0f} bytes a second")
            self._came, self._waited = 0, 0.0


class _Response(http.client.HTTPResponse):
    """http.client's response over a watched socket."""

    def __init__(self, sock: socket.socket, *given: Any, least: float, window: float, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self._watched = _Watched(self.fp.detach(), least, window)
        self.fp = io.BufferedReader(self._watched)

    def begin(self) -> None:
        super().begin()
        self._watched.head_left = None


class WatchingAdapter(requests.adapters.HTTPAdapter):
    """requests over connections that hold servers to `least` bytes a second (0: to none)."""

    def __init__(self, least: float, window: float, *, pool_size: int) -> None:
        response = staticmethod(partial(_Response, least=least, window=window))
        plain = type("Connection", (HTTPConnection,), {"response_class": response})
        secure = type("SecureConnection", (HTTPSConnection,), {"response_class": response})
        self._pools = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(pool_connections=8, pool_maxsize=pool_size)

    def init_poolmanager(self, *given: Any, **named: Any) -> None:
        super().init_poolmanager(*given, **named)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **named: Any) -> PoolManager:
        manager: PoolManager = super().proxy_manager_for(proxy, **named)
        if not proxy.lower().startswith("socks"):  # which has pools of its own
            manager.pool_classes_by_scheme = self._pools
        return manager
