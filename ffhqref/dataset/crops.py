"""Faces cut out of photographs: which are, where they lie, and which are good enough to be targets.

Two ways: FFHQ's frame into images512x512/NAME.png (`--crop`), and each face of a photo as one of its own into
faces/NAME/001.png (`--faces all`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ffhqref.core import images, store, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Photo, Rgb, encode
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.core.tables import EmbeddingRow
from ffhqref.dataset import shards
from ffhqref.faces import framing
from ffhqref.faces.align import Aligner
from ffhqref.faces.geometry import ffhq_crop
from ffhqref.faces.networks import Detector

V = TypeVar("V")
FACE_SIDE = 512  # px of a face cut out by `--faces all` alone
PROBED = 32  # photos that are looked at to see how a folder is framed
NEAR_FRAME = 0.08  # of the side: FFHQ's own and CelebRef-HQ's photographs measure .02 to .03, median
SQUARE = 0.01  # of the longer side: what a square picture's sides may differ by
MOST_FRAMED = 0.9  # of the probed photos with a face must be framed so
MARK = ".cut-by-ffhqref"  # of a folder whose pictures are all crops, so that stale ones can be removed


def way(recipe: Recipe) -> str:
    """How faces are cut out: `frame`, `faces` (each face, the plain way), or empty where none is."""
    if recipe.crop == "on":
        return "frame"
    return "faces" if recipe.faces == "all" else ""


def folder(out: Path, recipe: Recipe) -> Path:
    """Where this recipe's crops lie in the dataset `out`."""
    if way(recipe) == "frame":
        return out / f"images{recipe.crop_size}x{recipe.crop_size}"
    return out / "faces"


def parameters(recipe: Recipe) -> JsonObject:
    """What decides a crop; nothing where no face is framed."""
    if way(recipe) != "frame":
        return {}
    return {"crop": "on", "crop_size": recipe.crop_size, "crop_format": recipe.crop_format}


# ---- whether to crop ---------------------------------------------------------------------------------------


def settle(
    recipe: Recipe,
    photos: Sequence[Photo],
    open_aligner: Callable[[], Aligner],
    there: Receipt | None,
    images_folder: Path,
) -> tuple[Recipe, JsonObject | None]:
    """The recipe with `auto` replaced by what it comes to, and what was measured for it (None: nothing).

    A dataset keeps what was settled for it: one photo more must not rename all others.
    """
    if recipe.crop != "auto":
        return recipe, None
    if recipe.align == "crop" or recipe.faces == "all":  # framed already; cut out anyway
        return replace(recipe, crop="off"), None
    before = there.notes.get("framing") if there else None
    about = {"folder": str(images_folder.resolve()), "limit": recipe.limit}
    if before is None or any(before[key] != value for key, value in about.items()):
        before = {**about, **measure(photos, open_aligner())}
    return replace(recipe, crop="on" if before["crop"] else "off"), before


def measure(photos: Sequence[Photo], aligner: Aligner) -> JsonObject:
    """How many of a few photos, chosen by the digests of their names, are square and framed as FFHQ's are."""
    usable = [photo for photo in photos if not photo.bad]
    chosen = sorted(usable, key=lambda photo: store.digest(photo.name.encode()))[:PROBED]
    faces, framed = 0, 0
    for photo in chosen:
        try:
            image = images.read(photo.path)
            if min(image.shape[:2]) < 16:
                continue
            found, _ = aligner(image, photo.name)
        except BadImage:
            continue
        points = found[0].landmarks
        faces += 1
        framed += points is not None and is_framed(points, image)
    return {"faces": faces, "framed": framed, "crop": framed < MOST_FRAMED * faces or not faces}


def is_framed(landmarks: Float32, image: Rgb) -> bool:
    """Whether a picture is square and its frame is FFHQ's, as well as five points can tell."""
    height, width = image.shape[:2]
    square = abs(width - height) <= SQUARE * max(width, height)
    return square and framing.frame_error(landmarks, width, height) < NEAR_FRAME


def describe(measured: Mapping[str, object]) -> str:
    """The measurement as a line for people."""
    found = f"{measured['framed']} of {measured['faces']} photos looked at are square and framed as FFHQ's"
    if measured["crop"]:
        return f"{found}: each face is cut out (--crop off leaves photos as they are)."
    return f"{found}: they are left as they are (--crop on cuts each face out)."


# ---- one face ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cutter:
    """Cuts faces out of a photograph into the folder of crops."""

    out: Path
    recipe: Recipe
    detector: Detector | None  # finds points again in the frame; None where they were given

    def name(self, photo: str, number: int) -> str:
        """What the crop of a photo's face is called."""
        suffix = f".{self.recipe.crop_format}" if way(self.recipe) == "frame" else ".png"
        if self.recipe.faces == "all":
            return f"{photo}/{number:03d}{suffix}"
        return PurePosixPath(images.png_name(photo)).with_suffix(suffix).as_posix()

    def remove(self, name: str) -> None:
        """Remove a crop again."""
        store.below(folder(self.out, self.recipe), name).unlink(missing_ok=True)

    def cut(self, row: EmbeddingRow, number: int, image: Rgb) -> tuple[EmbeddingRow, Rgb]:
        """Write the face of a row as a picture of its own: its row with name, quality, landmarks, and it."""
        assert row.landmarks is not None  # `plan` sees to it
        points, recipe = row.landmarks.reshape(5, 2), self.recipe
        own = replace(row, image=self.name(row.image, number))
        if way(recipe) == "frame":
            if self.detector is not None:
                points = framing.refine(self.detector, image, points)
            crop = framing.cut(image, points, self._size(points))
            own.eyes, own.padding, own.blur = crop.eyes, crop.padding, crop.blur
            picture, own.landmarks = crop.picture, crop.landmarks.ravel()
        else:
            picture = ffhq_crop(image, points, FACE_SIDE)
            own.landmarks = framing.in_crop(points, FACE_SIDE).ravel()
        data = encode(picture, PurePosixPath(own.image).suffix)
        store.write_bytes(store.below(folder(self.out, recipe), own.image), data)
        own.crop = store.digest(data)
        return own, picture

    def _size(self, points: Float32) -> int:
        """1024 px only where the photograph has as many; a smaller face is not enlarged to it."""
        large = framing.frame_side(points) >= self.recipe.crop_size
        return self.recipe.crop_size if large else FACE_SIDE


# ---- which may be targets ----------------------------------------------------------------------------------


def with_bars(table: pa.Table, recipe: Recipe) -> pa.Table:
    """Rows of embeddings with the reason, where their crops are too small or too much padded for targets."""
    eyes, padding = (table[name].to_pylist() for name in (tables.EYES, tables.PADDING))
    reasons = [_bar(*one, recipe) for one in zip(eyes, padding, strict=True)]
    at = table.schema.get_field_index(tables.BARRED)
    return table.set_column(at, table.schema.field(at), pa.array(reasons, tables.TEXT))


def _bar(eyes: float | None, padding: float | None, recipe: Recipe) -> str:
    if eyes is None or padding is None:  # no crop
        return ""
    if eyes < recipe.min_eyes:
        return f"{eyes:.0f} px between the eyes, below {recipe.min_eyes:g}"
    if padding > recipe.max_padding:
        return f"{padding:.0%} lies outside the photograph, above {recipe.max_padding:.0%}"
    return ""


def barred(out: Path) -> dict[str, str]:
    """The photos of a dataset that are no targets for their quality, and why."""
    return dict(_columns(out, tables.IMAGE, tables.BARRED))


def digest(out: Path) -> str:
    """Of what `barred` says."""
    return store.digest(json.dumps(barred(out), sort_keys=True).encode())


def by_image(out: Path, given: Mapping[str, V]) -> dict[str, V]:
    """What a user's file says by the names of photographs, by those of the crops cut out of them."""
    renamed = {
        photo: name
        for name, photo in _columns(out, tables.IMAGE, tables.PHOTO)
        if images.png_name(name) == images.png_name(photo)  # not each of several faces
    }
    return {renamed.get(photo, photo): value for photo, value in given.items()}


def _columns(out: Path, first: str, second: str) -> Iterator[tuple[str, str]]:
    """Two text columns of a finished dataset's embeddings, where the second is not empty."""
    for path in shards.finished(out):
        table = tables.read(path, tables.EMBEDDINGS, [first, second])
        pairs = zip(tables.texts(table, first), tables.texts(table, second), strict=True)
        yield from (pair for pair in pairs if pair[1])


# ---- the folder --------------------------------------------------------------------------------------------


def prepare(out: Path, recipe: Recipe) -> None:
    """Make and mark the folder of crops; UserError where it holds pictures of somebody else."""
    place = folder(out, recipe)
    if way(recipe) != "frame" or (place / MARK).is_file():
        return
    if place.is_dir() and any(place.iterdir()):
        raise UserError(f"{place} holds files that are no crops of ffhqref: give --out another folder.")
    store.write_text(place / MARK, "Crops of `ffhqref build-refs`: made again, and removed, as it needs.\n")


def lost(out: Path, recipe: Recipe, rows: pa.Table) -> bool:
    """Whether a row's face was cut out and its file is not there with the bytes that were written."""
    for name, crop in zip(tables.texts(rows, tables.IMAGE), tables.texts(rows, tables.CROP), strict=True):
        path = store.below(folder(out, recipe), name)
        if crop and not (path.is_file() and store.digest_file(path) == crop):
            return True
    return False


def sweep(out: Path, recipe: Recipe, paths: Sequence[Path]) -> None:
    """Remove crops that no row of these shards has: of photos that are gone, or of other settings."""
    read = (tables.read(path, tables.EMBEDDINGS, [tables.IMAGE, tables.CROP]) for path in paths)
    named = {
        name
        for table in read
        for name, crop in zip(
            tables.texts(table, tables.IMAGE), tables.texts(table, tables.CROP), strict=True
        )
        if crop
    }
    own = folder(out, recipe) if way(recipe) else None
    for place in [mark.parent for mark in sorted(out.glob(f"images*/{MARK}"))]:
        _sweep(place, named if place == own else set(), re.compile(r".*\.(png|webp)"))
        if place != own and not any(path != place / MARK for path in place.iterdir()):
            (place / MARK).unlink()
            place.rmdir()
    if own == out / "faces":
        _sweep(own, named, re.compile(r"\d{3}\.png"))


def _sweep(place: Path, named: set[str], pattern: re.Pattern[str]) -> None:
    """Remove the crops below a folder that are not named, and the folders that are empty then."""
    for path in sorted(place.rglob("*"), reverse=True):  # what a folder holds comes before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif pattern.fullmatch(path.name) and path.relative_to(place).as_posix() not in named:
            path.unlink()


def check_source(photos: Path, out: Path) -> None:
    """UserError where the photographs to embed are crops of this very dataset."""
    for mark in out.glob(f"images*/{MARK}"):
        if mark.parent.resolve() in (photos.resolve(), *photos.resolve().parents):
            raise UserError(
                f"{photos} holds the crops of {out}: give --images the folder of the photographs, or --out "
                "another folder."
            )


def shown_quality(landmarks: Float32 | None) -> tuple[float | None, float | None]:
    """px between the eyes and degrees of yaw, where landmarks are known."""
    if landmarks is None:
        return None, None
    points = np.asarray(landmarks, np.float32).reshape(5, 2)
    return framing.eye_distance(points), framing.yaw(points)
