"""A published test set whose targets are faces of a larger collection -> a dataset with references.

CelebA-Test-Ref is one: CelebA-Test's targets are faces of CelebA-HQ under numbers that nobody vouches for.
Each target is found by its pixels (at a small size, so that re-encoded and resized copies are the same), else
by its face; its references come from the collection by the recipe, its published low-quality picture is put
beside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from ffhqref.core import images, lists
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Photo, Rgb, png_name
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import UserError, digest_file, lock, write_bytes
from ffhqref.core.terminal import progress
from ffhqref.dataset.build import Built, build_refs
from ffhqref.faces.geometry import crop_middle
from ffhqref.faces.networks import Device, Embedder

THUMB = 24  # px of the small pictures that are compared
SAME_PIXELS = (
    4.0  # root mean square of 255: JPEG and resizing stay below 3, two portraits differ by 30 and more
)
CLEARLY = 2.0  # times nearer than the second, for both ways
SAME_FACE = 0.15  # cosine distance of crops of one and the same photograph
BLOCK, CANDIDATES = 256, 4  # targets compared at once, and photographs looked at exactly for each
PIXELS, FACE = "pixels", "face"


@dataclass(frozen=True)
class Match:
    """A target and the photograph of the collection that it shows. `way` is pixels or face."""

    target: str
    photo: str
    way: str
    apart: float  # of 255, or cosine distance


@dataclass(frozen=True)
class TestSet:
    """What was built: the dataset, the matches, targets that were not found, low-quality pictures placed."""

    __test__ = False  # no test, for pytest

    built: Built
    matches: tuple[Match, ...]
    missing: tuple[str, ...]  # targets that no photograph shows
    placed: int
    without_references: int


def build_test_set(
    collection: Path, targets: Path, lq: Path | None, out: Path, recipe: Recipe, *, level: str = "published",
    device: Device = "auto", workers: int = 2,
) -> TestSet:  # fmt: skip
    """Find `targets` in `collection`, build the collection's dataset with them alone as targets, place `lq`.

    The low-quality pictures (named as the targets) go to test_images/<level>_degrad under the names of the
    photographs found. UserError where no target is found.
    """
    with lock(out, "test-refs"):
        photos, wanted = _usable(collection), _usable(targets)
        matches, missing = find_targets(photos, wanted, recipe, device, workers)
        if not matches:
            raise UserError(
                f"None of the {len(wanted):,} pictures of {targets} shows a photograph of {collection}."
            )
        listed = out / "targets.txt"
        lists.write_list(listed, sorted({match.photo for match in matches}))
        lists.write_csv(out / "matches.csv", ("target", "photo", "found_by", "apart"),
                         [[m.target, m.photo, m.way, f"{m.apart:.4f}"] for m in matches])  # fmt: skip
        built = build_refs(collection, out, replace(recipe, targets=str(listed.resolve())),
                           device=device, workers=workers)  # fmt: skip
        rows = lists.read_references(out / "reference_mapping/test_references.csv")
        placed = _place(matches, rows, lq, out / f"test_images/{level}_degrad") if lq else 0
    lost = sum(match.photo not in rows for match in matches)
    return TestSet(built, tuple(matches), tuple(missing), placed, lost)


def _usable(folder: Path) -> list[Photo]:
    return [photo for photo in images.scan(folder) if not photo.bad]


def find_targets(
    photos: Sequence[Photo], wanted: Sequence[Photo], recipe: Recipe, device: Device, workers: int
) -> tuple[list[Match], list[str]]:
    """Each target's photograph, by pixels and else by face; and the targets without one."""
    near = _thumbs(photos, workers, "read the collection")
    matches = by_pixels(_thumbs(wanted, workers, "read the targets"), near)
    there = {match.target for match in matches}
    left = [one for one in wanted if one.name not in there]
    if left and recipe.embedder:
        matches += _by_face(photos, left, Embedder(Path(recipe.embedder), device), workers)
    found = {match.target for match in matches}
    return sorted(matches, key=lambda m: m.target), [one.name for one in wanted if one.name not in found]


@dataclass(frozen=True)
class Thumbs:
    """Small pictures as rows (n x 3 THUMB^2, 0 to 255), by name."""

    names: list[str]
    rows: Float32


def _thumbs(photos: Sequence[Photo], workers: int, what: str) -> Thumbs:
    def small(photo: Photo) -> Float32 | None:
        try:
            return thumb(images.read(photo.path))
        except BadImage:
            return None

    with ThreadPoolExecutor(workers) as pool:
        made = list(progress(pool.map(small, photos), what, "photo", len(photos)))
    there = [(photo.name, row) for photo, row in zip(photos, made, strict=True) if row is not None]
    rows = np.stack([row for _, row in there]) if there else np.zeros((0, 3 * THUMB**2), np.float32)
    return Thumbs([name for name, _ in there], rows)


def thumb(image: Rgb) -> Float32:
    """A picture as 24 x 24 px in one row: what re-encoding and resizing leave as it is."""
    small = cv2.resize(image.astype(np.float32), (THUMB, THUMB), interpolation=cv2.INTER_AREA)
    return np.asarray(small.ravel(), np.float32)


def by_pixels(far: Thumbs, near: Thumbs) -> list[Match]:
    """For each of `far` the nearest of `near`, if it is the same picture and clearly nearer than any other.

    Of two that are copies of each other the first name serves as well as the second. float32 products screen
    a few candidates, whose distances are then taken exactly.
    """
    found: list[Match] = []
    if not near.names:
        return found
    squares, few = (near.rows**2).sum(1), min(CANDIDATES, len(near.names))
    for begin in range(0, len(far.names), BLOCK):
        part = far.rows[begin : begin + BLOCK]
        screened = np.argpartition(squares - 2 * part @ near.rows.T, few - 1, axis=1)[:, :few]
        for name, row, among in zip(far.names[begin : begin + BLOCK], part, np.sort(screened), strict=True):
            apart = np.sqrt(((near.rows[among] - row) ** 2).mean(1, dtype=np.float64))
            order = np.argsort(apart, kind="stable")
            best, second = float(apart[order[0]]), float(apart[order[1]]) if few > 1 else np.inf
            copies = second < SAME_PIXELS
            if best < SAME_PIXELS and (copies or second > CLEARLY * best):
                found.append(Match(name, near.names[int(among[order[0]])], PIXELS, best))
    return found


def _by_face(
    photos: Sequence[Photo], wanted: Sequence[Photo], embedder: Embedder, workers: int
) -> list[Match]:
    """The photograph whose face, by the same crop, is the target's own: much nearer than another photo of one
    person can be."""

    def vector(photo: Photo) -> Float32 | None:
        try:
            return np.asarray(embedder.embed(crop_middle(images.read(photo.path))[None])[0], np.float32)
        except BadImage:
            return None

    with ThreadPoolExecutor(workers) as pool:
        near = list(progress(pool.map(vector, photos), "embed the collection", "photo", len(photos)))
        far = list(pool.map(vector, wanted))
    names = [photo.name for photo, row in zip(photos, near, strict=True) if row is not None]
    rows = np.stack([row for row in near if row is not None]).astype(np.float64)
    found = []
    for photo, row in zip(wanted, far, strict=True):
        if row is None:
            continue
        apart = 1 - rows @ row
        order = np.argsort(apart, kind="stable")[:2]
        best = float(apart[order[0]])
        if best < SAME_FACE and (len(order) < 2 or float(apart[order[1]]) > CLEARLY * best):
            found.append(Match(photo.name, names[int(order[0])], FACE, best))
    return found


def _place(matches: Sequence[Match], rows: Mapping[str, object], lq: Path, folder: Path) -> int:
    """Copy the low-quality picture of each target that has references; how many there were."""
    low = {png_name(photo.name): photo.path for photo in _usable(lq)}
    count = 0
    for match in matches:
        path = low.get(png_name(match.target))
        if path is None or match.photo not in rows:
            continue
        target = folder / png_name(match.photo)
        count += 1
        if target.is_file() and path.suffix.lower() == ".png" and digest_file(target) == digest_file(path):
            continue
        if path.suffix.lower() == ".png":
            write_bytes(target, path.read_bytes())
        else:
            images.write(target, images.read(path))
    return count
