"""What tests of several stages of a dataset ask."""

from __future__ import annotations

from typing import Any

import pytest

from ffhqref.core import images
from ffhqref.dataset import embed


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the photos that are read and aligned, as it happens."""
    names: list[str] = []
    prepare = embed.Maker._prepare

    def counted(self: embed.Maker, photo: images.Photo) -> Any:
        names.append(photo.name)
        return prepare(self, photo)

    monkeypatch.setattr(embed.Maker, "_prepare", counted)
    return names
