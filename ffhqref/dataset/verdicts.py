"""What people decided by looking: verdicts.csv, lines that are only ever added.

A line is about two photos (or one), each by name and by the digest of its pixels, so that it holds where a
file was renamed and no longer holds where the file now shows something else.

    same       left and right show one person
    different  they show two
    frozen     right is in the frozen person of left; a person is frozen by a line for each of its photos
    excluded   left is of no use
    note       what somebody wrote about left (and right)
    skipped    somebody looked and could not say
    undone     takes back the latest line of that person about these photos that still stands

Undo is a line too, not a change of the file: a file that only grows can be merged by taking the lines of
both, is readable in a diff, and a killed program cannot damage what stood there. Of what one person said of a
pair the latest holds; what two say against each other is a contradiction, until a third makes a majority.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from ffhqref.core import tables
from ffhqref.core.store import UserError, write_text

Kind = Literal["same", "different", "frozen", "excluded", "note", "skipped", "undone"]
KINDS: tuple[str, ...] = get_args(Kind)
_CLASS = {"same": "pair", "different": "pair", "skipped": "pair"}  # answers to one question; others their own


@dataclass(frozen=True)
class Verdict:
    """A line of verdicts.csv; the fields are its columns. `when` is UTC as ISO 8601 with milliseconds."""

    kind: str
    left: str
    left_pixels: str
    right: str
    right_pixels: str
    who: str
    when: str
    note: str = ""

    @property
    def photos(self) -> frozenset[str]:
        """The names it is about."""
        return frozenset({self.left, self.right} - {""})

    @property
    def question(self) -> tuple[str, frozenset[str]]:
        """What it answers: of two answers to one question by one person the later holds."""
        return _CLASS.get(self.kind, self.kind), self.photos

    def __str__(self) -> str:
        about = " and ".join(sorted(self.photos))
        return f"{self.who} said {self.kind} of {about} ({self.when})"


def path_of(out: Path) -> Path:
    """Where the verdicts of the dataset `out` lie."""
    return out / "verdicts.csv"


def read(path: Path) -> list[Verdict]:
    """The lines of a verdicts.csv in their order; none where there is no file. UserError names a bad line.

    A last line that a killed program cut off (no line end) is passed over.
    """
    return [verdict for _, verdict in numbered(path)]


def numbered(path: Path) -> list[tuple[int, Verdict]]:
    """`read`, each verdict with the number of its (last) line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        raise UserError(
            f"Cannot read {path} as UTF-8 text: give verdicts as `ffhqref review` writes them."
        ) from None
    whole = text[: text.rfind("\n") + 1]
    reader = csv.reader(io.StringIO(whole, newline=""))
    header = next(reader, list(tables.VERDICTS))
    if tuple(header) != tables.VERDICTS:
        raise UserError(f"{path}: its first line must be {','.join(tables.VERDICTS)}.")
    return [(reader.line_num, _verdict(path, reader.line_num, row)) for row in reader if row]


def _verdict(path: Path, line: int, row: Sequence[str]) -> Verdict:
    if len(row) != len(tables.VERDICTS):
        raise UserError(f"{path}, line {line}: it has {len(row)} fields instead of {len(tables.VERDICTS)}.")
    verdict = Verdict(*row)
    if verdict.kind not in KINDS:
        raise UserError(f"{path}, line {line}: {verdict.kind!r} is not one of {', '.join(KINDS)}.")
    if not verdict.left or (verdict.kind in ("same", "different") and verdict.right in ("", verdict.left)):
        raise UserError(f"{path}, line {line}: {verdict.kind} needs two photos.")
    return verdict


def as_csv(verdicts: Iterable[Verdict], header: bool = True) -> str:
    """Verdicts as the text of their lines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if header:
        writer.writerow(tables.VERDICTS)
    writer.writerows([[getattr(v, item.name) for item in fields(v)] for v in verdicts])
    return text.getvalue()


def append(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Add lines; the file is written beside its place and renamed, so that no line is ever half there.

    Programs that add at the same time wait for each other.
    """
    import fcntl

    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        write_text(path, as_csv([*read(path), *verdicts]))
    finally:
        os.close(handle)


def merge(*files: Sequence[Verdict]) -> list[Verdict]:
    """The lines of several files, each once, ordered by when; lines of one moment keep their order."""
    seen = dict.fromkeys(verdict for lines in files for verdict in lines)
    return sorted(seen, key=lambda verdict: verdict.when)


def standing(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """What still holds: of each person's answers to a question the latest that was not taken back."""
    answers: dict[tuple[str, tuple[str, frozenset[str]]], list[Verdict]] = {}
    order: dict[tuple[str, frozenset[str]], list[tuple[str, tuple[str, frozenset[str]]]]] = {}
    for verdict in sorted(verdicts, key=lambda verdict: verdict.when):  # a merged file is not in order
        about = (verdict.who, verdict.photos)
        if verdict.kind != "undone":
            key = (verdict.who, verdict.question)
            answers.setdefault(key, []).append(verdict)
            order.setdefault(about, []).append(key)
        elif order.get(about):
            answers[order[about].pop()].pop()
    latest = [given[-1] for given in answers.values() if given]
    return sorted(latest, key=lambda verdict: verdict.when)


@dataclass(frozen=True)
class Contradiction:
    """Verdicts that cannot all hold: `against`, and those that say its opposite, alone or as a chain."""

    against: Verdict
    chain: tuple[Verdict, ...]

    def __str__(self) -> str:
        return f"{self.against}, but {'; '.join(map(str, self.chain))}"


def agreed(held: Iterable[Verdict]) -> list[Verdict]:
    """Standing verdicts without those that were outvoted on one and the same pair.

    Of an equal number on both sides both stay, unless what was said of other pairs leads from one photo to
    the other: that counts as one more for `same`.
    """
    verdicts = list(held)
    votes: dict[frozenset[str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.kind in ("same", "different"):
            votes.setdefault(verdict.photos, []).append(verdict)
    dropped: set[Verdict] = set()
    for photos, cast in votes.items():
        same = [v for v in cast if v.kind == "same"]
        different = [v for v in cast if v.kind == "different"]
        if len(same) == len(different):
            others = _graph(v for v in verdicts if v.photos != photos)
            dropped |= set(different if _chain(others, *sorted(photos)) else ())
        elif same and different:
            dropped |= set(same if len(same) < len(different) else different)
    return [verdict for verdict in verdicts if verdict not in dropped]


def contradictions(verdicts: Iterable[Verdict]) -> list[Contradiction]:
    """Every `different` whose photos the others make one person, and every `same` out of a frozen person."""
    held = agreed(standing(verdicts))
    graph = _graph(held)
    found = []
    for verdict in held:
        if verdict.kind == "different" and (chain := _chain(graph, verdict.left, verdict.right)):
            found.append(Contradiction(verdict, chain))
    return found + list(_joined_frozen(held))


_Graph = dict[str, list[tuple[str, Verdict]]]  # photo -> the others that it is one person with, by which line


def _graph(held: Iterable[Verdict]) -> _Graph:
    graph: _Graph = {}
    for link in held:
        if link.kind in ("same", "frozen") and link.right:
            graph.setdefault(link.left, []).append((link.right, link))
            graph.setdefault(link.right, []).append((link.left, link))
    return graph


def _chain(graph: _Graph, start: str, end: str) -> tuple[Verdict, ...]:
    """The fewest verdicts that lead from one photo to another, or none."""
    came: dict[str, tuple[str, Verdict] | None] = {start: None}
    queue = [start]
    for photo in queue:  # which grows while it is gone through
        for other, verdict in graph.get(photo, ()):
            if other not in came:
                came[other] = (photo, verdict)
                queue.append(other)
    chain: list[Verdict] = []
    place = end
    while (step := came.get(place)) is not None:
        chain.append(step[1])
        place = step[0]
    return tuple(reversed(chain))


def _joined_frozen(held: Sequence[Verdict]) -> Iterator[Contradiction]:
    """A `same` from a frozen person to a photo outside it: a frozen person stays as it is."""
    group = {photo: number for number, photos in enumerate(frozen_people(held)) for photo in photos}
    by_photo = {photo: v for v in held if v.kind == "frozen" for photo in v.photos}
    for verdict in held:
        if verdict.kind != "same":
            continue
        left, right = group.get(verdict.left), group.get(verdict.right)
        if left != right:
            frozen = by_photo[verdict.left if left is not None else verdict.right]
            yield Contradiction(verdict, (frozen,))


def frozen_people(held: Iterable[Verdict]) -> list[list[str]]:
    """The frozen persons among standing verdicts, each the names of its photos, ordered by first name."""
    people: dict[str, set[str]] = {}
    for verdict in held:
        if verdict.kind == "frozen":
            joined = set(verdict.photos).union(*(people.get(photo, set()) for photo in verdict.photos))
            people.update(dict.fromkeys(joined, joined))
    return sorted({min(photos): sorted(photos) for photos in people.values()}.values())
