"""What a person sees while work goes on: progress bars, and text that cannot steer the terminal.

Bars are off where standard error is no terminal. Whatever a command prints passes through `Escaped`: names
come from mappings, manifests and archives of strangers, and no command can forget to escape them.
"""

from __future__ import annotations

import contextlib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Never, TextIO, TypeAlias, TypeVar, cast

if TYPE_CHECKING:
    from tqdm import tqdm

_Item = TypeVar("_Item")
Bar: TypeAlias = "tqdm[Never]"  # moved by hand: it runs over no items


LAW = (  # shown before anything is downloaded, and in every card
    "Face embeddings are biometric data, and the EU AI Act, Article 5(1)(e), prohibits AI systems that "
    "create or expand facial recognition databases through untargeted scraping of facial images from the "
    "internet or CCTV footage."
)


def progress(items: Iterable[_Item], what: str, unit: str, total: int | None = None) -> Iterable[_Item]:
    """`items` with a bar: how many of `unit` are done, the rate, and what is left."""
    from tqdm import tqdm  # not before there is work: `--help` does without

    return tqdm(items, desc=shown(what), unit=unit, total=total, disable=None, file=_bars())


def progress_bar(
    what: str, unit: str, total: float | None, *, scaled: bool = False, done: int = 0, smoothing: float = 0.3
) -> Bar:
    """A bar to move by hand, from `done` on; `scaled` writes counts with k, M and G.

    `smoothing` is the weight of the latest rate in the one that is shown: 0 is the mean of the whole run.
    """
    from tqdm import tqdm

    return tqdm(
        desc=shown(what), unit=unit, total=total, unit_scale=scaled, initial=done, disable=None,
        smoothing=smoothing, file=_bars(),
    )  # fmt: skip


def _bars() -> TextIO:
    """Where bars are drawn: they move the cursor, which text may not."""
    return sys.stderr.stream if isinstance(sys.stderr, Escaped) else sys.stderr


def shown(name: str) -> str:
    """A name from outside, with control and direction characters written as escapes."""
    return "".join(
        _escape(c) if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in name
    )


_LINES = re.compile(r"[^\n\t]+")  # between what text of ours may hold


class Escaped:
    """A text stream that writes what `shown` makes of the text; line ends and tabs stay.

    It has no `buffer`: nothing is written past it. Characters that the encoding lacks are escaped, too.
    `failed` tells afterwards whether an error came from writing here.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding, self.errors = stream.encoding or "utf-8", stream.errors or "strict"
        self.failed = False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        safe = text if text.isascii() and text.isprintable() else _LINES.sub(lambda m: shown(m[0]), text)
        with self._noting():
            self.stream.write(safe.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._noting():
            self.stream.flush()

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self.failed = True
            raise

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Standard output and error write through `Escaped`; after an error they stay so, for its traceback."""
    before = sys.stdout, sys.stderr
    if sys.stdout and not isinstance(sys.stdout, Escaped):  # there is none where it is closed
        sys.stdout = cast(TextIO, Escaped(sys.stdout))
    if sys.stderr and not isinstance(sys.stderr, Escaped):
        sys.stderr = cast(TextIO, Escaped(sys.stderr))
    try:
        yield
    except SystemExit:
        sys.stdout, sys.stderr = before
        raise
    sys.stdout, sys.stderr = before


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
