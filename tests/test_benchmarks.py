"""The benchmarks' statistics, table and bookkeeping, with made timings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks import __main__ as runner
from tests.benchmarks.common import Rounds, Row, Skip, interleave, score
from tests.benchmarks.common import row as once


def rounds(**costs: list[float]) -> Rounds[float]:
    return Rounds(costs, "2026-01-02", 0.5)


def compared(ours: list[float], theirs: list[float] | None, **how: Any) -> Row:
    return rounds().row("a row", ours, theirs, "s", "a note", **how)


def test_ways_take_turns_and_the_order_turns() -> None:
    calls: list[str] = []
    made = interleave(3, a=lambda: calls.append("a"), b=lambda: calls.append("b"))  # type: ignore[func-returns-value]
    assert "".join(calls) == "abbaab"
    assert {way: len(found) for way, found in made.made.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_the_median_pair_by_pair() -> None:
    """On a machine that grew ten times slower in the middle, medians of the sides would mix two speeds."""
    found = compared([1, 1, 10, 10, 10], [2, 3, 20, 30, 25])
    assert (found["ours"], found["theirs"], found["pairs"]) == (10, 20, 5)
    assert (found["ratio"], found["range"]) == (2.5, [2, 3])
    assert (found["date"], found["load"]) == ("2026-01-02", 0.5)


def test_costs_are_shown_as_rates_and_compared_as_costs() -> None:
    found = compared([0.1, 0.2, 0.5], [1, 1, 1], show=lambda cost: 10 / cost)
    assert (found["ours"], found["theirs"], found["ratio"], found["range"]) == (50, 10, 5, [2, 10])


def test_pairs_of_unequal_number_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compared([1, 1], [1])


@pytest.mark.parametrize(
    ("theirs", "cell", "remark"),
    [
        ([2, 3, 4, 2, 3], "3.00 [2.00, 4.00]", "5 pairs; a note"),
        ([0.9, 2, 2, 2, 2], "2.00 [0.90, 2.00]", "**no clear difference**; 5 pairs; a note"),
        ([1, 2, 2, 2, 2], "2.00 [1.00, 2.00]", "**no clear difference**; 5 pairs; a note"),
        ([0.5] * 5, "0.50 [0.50, 0.50]", "5 pairs; a note"),
    ],
)
def test_a_range_that_crosses_1_says_so(theirs: list[float], cell: str, remark: str) -> None:
    line = runner.table([about(compared([1] * 5, theirs))]).splitlines()[2]
    assert [part.strip() for part in line.strip("|").split("|")][3:] == [cell, remark]


def test_the_other_rows_say_what_they_are() -> None:
    old = about(once("a row", 1, 3, 3, "s", "a note"))
    for key in ("pairs", "range"):
        del old[key]  # as rows were written before
    lines = [
        runner.table([one]).splitlines()[2]
        for one in (old, about(score("a row", 3, 2, 1.5, "F", "a note")), about(compared([3, 1, 2], None)))
    ]
    assert lines == [
        "| a row | 1 s | 3 s | 3.00 | **1 run**, 2026-01-01; a note |",
        "| a row | 3 F | 2 F | 1.50 | a score, not timed; a note |",
        "| a row | 2 [1, 3] s |  |  | 3 runs; a note |",
    ]


def test_machines_dates_and_loads_stand_below() -> None:
    rows = [about(once(name, 1, 2, 2, "s", "")) for name in "abc"]
    rows = [rows[0], rows[1] | {"date": "2026-01-03", "load": 0.5}, rows[2] | {"machine": "n"}]
    below = runner.table(rows).splitlines()[-1]
    assert "on m: b 2026-01-01 to 2026-01-03 (load 0.5 to 1.0); on n: b 2026-01-01 (load 1.0). " in below


def about(row: Row) -> Row:
    return {"bench": "b", "date": "2026-01-01", "machine": "m", "load": 1.0, "versions": "v 1"} | row


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], int]:
    """Run a made benchmark, called `made`, on a README and results of its own, with `--pairs`."""
    (tmp_path / "README.md").write_text("<!-- bench -->\n<!-- /bench -->\n")
    for name, value in {"RESULTS": "results.json", "README": "README.md"}.items():
        monkeypatch.setattr(runner, name, tmp_path / value)
    monkeypatch.setattr(runner, "names", lambda: ["made"])

    def run(made: Callable[..., Any], *words: str) -> int:
        monkeypatch.setitem(sys.modules, "tests.benchmarks.bench_made", SimpleNamespace(run=made))  # type: ignore[arg-type]
        return runner.main(["made", *words])

    return run


def kept(tmp_path: Path) -> dict[str, Any]:
    """Names and ratios in the results, after a look whether the README has the same."""
    rows = json.loads((tmp_path / "results.json").read_text())
    readme = (tmp_path / "README.md").read_text()
    assert runner.into_readme(readme, runner.table(rows)) == readme
    return {row["name"]: row["ratio"] for row in rows}


def of(name: str, ratio: float, pairs: int) -> Row:
    return rounds().row(name, [1] * pairs, [ratio] * pairs, "s", "")


def test_what_was_measured_before_an_interruption_is_kept(bench: Callable[..., int], tmp_path: Path) -> None:
    def all_of(pairs: int) -> Iterator[Row]:
        yield from (of(name, 2, pairs) for name in ("one", "two", "gone"))

    def stopped(error: type[BaseException]) -> Callable[[int], Iterator[Row]]:
        def run(pairs: int) -> Iterator[Row]:
            yield of("one", 3, pairs)
            raise error

        return run

    assert bench(all_of) == 0
    assert kept(tmp_path) == {"one": 2, "two": 2, "gone": 2}
    assert bench(stopped(KeyboardInterrupt)) == 130
    assert kept(tmp_path) == {"one": 3, "two": 2, "gone": 2}
    assert bench(stopped(Skip)) == 0
    assert kept(tmp_path) == {"one": 3, "two": 2, "gone": 2}
    assert bench(stopped(ValueError)) == 1
    assert bench(lambda: [of("one", 4, 5), of("two", 4, 5)]) == 0  # one that knows no pairs
    assert kept(tmp_path) == {"one": 4, "two": 4}


def test_fewer_pairs_than_five_go_to_a_file_of_their_own(bench: Callable[..., int], tmp_path: Path) -> None:
    def run(pairs: int) -> list[Row]:
        return [of("one", 2, pairs)]

    with pytest.raises(SystemExit):
        bench(run, "--pairs", "4")
    assert not (tmp_path / "results.json").exists()
    assert bench(run, "--pairs", "2", "--out", str(tmp_path / "quick/rows.json")) == 0
    assert json.loads((tmp_path / "quick/rows.json").read_text())[0]["pairs"] == 2
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "README.md").read_text() == "<!-- bench -->\n<!-- /bench -->\n"
    assert bench(run, "--pairs", "7") == 0
    assert json.loads((tmp_path / "results.json").read_text())[0]["pairs"] == 7
