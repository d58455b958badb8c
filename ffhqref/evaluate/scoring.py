"""One pass over the files: each picture is decoded once, for every score that we compute ourselves.

A case's target is read together with its low-quality picture and every method's result; PSNR and SSIM are
taken at once, and embeddings are kept, so that all identity scores follow from them without a picture. What
is finished is noted in a journal; a killed run goes on behind it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ffhqref.core import journal
from ffhqref.core.arrays import Float32, Float64
from ffhqref.core.images import BadImage, Rgb, read
from ffhqref.core.journal import Made
from ffhqref.core.store import digest
from ffhqref.degrade.stage import resize_square
from ffhqref.evaluate import measures
from ffhqref.evaluate.cases import LOW_QUALITY, TARGET, Cases
from ffhqref.evaluate.views import Points, Recogniser, scaled

REVISION = 1
TRUTH = TARGET  # the entry of the target itself, or of a reference
PSNR, SSIM = "psnr", "ssim"
RESIZED = "resized"  # noted where a result has another size: it is resized as published


@dataclass
class Entry:
    """What is known of one picture: its status, our scores against the target, its embeddings by view."""

    key: str
    status: str = "ok"
    reason: str = ""  # for people, where the status is not ok
    note: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    views: dict[str, Float32] = field(default_factory=dict)

    def packed(self) -> dict[str, Any]:
        """As JSON has it; embeddings as the bytes of their float32 values."""
        views = {view: base64.b64encode(vector.astype("<f4").tobytes()).decode()
                 for view, vector in self.views.items()}  # fmt: skip
        return {**asdict(self), "views": views}


def unpacked(found: Mapping[str, Any]) -> Entry:
    """What `packed` gave."""
    views = {
        view: np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
        for view, text in found["views"].items()
    }
    return Entry(**{**found, "views": views})


@dataclass(frozen=True)
class Settings:
    """What scores depend on beside the pictures."""

    size: int  # px: pictures are compared at this width and height
    measures: tuple[str, ...]  # psnr and ssim, or fewer
    recogniser: Recogniser | None
    points: Points
    landmarks: str = ""  # a digest of where the five points come from

    @cached_property
    def parts(self) -> list[object]:
        networks = self.recogniser.parts if self.recogniser else []
        return [REVISION, measures.REVISION, self.size, self.measures, networks, self.landmarks]


@dataclass(frozen=True)
class Item:
    """A target (or a reference) and what is compared with it; `file` names it in the journal."""

    file: str
    name: str
    truth: Path | None
    pictures: Mapping[str, Path | None]  # method -> its result, None where it is missing
    keys: Mapping[str, str]  # entry -> a digest of all that it depends on

    @property
    def key(self) -> str:
        return digest(json.dumps(sorted(self.keys.items())).encode())


def stamp(path: Path | None) -> list[object]:
    """What tells whether a file changed: its path, size and time; nothing where it is not there."""
    try:
        about = path.stat() if path else None
    except OSError:
        about = None
    return [str(path), about.st_size, about.st_mtime_ns] if about else []


def items_of(cases: Cases, files: Mapping[str, Mapping[str, Path]], settings: Settings) -> list[Item]:
    """The work: every case with every method's file, then the references that are no target."""
    items = []
    for case in cases.cases:
        pictures = {name: found.get(case.file) for name, found in files.items()}
        if case.lq is not None:
            pictures[LOW_QUALITY] = case.lq if case.lq.is_file() else None
        items.append(_item(case.image, case.image, case.target, pictures, settings))
    targets = {case.target for case in cases.cases}
    for name, path in cases.pictures.items():
        if settings.recogniser and path not in targets:
            items.append(_item(f"reference {name}", name, path, {}, settings))
    return items


def _item(
    file: str, name: str, truth: Path | None, pictures: Mapping[str, Path | None], settings: Settings
) -> Item:
    base = [settings.parts, name, stamp(truth)]
    keys = {
        entry: digest(json.dumps([*base, stamp(path)]).encode())
        for entry, path in {TRUTH: truth, **pictures}.items()
    }
    return Item(file, name, truth, pictures, keys)


def score_all(
    items: Sequence[Item], settings: Settings, path: Path, workers: int | None
) -> dict[str, Scored]:
    """Item -> its entries; what the journal at `path` knows is kept."""
    made = journal.read(path)
    known = {item.file: _entries(made.get(item.file)) for item in items}
    todo = [item for item in items if not _stands(item, made.get(item.file), known[item.file])]
    if todo:
        fresh = journal.make_all(todo, Scorer(settings, known).make, path, workers=workers, what="score")
        journal.write(path, {item.file: (made | fresh)[item.file] for item in items})
        known |= {file: _entries(one) for file, one in fresh.items()}
    return known


def _stands(item: Item, made: Made | None, entries: Scored) -> bool:
    return made is not None and made.key == item.key and set(item.keys) <= set(entries)


Scored = dict[str, Entry]  # target, method -> entry


def _entries(made: Made | None) -> Scored:
    """The entries of a journal's line; none where it is no line of ours."""
    try:
        return {name: unpacked(found) for name, found in json.loads(made.note).items()} if made else {}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}


@dataclass(frozen=True)
class Scorer:
    """Scores an item: the work of a thread."""

    settings: Settings
    known: Mapping[str, Scored]

    def make(self, item: Item) -> Made:
        """All entries of an item; those whose pictures did not change are taken over."""
        known = self.known.get(item.file, {})
        fresh = {
            name: known[name] for name, key in item.keys.items() if name in known and known[name].key == key
        }
        if len(fresh) < len(item.keys):
            fresh = self._score(item, fresh)
        note = json.dumps({name: fresh[name].packed() for name in item.keys})
        return Made(item.key, "", note=note)

    def _score(self, item: Item, known: Scored) -> Scored:
        truth = _Truth(self.settings, item)
        found = {TRUTH: known.get(TRUTH) or truth.entry()}
        for method, path in item.pictures.items():
            found[method] = known.get(method) or truth.compare(method, path)
        return found


class _Truth:
    """A target, decoded once for all that is compared with it."""

    def __init__(self, settings: Settings, item: Item) -> None:
        self.settings, self.item = settings, item
        self.image: Rgb | None = None
        self.points: Float32 | None = None
        self.fault: BadImage | None = None
        if item.truth is None:
            return
        try:
            whole = read(item.truth)
        except BadImage as bad:
            self.fault = bad
            return
        self.points = scaled(settings.points(item.name, whole), whole, settings.size)
        self.image = resize_square(whole, settings.size)

    @cached_property
    def luma(self) -> Float64:
        assert self.image is not None
        return measures.luma(self.image)

    def entry(self) -> Entry:
        """The target's own entry: its embeddings."""
        entry = Entry(self.item.keys[TRUTH])
        if self.fault:
            entry.status, entry.reason = self.fault.status, str(self.fault)
        if self.image is not None and self.settings.recogniser:
            entry.views = self.settings.recogniser.embed(self.image, self.points)
        return entry

    def compare(self, method: str, path: Path | None) -> Entry:
        """The entry of a method's result."""
        entry = Entry(self.item.keys[method])
        try:
            image, entry.note = self._result(path)
            recogniser = self.settings.recogniser
            if recogniser:
                if method != LOW_QUALITY and not recogniser.sees_face(image):
                    raise BadImage("no_face", "no face was found")
                entry.views = recogniser.embed(image, self._points(image))
        except BadImage as bad:
            entry.status, entry.reason = bad.status, str(bad)
            return entry
        if self.image is not None:
            if PSNR in self.settings.measures:
                entry.scores[PSNR] = measures.psnr(image, self.image)
            if SSIM in self.settings.measures:
                entry.scores[SSIM] = measures.ssim(measures.luma(image), self.luma)
        return entry

    def _points(self, image: Rgb) -> Float32 | None:
        """The target's points, which a result must match; without a target those found in the result."""
        return self.settings.points(self.item.name, image) if self.item.truth is None else self.points

    def _result(self, path: Path | None) -> tuple[Rgb, str]:
        """The picture at the common size, and a note where it had another."""
        if path is None:
            raise BadImage("missing", "there is no such file")
        image = read(path)
        height, width = image.shape[:2]
        if height != width:
            raise BadImage("other_shape", f"{width}x{height} px is not square")
        if height == self.settings.size:
            return image, ""
        return resize_square(image, self.settings.size), RESIZED
