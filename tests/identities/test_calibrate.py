"""Match rates against brute force, and the suggestion against its definition."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ffhqref.cli import app
from ffhqref.core.store import UserError
from ffhqref.identities.calibrate import calibrate_distance, match_rates
from tests.synthetic import people, write_embedded


def test_rates_are_the_brute_force_ones() -> None:
    vectors, person = people([3, 4, 2, 6, 1, 1], 0, spread=0.9)
    rates = match_rates(vectors, [str(p) for p in person])
    distance = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    upper = np.triu_indices(len(vectors), 1)
    same = (person[:, None] == person)[upper]
    for limit in (0.1, 0.35, 0.5, 0.8, 1.0, 1.3):
        true, false = rates.at(limit)
        assert true == pytest.approx((distance[upper][same] < limit).mean(), abs=1e-12)
        assert false == pytest.approx((distance[upper][~same] < limit).mean(), abs=1e-12)
    assert (rates.same, rates.different) == (same.sum(), (~same).sum())


def test_a_pair_counts_strictly_above_its_distance() -> None:
    """One person's pair lies at 0.5 to the last bit, strangers at 1: the grid's steps are 0.001."""
    vectors = np.array([[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0, 0.5, -0.5, 0]], np.float32)
    vectors[2] /= np.linalg.norm(vectors[2])
    rates = match_rates(vectors, ["a", "a", "b"])
    assert [rates.at(distance)[0] for distance in (0.499, 0.5, 0.501)] == [0, 0, 1]
    assert [rates.at(distance)[1] for distance in (0.999, 1.0, 1.001)] == [0, 0, 1]
    # every pair is found at 0.501: a greater distance would let in nobody else
    assert rates.suggested(0.0) == pytest.approx(0.501)
    assert rates.suggested(1.0) == pytest.approx(0.501)


def test_rates_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, person = people([3] * 40, 0, spread=0.9)
    whole = match_rates(vectors, list(map(str, person)))
    monkeypatch.setattr("ffhqref.identities.calibrate.TILE", (7, 11))
    parts = match_rates(vectors, list(map(str, person)))
    assert (whole.true_match == parts.true_match).all() and (whole.false_match == parts.false_match).all()
    np.testing.assert_allclose(whole.false_range, parts.false_range, atol=1e-12)


def test_memory_is_bounded() -> None:
    """Beyond the vectors a tile's worth, however many photos there are: all pairs at once were 72 MB."""
    vectors, person = people([3] * 1000, 0, dimension=64)
    tracemalloc.start()
    match_rates(vectors, list(map(str, person)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 90e6, "rows x steps x 2 and some tiles"


def test_intervals_are_a_bootstrap_over_people() -> None:
    """Drawn plainly: people with replacement, a pair of two as often as both were drawn, less one."""
    vectors, person = people([4] * 40, 0, spread=1.1, dimension=32)
    rates = match_rates(vectors, [f"{p:02d}" for p in person])
    distance = 1 - vectors.astype(np.float64) @ vectors.astype(np.float64).T
    left, right = np.triu_indices(len(vectors), 1)
    below, same = distance[left, right] < 0.6, person[left] == person[right]
    drawn = []
    for times in np.random.default_rng(0).multinomial(40, np.full(40, 1 / 40), 200):
        one, two = times[person[left]] * same, (times[person[left]] + times[person[right]] - 1) * ~same
        drawn.append(((one * below).sum() / one.sum(), (two * below).sum() / two.sum()))
    wanted = np.percentile(drawn, [2.5, 97.5], axis=0).T
    for found, (low, high) in zip(rates.intervals(0.6), wanted, strict=True):
        assert found.low < found.rate < found.high
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    true, false = rates.intervals(0.6)
    assert (true.pairs, false.pairs) == ((below & same).sum(), (below & ~same).sum())
    assert rates.intervals(0.0)[1].high == pytest.approx(3 / rates.different)


def test_the_suggestion_keeps_the_wanted_rate_and_is_the_greatest() -> None:
    vectors, person = people([5] * 60, 0, spread=1.0)
    rates = match_rates(vectors, list(map(str, person)))
    for wanted in (0.0, 1e-3, 1e-2):
        at = rates.suggested(wanted)
        assert rates.at(at)[1] <= wanted
        assert rates.at(at)[0] == 1.0 or rates.at(at + 0.001)[1] > wanted
    error, where = rates.equal_error()
    true, false = rates.at(where)
    assert error == pytest.approx((1 - true + false) / 2)
    assert 0 < error < 0.2


def test_the_command_writes_table_and_plot(tmp_path: Path) -> None:
    out = tmp_path / "out"
    vectors, person = people([4] * 20, 0, spread=0.9)
    names = [f"{i:05d}.png" for i in range(80)]
    write_embedded(out, names, vectors)
    labels = tmp_path / "labels.csv"
    pd.DataFrame({"image": names, "identity": person}).to_csv(labels, index=False)
    result = CliRunner().invoke(app, ["calibrate", str(out), "--labels", str(labels)])
    assert result.exit_code == 0, result.output
    assert "80 photos of 20 people: 120 pairs of one person, 3,040 of two" in result.output
    assert "too few to show a rate of 0.0001" in result.output
    found = calibrate_distance(out, labels)
    frame = pd.read_csv(found.table)
    assert np.allclose(frame.TAR, found.rates.true_match)
    assert np.allclose(frame.FAR_high, found.rates.false_range[1])
    assert "TAR of one person" in result.output and "rests on" in result.output
    assert np.allclose(frame.distance, found.rates.distances)
    picture = cv2.imread(str(found.plot))
    assert picture.shape == (540, 960, 3)
    assert ((picture == [200, 110, 30]).all(axis=2)).sum() > 300  # the curve of one person is drawn


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("image,identity\nzz.png,a\n", "names no photograph"),
        ("image,identity\n00000.png,a\n00001.png,b\n", "no two photographs of one person"),
        ("image,identity\n00000.png,a\n00001.png,a\n", "one person only"),
        ("picture,identity\n00000.png,a\n", "no column image"),
        ("", "not a CSV"),
    ],
)
def test_labels_that_cannot_serve(tmp_path: Path, rows: str, words: str) -> None:
    write_embedded(tmp_path / "out", ["00000.png", "00001.png"], people([2])[0])
    (tmp_path / "labels.csv").write_text(rows)
    with pytest.raises(UserError, match=words):
        calibrate_distance(tmp_path / "out", tmp_path / "labels.csv")
