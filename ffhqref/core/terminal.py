"""What a person sees while work goes on: progress bars, and names that cannot write to the terminal.

Bars are off where standard error is no terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Never, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], what: str, unit: str, total: int | None = None) -> Iterable[Item]:
    """`items` with a bar: how many of `unit` are done, the rate, and what is left."""
    return tqdm(items, desc=what, unit=unit, total=total, disable=None)


def progress_bar(
    what: str, unit: str, total: float | None, *, scaled: bool = False, done: int = 0
) -> tqdm[Never]:
    """A bar to move by hand, from `done` on; `scaled` writes counts with k, M and G."""
    return tqdm(desc=what, unit=unit, total=total, unit_scale=scaled, initial=done, disable=None)


def shown(name: str) -> str:
    """A name from outside, with control and direction characters written as escapes."""
    return "".join(
        _escape(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in name
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
