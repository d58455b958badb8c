"""A folder a person: `folders`, `dualpivot`, `gen2res`, `restorerid`, `coderefformer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ffhqref.export.contents import Contents, Picture, flat, folder_of
from ffhqref.export.entries import Entry, PictureEntry, text_entry

ENOUGH = 20  # photos a person, about, from which readers that learn one person by heart do well


def put(contents: Contents, folder: str, picture: Picture, name: str = "") -> PictureEntry:
    """A picture in a folder, by its own name without folders."""
    options = contents.options
    return PictureEntry(f"{folder}/{name or flat(picture.name)}.png", picture, options.size, options.links)


def of_photos(contents: Contents, split: str, least: int) -> dict[str, list[str]]:
    """The split's people who have so many photos; a note counts the others."""
    everyone = contents.people(split)
    kept = {folder: photos for folder, photos in everyone.items() if len(photos) >= least}
    if left := len(everyone) - len(kept):
        contents.notes.append(f"{split}: {left:,} people of fewer than {least} photos are left out.")
    return kept


def folders(contents: Contents) -> Iterator[Entry]:
    """SPLIT/PERSON/NAME.png."""
    for split in contents.options.splits:
        for folder, photos in of_photos(contents, split, contents.least(1)).items():
            for name in photos:
                yield put(contents, f"{split}/{folder}", contents.picture(name))


def personal(contents: Contents) -> Iterator[Entry]:
    """The same for readers that learn one person by heart; a note says who has photos enough for that."""
    for split in contents.options.splits:
        people = of_photos(contents, split, contents.least(2))
        enough = sum(len(photos) >= ENOUGH for photos in people.values())
        if people:
            contents.notes.append(
                f"{split}: {enough:,} of {len(people):,} people have the {ENOUGH} photos that this reader "
                f"is meant for (--least {ENOUGH} leaves out the others)."
            )
        for folder, photos in people.items():
            for name in photos:
                yield put(contents, f"{split}/{folder}", contents.picture(name))


def restorerid(contents: Contents) -> Iterator[Entry]:
    """Celeb_Ref/SPLIT.txt with the names of folders, Celeb_Ref_Clean/PERSON/NAME.png.

    A person of one photo breaks the reader.
    """
    for split in contents.options.splits:
        people = of_photos(contents, split, max(2, contents.least(2)))
        if people:
            yield text_entry(f"Celeb_Ref/{split}.txt", people)
        for folder, photos in people.items():
            for name in photos:
                yield put(contents, f"Celeb_Ref_Clean/{folder}", contents.picture(name))


def coderefformer(contents: Contents) -> Iterator[Entry]:
    """SPLIT/gt/GROUP/NAME.png, and SPLIT/lr/GROUP/ with the same names where there are low-quality images.

    The reader takes all others of a folder for references: a folder holds targets each of which is a
    reference of every other. A person may have several such groups.
    """
    for split, mapping in contents.mappings.items():
        has_lq = contents.needs_lq(split)
        samples = {sample.target.name: sample for sample in contents.samples(split)}
        groups = mutual({name: row.references for name, row in mapping.items()})
        left = len(samples) - sum(map(len, groups))
        if left:
            contents.notes.append(f"{split}: {left:,} targets with no mutual reference are left out.")
        used: dict[str, int] = {}
        for group in groups:
            person = folder_of(contents.identity.get(group[0], group[0]))
            used[person] = used.get(person, 0) + 1
            folder = person if used[person] == 1 else f"{person}_{used[person]}"
            for name in group:
                yield put(contents, f"{split}/gt/{folder}", samples[name].target)
                lq = samples[name].lq
                if has_lq and lq is not None:
                    yield put(contents, f"{split}/lr/{folder}", lq, flat(name))


def mutual(references: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Targets in groups of two or more, in which each is a reference of every other; none is in two.

    Greedy: the target with most mutual references among those that are left begins a group, and others
    join in the order of theirs; ties go to the first name.
    """
    near = {name: {other for other in found if name in references.get(other, ())}
            for name, found in references.items()}  # fmt: skip
    groups: list[list[str]] = []
    order = sorted(near, key=lambda name: (-len(near[name]), name))
    taken: set[str] = set()
    for first in order:
        if first in taken:
            continue
        group = [first]
        for other in sorted(near[first] - taken - {first}, key=lambda name: (-len(near[name]), name)):
            if all(other in near[member] for member in group):
                group.append(other)
        if len(group) > 1:
            groups.append(sorted(group))
            taken.update(group)
    return sorted(groups)
