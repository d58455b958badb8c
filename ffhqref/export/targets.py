"""A folder a target with its references: `instantrestore`, `dmdnet`, `asffnet`."""

from __future__ import annotations

from collections.abc import Iterator

from ffhqref.core.arrays import Float32
from ffhqref.export.contents import Contents, Sample, flat
from ffhqref.export.entries import BytesEntry, Entry, npy_entry, text_entry
from ffhqref.export.landmarks import Landmarks68, read_68
from ffhqref.export.people import of_photos, put

PERSON = 3  # PNGs below a person's folder that InstantRestore's loader wants


def instantrestore(contents: Contents) -> Iterator[Entry]:
    """train/PERSON/cropped_images/NAME.png and new_landmarks/NAME.npy (68 x 2 px, where they are known).

    val/ and test/: TARGET/{degraded,gt}.png and TARGET/conditioning/NAME.png.
    """
    if "train" in contents.options.splits:
        yield from _train(contents)
    for split in contents.mappings:
        if split == "train" or not contents.needs_lq(split):
            continue
        for sample in contents.samples(split):
            folder = f"{split}/{flat(sample.target.name)}"
            yield put(contents, folder, sample.target, "gt")
            if sample.lq:
                yield put(contents, folder, sample.lq, "degraded")
            for reference in sample.references:
                yield put(contents, f"{folder}/conditioning", reference)


def _train(contents: Contents) -> Iterator[Entry]:
    people = of_photos(contents, "train", max(PERSON, contents.least(PERSON)))
    known = landmarks(contents, [name for photos in people.values() for name in photos])
    without = 0
    for folder, photos in people.items():
        for name in photos:
            picture = contents.picture(name)
            yield put(contents, f"train/{folder}/cropped_images", picture)
            points = known.find(picture, contents.options.size)
            if points is None:
                without += 1
            else:
                yield npy_entry(f"train/{folder}/new_landmarks/{flat(name)}.npy", points, name)
    if without:
        contents.notes.append(
            f"{without:,} train photos have no new_landmarks: 68 points are known of FFHQ's own images alone "
            "(--landmarks ffhq-dataset-v2.json)."
        )


def landmarks(contents: Contents, names: list[str]) -> Landmarks68:
    """The 68 points of these photos, from --landmarks."""
    return read_68(contents.options.landmarks, names)


def dmdnet(contents: Contents) -> Iterator[Entry]:
    """SPLIT/list.tsv with LQ, RefsImg/TARGET, RefsLandmark/TARGET, and SPLIT/gt/ beside what it names.

    References without 68 points are left out, and so are targets that keep none.
    """
    names = [name for rows in contents.mappings.values() for row in rows.values() for name in row.references]
    known = landmarks(contents, names)
    without = 0
    for split in contents.mappings:
        if not contents.needs_lq(split):
            continue
        lines = []
        for sample in contents.samples(split):
            entries, line = _row(contents, split, sample, known)
            without += not line
            lines += [line] if line else []
            yield from entries
        if lines:
            yield text_entry(f"{split}/list.tsv", lines)
    if without:
        contents.notes.append(
            f"{without:,} targets are left out: this reader needs 68 landmarks of each reference, which are "
            "known of FFHQ's own images alone (--landmarks ffhq-dataset-v2.json)."
        )


def _row(contents: Contents, split: str, sample: Sample, known: Landmarks68) -> tuple[list[Entry], str]:
    """The files of a target and its line of the list; nothing where no reference has landmarks."""
    place = flat(sample.target.name)
    entries: list[Entry] = []
    for reference in sample.references:
        points = known.find(reference, contents.options.size)
        if points is not None:
            name = flat(reference.name)
            entries.append(put(contents, f"{split}/RefsImg/{place}", reference))
            entries.append(_points(f"{split}/RefsLandmark/{place}/{name}.png.txt", points, reference.name))
    if not entries or sample.lq is None:
        return [], ""
    entries.append(put(contents, f"{split}/LQ", sample.lq, place))
    entries.append(put(contents, f"{split}/gt", sample.target, place))
    return entries, f"LQ/{place}.png\tRefsImg/{place}\tRefsLandmark/{place}"


def _points(file: str, points: Float32, origin: str) -> BytesEntry:
    """A line `x y` a point, px."""
    lines = "".join(f"{x:.3f} {y:.3f}\n" for x, y in points.tolist())
    return BytesEntry(file, lines.encode(), origin)
