"""What a person sees while work goes on: progress bars, and names that cannot write to the terminal.

Bars are off where standard error is no terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Never, TypeAlias, TypeVar

from tqdm import tqdm

_Item = TypeVar("_Item")
Bar: TypeAlias = "tqdm[Never]"  # moved by hand: it runs over no items


def progress(items: Iterable[_Item], what: str, unit: str, total: int | None = None) -> Iterable[_Item]:
    """`items` with a bar: how many of `unit` are done, the rate, and what is left."""
    return tqdm(items, desc=what, unit=unit, total=total, disable=None)


def progress_bar(
    what: str, unit: str, total: float | None, *, scaled: bool = False, done: int = 0, smoothing: float = 0.3
) -> Bar:
    """A bar to move by hand, from `done` on; `scaled` writes counts with k, M and G.

    `smoothing` is the weight of the latest rate in the one that is shown: 0 is the mean of the whole run.
    """
    return tqdm(
        desc=what, unit=unit, total=total, unit_scale=scaled, initial=done, disable=None, smoothing=smoothing
    )


def shown(name: str) -> str:
    """A name from outside, with control and direction characters written as escapes."""
    return "".join(
        _escape(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in name
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
