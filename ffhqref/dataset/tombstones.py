"""What was forgotten, so that it cannot come back: salted digests of pixels in receipts/forgotten.json.

No name is kept, and without the salt, which is drawn for each dataset, a digest says nothing about a picture.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core.store import UserError, digest, write_text

STATUS, REASON = "forgotten", "it was forgotten by `ffhqref forget`"


@dataclass(frozen=True)
class Tombstones:
    """The salted digests of a dataset; an empty salt where nothing was ever forgotten."""

    salt: str = ""
    digests: frozenset[str] = frozenset()

    def of(self, pixels: str) -> str:
        """The salted digest of a picture, from the digest of its pixels."""
        return digest(f"{self.salt}:{pixels}".encode())

    def hold(self, pixels: str) -> bool:
        """Whether a picture with this digest of pixels was forgotten."""
        return bool(self.digests) and self.of(pixels) in self.digests


def path_of(out: Path) -> Path:
    """Where the tombstones of the dataset `out` lie."""
    return out / "receipts" / "forgotten.json"


def read(out: Path) -> Tombstones:
    """The tombstones of a dataset; UserError where the file is damaged: who was forgotten must stay so."""
    path = path_of(out)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = Tombstones(content["salt"], frozenset(content["digests"]))
        if not (
            isinstance(found.salt, str) and found.salt and all(isinstance(d, str) for d in found.digests)
        ):
            raise ValueError
    except FileNotFoundError:
        return Tombstones()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(
            f"{path} is damaged, so what was forgotten is not known: put it back from a copy, or remove it "
            "and run `ffhqref forget` again for those photos."
        ) from None
    return found


def add(out: Path, pixels: Iterable[str]) -> None:
    """Note that pictures with these digests of pixels are forgotten."""
    there = read(out)
    salted = Tombstones(there.salt or secrets.token_hex(32))
    digests = there.digests | {salted.of(one) for one in pixels if one}
    if digests != there.digests:
        content = {"salt": salted.salt, "digests": sorted(digests)}
        write_text(path_of(out), json.dumps(content, indent=1) + "\n")
