"""`refldm`: the published tree, in which every picture is a PNG of one size."""

from __future__ import annotations

from collections.abc import Iterator

from ffhqref.core import lists
from ffhqref.core.images import png_name
from ffhqref.export.contents import CROPS, Contents
from ffhqref.export.entries import BytesEntry, Entry, PictureEntry, text_entry


def plan(contents: Contents) -> Iterator[Entry]:
    """The mappings and lists with every name as a PNG, images512x512/, and each level's folder.

    A low-quality image has its target's name, as published, whatever `lq_image` called it.
    """
    options = contents.options
    for split, mapping in contents.mappings.items():
        rows = [(png_name(name), [*map(png_name, row.references)]) for name, row in mapping.items()]
        text = lists.reference_csv(rows, with_lq=split != "train")
        yield BytesEntry(f"reference_mapping/{split}_references.csv", text.encode())
        listed = _listed(contents, split)
        yield text_entry(f"id_based_ffhq_split/{split}_image.txt", map(png_name, listed))
        named = {name for target, row in mapping.items() for name in (target, *row.references)}
        for name in sorted(named.union(listed)):
            file = f"{CROPS}/{png_name(name)}"
            yield PictureEntry(file, contents.picture(name), options.size, options.links)
        for level, folder in contents.lq_folders(split).items():
            for name, row in mapping.items():
                file = f"{split}_images/{level}_degrad/{png_name(name)}"
                yield PictureEntry(file, contents.lq(folder, row), options.size, options.links)


def _listed(contents: Contents, split: str) -> list[str]:
    """The photos of a split's list; those of its mapping where there is no list."""
    path = contents.dataset / "id_based_ffhq_split" / f"{split}_image.txt"
    if path.is_file():
        return lists.read_list(path)
    mapping = contents.mappings[split]
    return sorted({name for target, row in mapping.items() for name in (target, *row.references)})
