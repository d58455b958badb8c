"""What holds for every test of this room."""

from __future__ import annotations

import pytest

from ffhqref.evaluate import groups, statistics


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals from 400 draws: 10,000 would take most of the time."""
    for module in (statistics, groups):
        monkeypatch.setattr(module, "RESAMPLES", 400)
