"""A large JSON object an entry at a time, from a window of a few MB: memory does not grow with the file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import IO, Any

BUFFER = 1 << 22  # characters read at a time
MAX_ENTRY = 1 << 24  # characters of one entry; FFHQ's have about 4,000

_GAP = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")


def entries(opened: IO[str]) -> Iterator[tuple[str, Any]]:
    """The keys and values of one large JSON object, decoded one after another; ValueError else."""
    decoder = json.JSONDecoder()
    text, at = opened.read(BUFFER), 0
    found = re.match(r"\ufeff?\s*\{", text)
    if not found:
        raise ValueError("it is not a JSON object")
    at = found.end()
    while True:
        try:
            gap = _GAP.match(text, at)
            at = gap.end() if gap else at
            if text[at : at + 1] == "}":
                return
            key, end = decoder.raw_decode(text, at)
            colon = _COLON.match(text, end)
            if not isinstance(key, str) or colon is None:
                raise ValueError("it is not a JSON object")
            value, end = decoder.raw_decode(text, colon.end())
        except RecursionError:
            raise ValueError("it has brackets in brackets without end") from None
        except ValueError:
            more = opened.read(BUFFER)
            if not more or len(text) - at > MAX_ENTRY:
                raise
            text, at = text[at:] + more, 0
            continue
        yield key, value
        at = end
