"""A review: what is asked, in which order, and the lines that an answer adds to verdicts.csv.

Nothing is kept but the file: what was seen, what can be undone and what is left is read off its lines, so
that a killed server, a second window or a second program changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from ffhqref.core.store import UserError, seed_for
from ffhqref.dataset import verdicts
from ffhqref.dataset.verdicts import Contradiction, Verdict
from ffhqref.report import answers, doubts
from ffhqref.report.answers import key_of
from ffhqref.report.doubts import Doubt
from ffhqref.report.facts import Facts

MOST_LINES = 60  # photos of a side that an answer names
MOST_NEAR = 6  # people who are proposed for merging
NOTE_LENGTH = 2000


@dataclass(frozen=True)
class ReviewOptions:
    """Who looks, and at what: `part` (i, n) is the i-th of n; `only` is a split, `contradictions`, or all."""

    who: str
    part: tuple[int, int] = (1, 1)
    only: str = "all"


@dataclass(frozen=True)
class Progress:
    """How far a review has come. `expected` is the wrong or missing references that are left, expected."""

    seen: int
    total: int
    expected: float

    def __str__(self) -> str:
        return f"{self.seen:,} of {self.total:,} seen; expected wrong references left: {self.expected:.1f}"


def questions(known: Facts, options: ReviewOptions, lines: Sequence[Verdict]) -> list[Doubt]:
    """What is asked, the most useful first: doubts, and of one split alone also each of its other people."""
    if options.only == "contradictions":
        return _contradicting(known, lines)
    found = doubts.find(known)
    if options.only != "all":
        found = [d for d in found if options.only in (known.split[d.left], known.split[d.right])]
        asked = {d.identity for d in found if d.together}
        found += doubts.ordered(_whole(known, options.only, asked))
    number, count = options.part
    return [
        d for d in found if seed_for(0, min(d.identity, d.other or d.identity), "part") % count == number - 1
    ]


def _whole(known: Facts, split: str, asked: set[str]) -> Iterable[Doubt]:
    """Every person of a split who is not asked about already, to be looked through."""
    for identity, members in known.people.items():
        if len(members) > 1 and known.split[members[0]] == split and identity not in asked:
            rows = known.faces.vectors[members].astype(np.float64)
            alike = rows @ rows.T
            centre = int(alike.mean(axis=1).argmax())
            far = int(alike[centre].argmin())
            left, right = members[centre], members[far]
            if left != right:
                sides = doubts.parted(known.faces.vectors, members, left, right)
                yield doubts.make(known, ("whole",), True, left, right, sides)


def _contradicting(known: Facts, lines: Sequence[Verdict]) -> list[Doubt]:
    """A question for each pair of photos in a contradiction, each once."""
    asked: dict[tuple[int, int], Doubt] = {}
    for found in verdicts.contradictions(lines):
        for verdict in (found.against, *found.chain):
            at = [known.faces.index.get(name) for name in (verdict.left, verdict.right)]
            if at[0] is None or at[1] is None:
                continue
            left, right = sorted((at[0], at[1]))
            together = known.identity[left] == known.identity[right]
            asked[left, right] = doubts.make(
                known, ("contradiction",), together, left, right, ((left,), (right,))
            )
    return list(asked.values())


@dataclass
class Session:
    """A review of a dataset by one person. `path` is verdicts.csv, read anew for every answer."""

    known: Facts
    options: ReviewOptions
    path: Path
    clock: datetime | None = None  # for tests; the time now where None
    lines: list[Verdict] = field(default_factory=list)  # of the file, as last read

    def __post_init__(self) -> None:
        self.refresh()

    @cached_property
    def asked(self) -> dict[str, Doubt]:
        """The questions by key, in their order; fixed when the review begins."""
        return {key_of(self.known, d): d for d in questions(self.known, self.options, self.lines)}

    def refresh(self) -> None:
        """Read verdicts.csv, to which others may have added."""
        self.lines = verdicts.read(self.path)

    # --- what is left -------------------------------------------------------------------------------------

    def answered(self) -> dict[str, str]:
        """Question -> what settles it: same, different, skipped, frozen, excluded; open ones are left out."""
        held = verdicts.agreed(verdicts.standing(self.lines))
        if self.options.only == "contradictions":  # a third look is this person's own, at these very pairs
            return answers.of_pairs(self.known, self.asked, [v for v in held if v.who == self.options.who])
        return answers.of(self.known, self.asked, held)

    def progress(self) -> Progress:
        """How many questions are answered, and what the open and the skipped ones still hold."""
        answered = self.answered()
        left = [d.gain for key, d in self.asked.items() if answered.get(key, "skipped") == "skipped"]
        return Progress(len(answered), len(self.asked), sum(left))

    def near(self, doubt: Doubt) -> list[int]:
        """The people most like the one of a doubt who are not rejected: a photo each, the likest first."""
        known, vectors = self.known, self.known.faces.vectors
        centre = vectors[known.people[known.identity[doubt.left]]].mean(axis=0)
        own = {known.identity[doubt.left], known.identity[doubt.right]}
        rejected = {v.photos for v in verdicts.standing(self.lines) if v.kind == "different"}
        apart = {known.identity[i] for pair in rejected for i in self._other_side(pair, own)}
        likeness = vectors @ centre
        found: dict[str, int] = {}
        for at in np.argsort(-likeness)[: 50 * MOST_NEAR].tolist():
            if (identity := known.identity[at]) not in own | apart:
                found.setdefault(identity, at)
        return list(found.values())[:MOST_NEAR]

    def _other_side(self, pair: frozenset[str], own: set[str]) -> list[int]:
        at = [self.known.faces.index[name] for name in pair if name in self.known.faces.index]
        return at if any(self.known.identity[i] in own for i in at) else []

    def notes(self, doubt: Doubt) -> list[Verdict]:
        """What was written about the photos of a question, by whoever, verdicts' notes too."""
        photos = {self.known.faces.names[at] for at in (*doubt.left_side, *doubt.right_side)}
        return [v for v in verdicts.standing(self.lines) if v.note and v.photos & photos]

    def excluded(self) -> set[str]:
        """The photos that somebody excluded."""
        return {v.left for v in verdicts.standing(self.lines) if v.kind == "excluded"}

    # --- answers ------------------------------------------------------------------------------------------

    def answer(self, kind: str, key: str, photos: Sequence[int] = (), note: str = "") -> None:
        """Add the lines of an answer to the question `key`; UserError where it makes no sense.

        same, different, skipped: the question's pair and its sides. freeze: all photos of the person. split:
        `photos` are another person than the rest. merge: the person and those of `photos` are one. exclude:
        `photos` are of no use. note: about `photos`, or about the pair.
        """
        doubt = self.asked.get(key)
        if doubt is None or not all(0 <= at < len(self.known.faces.names) for at in photos):
            raise UserError("That question or photo is not in this review: reload the page.")
        makers = {
            "same": self._same, "different": self._different, "skipped": self._skipped,
            "freeze": self._freeze,
            "split": self._split, "merge": self._merge, "exclude": self._exclude, "note": self._note,
        }  # fmt: skip
        if kind not in makers:
            raise UserError(f"{kind!r} is not an answer: give one of {', '.join(makers)}.")
        text = "".join(c if c.isprintable() else " " for c in note)[:NOTE_LENGTH]
        lines = makers[kind](doubt, tuple(dict.fromkeys(photos)))
        if not lines or (kind == "note" and not text):
            raise UserError("Select the photos first." if kind != "note" else "Write the note first.")
        self._add([replace(line, note=text) if text else line for line in lines])

    def _line(self, kind: str, left: int, right: int | None = None) -> Verdict:
        names, pixels = self.known.faces.names, self.known.faces.pixels
        other = ("", "") if right is None else (names[right], pixels[right])
        return Verdict(kind, names[left], pixels[left], *other, self.options.who, "")

    def _same(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        return [self._line("same", doubt.left, doubt.right)]

    def _different(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        """The pair, and each of the pair with the other side: what hangs on a weak link goes with it."""
        pairs = {(doubt.left, doubt.right)}
        if doubt.together:
            pairs |= {(doubt.left, at) for at in doubt.right_side[:MOST_LINES]}
            pairs |= {(at, doubt.right) for at in doubt.left_side[:MOST_LINES]}
        return [self._line("different", left, right) for left, right in sorted(pairs)]

    def _skipped(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        return [self._line("skipped", doubt.left, doubt.right)]

    def _freeze(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        first, *others = self.known.people[self.known.identity[photos[0] if photos else doubt.left]]
        return [self._line("frozen", first, at) for at in others] or [self._line("frozen", first)]

    def _split(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        if not photos:
            return []
        members = self.known.people[self.known.identity[photos[0]]]
        rest = [at for at in members if at not in photos]
        if not rest or not set(photos) <= set(members):
            raise UserError("Select some photos of one person, not all: they become another person.")
        first, *others = photos
        return [self._line("same", first, at) for at in others] + [
            self._line("different", first, at) for at in rest
        ]

    def _merge(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        return [self._line("same", doubt.left, at) for at in photos if at != doubt.left]

    def _exclude(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        return [self._line("excluded", at) for at in photos]

    def _note(self, doubt: Doubt, photos: Sequence[int]) -> list[Verdict]:
        return [self._line("note", at) for at in photos] or [self._line("note", doubt.left, doubt.right)]

    # --- undo and redo ------------------------------------------------------------------------------------

    def undo(self) -> None:
        """Take back this person's latest answer; UserError where there is none."""
        done, _ = history(self.lines, self.options.who)
        if not done:
            raise UserError("There is nothing to undo.")
        self._add([replace(line, kind="undone", note="") for line in reversed(done[-1])])

    def redo(self) -> None:
        """Give again what was undone last; UserError where nothing is left to redo."""
        _, undone = history(self.lines, self.options.who)
        if not undone:
            raise UserError("There is nothing to redo.")
        self._add(undone[-1])

    def _add(self, lines: Sequence[Verdict]) -> None:
        """Write lines of one moment, which is later than every other of this person."""
        self.refresh()
        moment = self.clock or datetime.now(UTC)
        own = [line.when for line in self.lines if line.who == self.options.who]
        if own and own[-1] >= _stamp(moment):
            moment = datetime.fromisoformat(own[-1]) + timedelta(milliseconds=1)
        verdicts.append(self.path, [replace(line, when=_stamp(moment)) for line in lines])
        self.refresh()


def _stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def history(lines: Sequence[Verdict], who: str) -> tuple[list[list[Verdict]], list[list[Verdict]]]:
    """One person's answers that stand and those that can be given again, the latest last in both.

    The lines of one moment are one answer. An answer other than the one undone last ends the redoing.
    """
    done: list[list[Verdict]] = []
    undone: list[list[Verdict]] = []
    own = sorted((line for line in lines if line.who == who), key=lambda line: line.when)
    for _, group in groupby(own, key=lambda line: line.when):
        answer = list(group)
        if answer[0].kind == "undone":
            if done:
                undone.append(done.pop())
            continue
        again = undone and list(map(_content, undone[-1])) == list(map(_content, answer))
        undone = undone[:-1] if again else []
        done.append(answer)
    return done, undone


def _content(verdict: Verdict) -> Verdict:
    return replace(verdict, when="")


def add_files(path: Path, files: Sequence[Path]) -> tuple[int, list[Contradiction]]:
    """Add others' verdicts to the file at `path`: how many lines were new, and what contradicts itself now.

    UserError names a file that is not there or holds no verdicts.
    """
    for file in files:
        if not file.is_file():
            raise UserError(f"There is no file {file}: give a verdicts.csv to merge.")
    own = verdicts.read(path)
    whole = verdicts.merge(own, *map(verdicts.read, files))
    known = set(own)
    new = [line for line in whole if line not in known]
    if new:
        verdicts.append(path, new)
    return len(new), verdicts.contradictions(whole)
