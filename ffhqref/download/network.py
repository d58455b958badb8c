"""Polite HTTP for `download`: hosts that are not overrun, redirects that are checked, refusals that are read.

Nothing here writes files; `transfer` does. Every answer is a streamed response, or one of two exceptions:
`Refused` (asking again is no use) and `Trouble` (it may work in a while).
"""

from __future__ import annotations

import email.utils
import math
import os
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from ffhqref import __version__
from ffhqref.core.store import UserError, seed_for
from ffhqref.download.addresses import direct, host, public, token
from ffhqref.download.pace import TooSlow, WatchingAdapter
from ffhqref.download.pages import DRIVE_HOSTS, MAX_PAGE, confirm_target, drive_refusal, page_text, page_title

MAX_REDIRECTS = 10
COSTLY = 3  # of the attempts, for what will hardly mend itself: with six, two are made
HOST_STRIKES = 12  # files in a row that a host could not give, after which it is left alone
LONGEST = 86_400  # seconds; a longer timeout is a slip, and sockets take no infinite one
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524}


class Refused(Exception):
    """This address will not give the file, now or in a minute; the text is the reason for people."""

    def __init__(self, reason: str, *, whole_host: bool = False) -> None:
        super().__init__(reason)
        self.whole_host = whole_host  # whether the host's other files will likely fare the same


class Trouble(Exception):
    """This attempt failed and another may not. `wait` is what the server asked for, in seconds.

    `cost` is how many of the allowed attempts it used up: wrong content is not fetched often.
    """

    def __init__(self, reason: str, *, wait: float = 0, cost: int = 1) -> None:
        super().__init__(reason)
        self.wait = wait
        self.cost = cost


class Wrong(Trouble):
    """The server gave something, and it is not the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, cost=COSTLY)


class Stopped(Exception):
    """The run is ending: leave everything as it is."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How servers are treated."""

    per_host: int = 8  # connections to one host at a time
    rate: float = 0  # bytes a second in all; 0 means no limit
    timeout: float = 30  # seconds without a byte
    least_speed: float = 1000  # bytes a second, on average over `timeout` seconds of waiting; 0: any speed
    retries: int = 6  # attempts in a row without progress
    backoff: float = 1.0  # seconds before the first retry; doubles with each
    max_wait: float = 900  # seconds; a server that asks for longer is left for another run

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= LONGEST:
            raise UserError(f"--timeout {self.timeout:g}: give seconds, above 0 and at most {LONGEST:,}.")
        for name, value in (("rate", self.rate), ("least-speed", self.least_speed)):
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"--{name} {value:g}: give bytes per second.")


class _Rate:
    """A limit on bytes a second, shared by all threads, with a quarter of a second to spare."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._free_at = 0.0
        self._lock = threading.Lock()

    def delay(self, count: int) -> float:
        """Seconds to wait after `count` bytes were taken."""
        if not self._limit:
            return 0
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - 0.25) + count / self._limit
            return self._free_at - now


class Network:
    """Sessions, waiting and limits, shared by the threads of one run."""

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self.stop = threading.Event()
        self._rate = _Rate(manners.rate)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._slots: dict[str, threading.Semaphore] = defaultdict(
            lambda: threading.Semaphore(manners.per_host)
        )
        self._not_before: dict[str, float] = {}
        self._strikes: dict[str, int] = defaultdict(int)
        self._last_words: dict[str, str] = {}

    def session(self) -> requests.Session:
        """This thread's session; its proxies come from the environment."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            adapter = WatchingAdapter(self.manners.least_speed, self.manners.timeout, pool_size=1)
            session.mount("http://", adapter)
            session.mount("https://", adapter)
            session.headers.update(
                {"User-Agent": f"ffhqref/{__version__}", "Accept-Encoding": "identity", "Accept": "*/*"}
            )
            self._local.session = session
        return session

    def sleep(self, seconds: float) -> None:
        """Wait, or raise Stopped as soon as the run ends."""
        if self.stop.wait(max(0.0, seconds)):
            raise Stopped

    def took(self, count: int) -> None:
        """Say that `count` bytes arrived; waits where they came faster than the limit."""
        delay = self._rate.delay(count)
        if delay > 0:
            self.sleep(delay)
        elif self.stop.is_set():
            raise Stopped

    @contextmanager
    def slot(self, url: str) -> Iterator[None]:
        """One of the host's connections, once the host may be asked again."""
        name = host(url)
        with self._lock:
            slot = self._slots[name]
        while not slot.acquire(timeout=0.2):
            self.sleep(0)
        try:
            while (wait := self._not_before.get(name, 0) - time.monotonic()) > 0:
                self.sleep(wait)
            if self._strikes[name] >= HOST_STRIKES:
                raise Refused(f"{name} is left alone for now: {self._last_words[name]}")
            yield
        finally:
            slot.release()

    def pause(self, url: str, seconds: float) -> None:
        """Nobody asks this host again before `seconds` have passed."""
        name = host(url)
        with self._lock:
            self._not_before[name] = max(self._not_before.get(name, 0), time.monotonic() + seconds)

    def count(self, url: str, refusal: str = "") -> None:
        """Count a file that a host could not give; an empty refusal says that it gave one."""
        name = host(url)
        with self._lock:
            self._strikes[name] = self._strikes[name] + 1 if refusal else 0
            self._last_words[name] = refusal

    def backoff(self, url: str, attempt: int) -> float:
        """Seconds before the next attempt: doubling, with a jitter of a half to one and a half."""
        jitter = 0.5 + seed_for(os.getpid(), url, f"retry {attempt}") / 2**64
        return self.manners.backoff * 2.0 ** min(attempt, 8) * jitter

    def get(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """The streamed answer behind all redirects: status 200, 206 or 416; Refused or Trouble else."""
        seen: list[str] = []
        address = _direct(url)
        while True:
            if address in seen or len(seen) >= MAX_REDIRECTS:
                raise Refused(f"{host(url)} redirects in a circle")
            seen.append(address)
            response = self._ask(address, {**headers, **token(address)})
            if response.status_code in (301, 302, 303, 307, 308):
                address = _redirected(address, response)
                continue
            _check_status(response, self.manners.max_wait)
            return response

    def _ask(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        with troubles(url):
            return self.session().get(
                url, headers=dict(headers), stream=True, allow_redirects=False, timeout=self.manners.timeout
            )


@contextmanager
def troubles(url: str) -> Iterator[None]:
    """Turn what requests, urllib3 and sockets raise into Trouble or Refused with a sentence."""
    name = host(url)
    try:
        yield
    except (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL, UnicodeError):
        raise Refused(f"{public(url)} is no address that can be asked") from None
    except (requests.exceptions.SSLError, urllib3.exceptions.SSLError):
        raise Trouble(f"{name} has no valid certificate", cost=COSTLY) from None
    except requests.exceptions.ProxyError:
        raise Trouble("the proxy of the environment (HTTPS_PROXY) does not answer") from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _meaning(name, error) from None


def _meaning(name: str, error: Exception) -> Trouble:
    """What the error at the bottom of a nested network error says of the host."""
    for cause in _causes(error):
        if isinstance(cause, TooSlow):
            return Trouble(f"{name} {cause}", cost=COSTLY)
        if isinstance(cause, socket.gaierror):  # a name that is wrong, or no network; it may pass
            passing = cause.errno == socket.EAI_AGAIN
            why = "no name server answers" if passing else "there is no host of that name"
            return Trouble(f"the name {name} cannot be resolved ({why})", cost=1 if passing else COSTLY)
    kinds = (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)
    if isinstance(error, kinds):
        return Trouble(f"{name} stopped answering")
    return Trouble(f"{name} broke the connection ({_plain(error)})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _plain(error: Exception) -> str:
    """The last words of a nested network error, without addresses of objects."""
    text = re.sub(r"<[^<>]*>:?", "", str(error)).strip("(') ")
    if "IncompleteRead" in text:
        return "before the end"
    return (text.rpartition(": ")[2] or type(error).__name__).strip("'\") ")[:120]


def _direct(url: str) -> str:
    try:
        return direct(url)
    except ValueError as error:
        raise Refused(str(error)) from None


def _redirected(url: str, response: requests.Response) -> str:
    response.close()
    try:
        target = urljoin(url, response.headers.get("Location", ""))
        schemes = urlsplit(url).scheme.lower(), urlsplit(target).scheme.lower()
    except ValueError:
        raise Refused(f"{host(url)} redirects to no web address") from None
    if schemes[1] not in ("http", "https"):
        raise Refused(f"{host(url)} redirects to {public(target)[:80]!r}, which is no web address")
    if schemes == ("https", "http"):
        raise Refused(f"{host(url)} redirects from https to http, which anyone on the way could change")
    if urlsplit(target).netloc == "accounts.google.com":
        raise Refused("Google asks to sign in: the file is not public (any more); give --mirror")
    return target


def _check_status(response: requests.Response, max_wait: float) -> None:
    """Return for 200, 206 and 416; raise what the status means else."""
    status, name = response.status_code, host(response.url)
    if status in (200, 206, 416):
        return
    wait = retry_after(response.headers.get("Retry-After", ""))
    page = read_page(response) if status in (403, 429) else ""
    response.close()
    if page and (reason := drive_refusal(page)):
        raise Refused(reason, whole_host=True)
    if status in RETRY_STATUS:
        what = "too many requests" if status == 429 else "busy or broken"
        if wait > max_wait:
            raise Refused(f"{name} ({what}, status {status}) asks to wait {wait:.0f} s", whole_host=True)
        raise Trouble(f"{name} answers {status} ({what})", wait=wait)
    reasons = {401: "asks for a password", 403: "forbids it", 404: "has no such file", 410: "has it no more"}
    whole_host = status == 401 or (status == 403 and name in DRIVE_HOSTS)
    raise Refused(f"{name} {reasons.get(status, 'refuses')} (status {status})", whole_host=whole_host)


def retry_after(value: str) -> float:
    """Seconds a Retry-After header asks for, given as a number or a date; 0 where it says nothing."""
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def read_page(response: requests.Response) -> str:
    """The first MiB of a web page as text."""
    with troubles(response.url):
        data = response.raw.read(MAX_PAGE, decode_content=False)
    return page_text(data, response.headers.get("Content-Encoding", ""))


def confirmation(page: str, url: str) -> str:
    """The address behind the page that came instead of a file, where it only asks to confirm.

    Raises Refused with the page's meaning where it is no such page.
    """
    if reason := drive_refusal(page):
        raise Refused(reason, whole_host=True)
    if target := confirm_target(page, url):
        return target
    title = page_title(page)
    raise Refused(f"{host(url)} sent a web page{f' ({title!r})' if title else ''} instead of the file")
