"""What is printed cannot steer the terminal."""

from __future__ import annotations

import io
import sys

import pytest

from ffhqref.core import terminal
from ffhqref.core.terminal import Escaped, escaped_output

STEERING = "\x1b]0;title\x07 \x9b31m \x7f \u202egnp.exe \u2066 \ufeff \r over \ud800"


def test_control_and_direction_characters_are_written_as_escapes() -> None:
    stream = io.StringIO()
    Escaped(stream).write(f"a\tb\n{STEERING}\né 写真\n")
    said = stream.getvalue()
    assert said.startswith("a\tb\n") and said.endswith("\né 写真\n")
    assert said.splitlines()[1] == (
        r"\x1b]0;title\x07 \x9b31m \x7f \u202egnp.exe \u2066 \ufeff \r over \ud800"
    )


def test_what_an_encoding_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    stream = Escaped(io.TextIOWrapper(raw, encoding="ascii"))
    stream.write("é\n")
    stream.flush()
    assert raw.getvalue() == b"\\xe9\n"
    assert not hasattr(stream, "buffer"), "nobody writes past it"
    with pytest.raises(TypeError):
        stream.write(b"\x1b")  # type: ignore[arg-type]


def test_both_streams_are_escaped_once_and_given_back() -> None:
    before = sys.stdout, sys.stderr
    with escaped_output(), escaped_output():
        assert isinstance(sys.stdout, Escaped) and isinstance(sys.stderr, Escaped)
        assert not isinstance(sys.stdout.stream, Escaped)
        assert terminal._bars() is before[1], "bars move the cursor"
    assert (sys.stdout, sys.stderr) == before
    with pytest.raises(SystemExit), escaped_output():
        sys.exit(1)
    assert (sys.stdout, sys.stderr) == before
