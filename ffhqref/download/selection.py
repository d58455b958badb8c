"""Which files of a source are wanted: `--only`, `--exclude` and the source's own list of removed ones."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ffhqref.core.store import UserError
from ffhqref.download.sources import Source, SourceFile


def listed_names(lines: Sequence[str]) -> frozenset[str]:
    """The names in the lines of a list, without remarks (#) and empty lines."""
    names = (line.partition("#")[0].strip() for line in lines)
    return frozenset(name for name in names if name)


def names_of(path: str) -> tuple[str, str, str]:
    """What a list may call a file: its path, its last part, or that without the suffix."""
    name = PurePosixPath(path)
    return path, name.name, name.stem


@dataclass(frozen=True)
class Selection:
    """Globs and ranges of numbers that say what is wanted (none: all), and the names that are not."""

    globs: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...]
    excluded: frozenset[str]

    @staticmethod
    def make(only: Sequence[str], source: Source, excluded: Sequence[str]) -> Selection:
        """From `--only` values (a glob, a folder, a group of the source, or a range of numbers as 0-999)."""
        globs: list[str] = []
        ranges = []
        for value in only:
            if found := re.fullmatch(r"(\d+)-(\d+)", value):
                first, last = int(found.group(1)), int(found.group(2))
                if first > last:
                    raise UserError(f"--only {value} is reversed: give the lower number first.")
                ranges.append((first, last))
            else:
                globs += source.groups.get(value, [value.rstrip("/")])
        return Selection(tuple(globs), tuple(ranges), listed_names([*source.exclude, *excluded]))

    def wants(self, path: str) -> bool:
        """Whether `--only` selects the path: whole, by its last part, by a folder above it, or by number."""
        if not self.globs and not self.ranges:
            return True
        name = PurePosixPath(path)
        for glob in self.globs:
            tried = [path, name.name, *map(str, name.parents)]
            if any(fnmatch.fnmatchcase(one, glob) for one in tried):
                return True
        if self.ranges and re.fullmatch(r"\d{1,12}", name.stem):
            return any(first <= int(name.stem) <= last for first, last in self.ranges)
        return False

    def excludes(self, path: str) -> bool:
        """Whether the path, its last part, or that without its suffix is on the list of removed ones."""
        return bool(self.excluded) and not self.excluded.isdisjoint(names_of(path))


@dataclass(frozen=True)
class Task:
    """One file to have, and for an archive which of its members."""

    file: SourceFile
    selection: Selection
