"""Large JSON objects an entry at a time: hostile ones end in a ValueError."""

from __future__ import annotations

import io

import pytest

from ffhqref.core import stream


def test_entries_come_one_after_another() -> None:
    assert list(stream.entries(io.StringIO('\ufeff {"a": 1, "b": [2]}'))) == [("a", 1), ("b", [2])]


@pytest.mark.parametrize("value", ["[" * 100_000, '{"a":' * 100_000, "1" * 5_000 + "}", "[]", ""])
def test_brackets_and_digits_without_end_are_no_object(value: str) -> None:
    with pytest.raises(ValueError):
        list(stream.entries(io.StringIO('{"a": ' + value)))
