"""Addresses of files: what is asked for one, and what people and files on disk may see of it."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from ffhqref.download.pages import DRIVE_HOSTS

ADDRESS = re.compile(r"(https?|hf)://[^\s/]+/\S*", re.IGNORECASE)
HIDDEN = "***"

_USER = re.compile(r"(?<=//)[^/?#\s]*@|^[^/?#\s@:]+:[^/?#\s@]*@")
_SECRET = re.compile(
    r"([?&;][^=&;#]*(?:pass|pwd|token|secret|key|sig|auth|credential)[^=&;#]*=)[^&;#\s]*", re.IGNORECASE
)


def public(url: str) -> str:
    """The address without a user's name, password or token: the only form that is printed or written."""
    return _SECRET.sub(rf"\1{HIDDEN}", _USER.sub("", url))


def host(url: str) -> str:
    """Host and port of an address, or the (public) address itself where it has none."""
    return urlsplit(url).netloc.rpartition("@")[2] or public(url)


def address_fault(url: str) -> str:
    """Why a manifest's address cannot be asked, or empty."""
    if not ADDRESS.fullmatch(url):
        return "must start with http://, https:// or hf://"
    try:
        found = urlsplit(url)
        port = found.port
    except ValueError as error:
        return f"is no address ({error})" if "@" not in url else "is no address"
    return "" if found.hostname and port != 0 else "names no host"


def direct(url: str) -> str:
    """The address to ask for `url`: hf:// and Google Drive's page of a file become downloads.

    ValueError where it is no path in a repository.
    """
    parts = urlsplit(url)
    if parts.scheme.lower() == "hf":
        return _hugging_face(url)
    if parts.netloc in DRIVE_HOSTS[:2]:
        found = re.search(r"/d/([\w-]+)", parts.path)
        number = found.group(1) if found else parse_qs(parts.query).get("id", [""])[0]
        query = dict(id=number, export="download")
        confirm = parse_qs(parts.query).get("confirm")
        return f"https://drive.google.com/uc?{urlencode(query)}" if number and not confirm else url
    return url


def _hugging_face(url: str) -> str:
    """hf://[datasets/]owner/repository[@revision]/path as the address of the file."""
    kind, owner, name, path = "", *(url[5:].split("/", 2) + ["", ""])[:3]
    if owner in ("datasets", "spaces", "models"):
        kind, (owner, name, path) = (
            ("" if owner == "models" else f"{owner}/"),
            ((name + "/" + path).split("/", 2) + ["", ""])[:3],
        )
    name, _, revision = name.partition("@")
    if not (owner and name and path):
        raise ValueError(f"{url} is no path in a Hugging Face repository: hf://[datasets/]owner/name/path")
    base = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{base}/{kind}{owner}/{name}/resolve/{revision or 'main'}/{quote(path)}"


def token(url: str) -> dict[str, str]:
    """The user's Hugging Face token, for that host alone and never without encryption."""
    found = os.environ.get("HF_TOKEN", "")
    if found and urlsplit(url).scheme == "https" and urlsplit(url).netloc == "huggingface.co":
        return {"Authorization": f"Bearer {found}"}
    return {}
