"""What a web page that came instead of a file wants to say, read from its words and forms."""

from __future__ import annotations

import html.parser
import zlib
from urllib.parse import urlencode, urljoin, urlsplit

MAX_PAGE = 1 << 20  # bytes of a page that are read
DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")

_DRIVE_LATER = "run the same command in 24 hours, or give --mirror"
_DRIVE_PRIVATE = "Google Drive says that the file is not public: give --mirror"
_DRIVE_WORDS = [  # what stands on its pages, in lower case -> the sentence for people
    (("quota exceeded", "download quota"), f"Google Drive's quota for this file is used up: {_DRIVE_LATER}"),
    (
        ("too many users have viewed or downloaded",),
        f"Google Drive says that too many users fetched this file: {_DRIVE_LATER}",
    ),
    (
        ("automated queries", "unusual traffic"),
        "Google refuses this network address for now (automated queries): wait some hours, or give --mirror",
    ),
    (("you need access",), _DRIVE_PRIVATE),
]


def page_text(data: bytes, encoding: str) -> str:
    """The bytes of a page, packed or not, as at most a MiB of text."""
    if encoding.strip().lower() in ("gzip", "deflate"):
        try:
            data = zlib.decompressobj(47).decompress(data, MAX_PAGE)
        except zlib.error:
            return ""
    return data.decode("utf-8", "replace")


class _Page(html.parser.HTMLParser):
    """The parts of a page that say what it is: title, text, the form or link that asks to confirm."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.text: list[str] = []
        self.action = ""
        self.fields: dict[str, str] = {}
        self.link = ""
        self._inside = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self._inside = tag
        if tag == "form" and (given.get("id") == "download-form" or not self.action):
            self.action, self.fields = given.get("action", ""), {}
        elif tag == "input" and given.get("type") == "hidden":
            self.fields[given.get("name", "")] = given.get("value", "")
        elif tag == "a" and given.get("id") == "uc-download-link":
            self.link = given.get("href", "")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "title":
            self.title += data
        elif self._inside not in ("script", "style"):
            self.text.append(data)


def _parse(page: str) -> _Page:
    parsed = _Page()
    parsed.feed(page)
    return parsed


def drive_refusal(page: str) -> str:
    """Why Google Drive sent this page instead of a file, with what to do; empty where it is none."""
    parsed = _parse(page)
    words = f"{parsed.title} {' '.join(parsed.text)}".lower()
    for signs, reason in _DRIVE_WORDS:
        if any(sign in words for sign in signs):
            return reason
    if "google drive" in words and "access denied" in words:
        return _DRIVE_PRIVATE
    return ""


def page_title(page: str) -> str:
    """The page's title on one line, shortened; empty where it has none."""
    return " ".join(_parse(page).title.split())[:80]


def confirm_target(page: str, url: str) -> str:
    """Where the page's "download anyway" leads, or empty where it has none or leads to a stranger.

    Google Drive asks so for files it does not scan for viruses: by a form today, by a link before.
    """
    parsed = _parse(page)
    target = ""
    if parsed.link:
        target = urljoin(url, parsed.link)
    elif parsed.action and ("confirm" in parsed.fields or "id" in parsed.fields):
        action = urljoin(url, parsed.action)
        target = f"{action}{'&' if urlsplit(action).query else '?'}{urlencode(parsed.fields)}"
    hosts = {urlsplit(url).netloc, *(DRIVE_HOSTS if urlsplit(url).netloc in DRIVE_HOSTS else ())}
    fits = urlsplit(target).netloc in hosts and urlsplit(target).scheme == urlsplit(url).scheme
    return target if fits else ""
