"""How strongly pictures are degraded: the levels of manifests/levels.toml, or of a user's own file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ffhqref.core.recipe import build, load_toml, manifests
from ffhqref.core.store import UserError


@dataclass(frozen=True, kw_only=True)
class Level:
    """How strongly pictures are degraded: each range is (least, greatest), drawn uniformly."""

    name: str
    sigma: tuple[float, float]  # px, of the blur
    scale: tuple[float, float]  # times smaller before the JPEG
    noise: tuple[float, float]  # standard deviation, of 255
    quality: tuple[float, float]  # of the JPEG, 1..100; a drawn one is cut to a whole number
    isotropic: float = 0.5  # probability of a round kernel
    enlarge: bool = False  # says that a scale below 1 is meant
    source: str = ""  # who published these ranges

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w-]*", self.name, re.ASCII):  # it names folders
            raise ValueError(f"the name {self.name!r} may have only letters, digits, - and _")
        least = 0.25 if self.enlarge else 1
        self._check("sigma", self.sigma, 0, 1000)
        self._check("scale", self.scale, least, 1024, "; for one that enlarges set enlarge = true")
        self._check("noise", self.noise, 0, 255)
        self._check("quality", self.quality, 1, 100)
        if not 0 <= self.isotropic <= 1:
            raise ValueError("isotropic must be a share from 0 to 1")

    @staticmethod
    def _check(key: str, limits: tuple[float, float], least: float, greatest: float, hint: str = "") -> None:
        low, high = limits
        shown = f"{key} is [{low:g}, {high:g}]"
        if low > high:
            raise ValueError(f"{shown}, which is reversed: give the smaller number first")
        if not (least <= low and high <= greatest):  # also where one is not a number
            raise ValueError(f"{shown}: it must lie from {least:g} to {greatest:g}{hint}")


def read_levels(path: Path) -> dict[str, Level]:
    """Every level of a TOML file: a table each, or one whose keys stand alone (named as the file)."""
    document = load_toml(path)
    tables = {name: table for name, table in document.items() if isinstance(table, dict)}
    if len(tables) < len(document):
        tables = {path.stem: document}
    if not tables:
        raise UserError(f"{path} holds no level: see the form in {manifests() / 'levels.toml'}.")
    return {name: build(Level, {"name": name, **table}, f"{path} [{name}]") for name, table in tables.items()}


def load_level(text: str) -> Level:
    """A level by NAME (shipped), FILE (that holds one) or FILE:NAME; UserError where there is none."""
    shipped = read_levels(manifests() / "levels.toml")
    if text in shipped:
        return shipped[text]
    file, _, name = (text, "", "") if Path(text).is_file() else text.rpartition(":")
    if not file or not Path(file).is_file():
        raise UserError(f"There is no level {text!r} and no such file: give a TOML or {', '.join(shipped)}.")
    own = read_levels(Path(file))
    if not name and len(own) == 1:
        return next(iter(own.values()))
    if name not in own:
        raise UserError(f"{file} holds the levels {', '.join(own)}: name one as {file}:{next(iter(own))}.")
    return own[name]
