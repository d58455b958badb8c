"""Photographs -> tables/embeddings/: one row a photo with its status and, where ok, its embedding."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from ffhqref import __version__
from ffhqref.core import store, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Photo, Rgb, encode
from ffhqref.core.images import read as read_image
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.core.tables import EmbeddingRow
from ffhqref.core.terminal import progress_bar
from ffhqref.dataset import shards, tombstones
from ffhqref.dataset.shards import Entry
from ffhqref.dataset.source import Source, find_source
from ffhqref.dataset.tombstones import Tombstones
from ffhqref.faces.align import Aligned, Aligner, by_crop, by_detector, by_landmarks, read_landmarks
from ffhqref.faces.geometry import ffhq_crop
from ffhqref.faces.networks import Detector, Device, Embedder, provider_for

REVISION = 2
KEEP, KEEP_SECONDS = 64, 10  # photos, and s, after which finished rows are written at the latest
SMALLEST = 16  # px; no face can be seen below this side
FACE_SIDE = 512  # px of a face cut out of a photograph (`--faces all`)
EXCLUDED = "it is in the exclude list"


def faces_folder(out: Path) -> Path:
    """Where `--faces all` puts each face as a photo of its own."""
    return out / "faces"


@dataclass(frozen=True)
class EmbeddingWork:
    """Everything that decides an embedding but the photo: the recipe's part, the networks, the provider."""

    recipe: Recipe
    device: Device
    parameters: JsonObject

    @property
    def key(self) -> str:
        """Of all but the landmarks: a photo's own are part of its entry."""
        decisive = {name: value for name, value in self.parameters.items() if name != "landmarks"}
        return store.digest(json.dumps([REVISION, decisive], sort_keys=True).encode())

    def open_aligner(self) -> Aligner:
        recipe = self.recipe
        if recipe.align == "crop":
            return by_crop
        if recipe.align == "landmarks":
            return by_landmarks(read_landmarks(Path(recipe.landmarks or "")))
        path = Path(recipe.detector or "")
        return by_detector(
            Detector(path, self.device, size=recipe.det_size, min_score=recipe.min_score), recipe
        )

    def open_embedder(self) -> Embedder:
        return Embedder(Path(self.recipe.embedder or ""), self.device)


def plan(recipe: Recipe, device: Device) -> EmbeddingWork:
    """The work of a recipe. UserError where a file it needs is not named or not there."""
    files = {"embedder": recipe.embedder}
    if recipe.align == "detect":
        files["detector"] = recipe.detector
    if recipe.align == "landmarks":
        files["landmarks"] = recipe.landmarks
    parameters: dict[str, object] = {"align": recipe.align, "faces": recipe.faces}
    if recipe.align == "detect":
        parameters |= {name: getattr(recipe, name) for name in ("min_face", "min_score", "det_size")}
    elif recipe.faces == "all":
        raise UserError("--faces all needs --align detect: landmarks and crops name one face a photo.")
    for what, file in files.items():
        if not file:
            raise UserError(f"No {what} was named: give --{what} FILE (`ffhqref download` has networks).")
        if not Path(file).is_file():
            raise UserError(f"There is no {what} {file}: give --{what} the path of a file.")
        parameters[what] = store.digest_file(Path(file))
    parameters["provider"] = provider_for(device)
    return EmbeddingWork(recipe, device, parameters)


def check(images: Path, out: Path, recipe: Recipe, device: Device) -> None:
    """UserError where photographs, networks or options do not allow the work; writes nothing."""
    find_source(images, out, recipe)
    plan(recipe, device)


def wanted_receipt(source: Source, parameters: JsonObject) -> Receipt:
    """The receipt that a finished embed of these photos has."""
    listing = [[photo.name, photo.size, photo.mtime_ns, photo.bad] for photo in source.photos]
    given = {"photos": listing, "exclude": sorted(source.excluded)}
    inputs = {name: store.digest(json.dumps(value).encode()) for name, value in given.items()}
    return Receipt(stage="embed", revision=REVISION, parameters=parameters, inputs=inputs)


def embed_photos(
    images: Path,
    out: Path,
    recipe: Recipe,
    *,
    device: Device = "auto",
    workers: int = 2,
    batch_size: int = 16,
) -> Receipt:
    """Embed every photo below `images` into the dataset `out`; a finished embed is left as it is.

    Rows of photos whose file did not change since an earlier run of the same work are taken over, and
    rows are kept as they are finished. A photo that could not be read for a reason that may pass (no
    permission, a device that fails) is tried again. The receipt's notes count the photos by status.
    """
    source, work = find_source(images, out, recipe), plan(recipe, device)
    root = faces_folder(out) if recipe.faces == "all" else images
    wanted, folder = wanted_receipt(source, work.parameters), tables.embeddings_folder(out)
    with store.lock(out, "embed"):
        there = store.read_receipt(out, "embed")
        if there and store.finished(out, wanted) and not there.notes["statuses"].get(shards.PASSING):
            if not _lost_crops(out, there):
                return _finish(out, there, root, [store.below(out, name) for name in there.outputs], recipe)
        folder.mkdir(parents=True, exist_ok=True)
        digests = {Path(name).name: digest for name, digest in there.outputs.items()} if there else {}
        rows = shards.Rows(folder, digests, work.key, _without_crop(out))
        entries = source.entries(recipe)
        missing = [entry for entry in entries if not entry.unusable and entry.stamp not in rows]
        if missing:
            _embed_missing(missing, len(entries), rows, out, work, workers, batch_size)
        paths = _assemble(entries, rows, work.key)
        passed_over = [str(path) for path in source.passed_over]
        notes = {"statuses": tables.count_statuses(paths), "passed_over": passed_over}
        return _finish(out, replace(wanted, notes=notes), root, paths, recipe)


def _finish(out: Path, receipt: Receipt, root: Path, paths: Sequence[Path], recipe: Recipe) -> Receipt:
    """Write the receipt unless it stands, and remove what only unfinished runs need."""
    if receipt.notes.get("images") != str(root.resolve()):  # new, or the same photos in another place
        notes = {**receipt.notes, "images": str(root.resolve())}
        receipt = store.write_receipt(out, replace(receipt, version=__version__), paths, notes)
    trial = recipe.limit is not None  # of a few photos, which must not cost what hours have made
    shards.sweep(tables.embeddings_folder(out), paths, keep_others=trial)
    if recipe.faces == "all" and not trial:
        _sweep_crops(out, paths)
    return receipt


def _embed_missing(
    missing: Sequence[Entry], total: int, rows: shards.Rows, out: Path, work: EmbeddingWork, workers: int,
    batch_size: int,
) -> None:  # fmt: skip
    """Embed photos, and keep what is finished every `KEEP` photos or `KEEP_SECONDS`."""
    maker = Maker(out, work.recipe, work.open_aligner(), work.open_embedder(), batch_size)
    most, size, at = max(KEEP, 4 * workers), KEEP // 8, 0
    with _threads(workers) as pool, progress_bar("embed", "photo", total, done=total - len(missing)) as bar:
        while at < len(missing):
            part, began = missing[at : at + size], time.monotonic()
            found = maker.embed([entry.photo for entry in part], pool, bar.update)
            rows.keep(part, [_table(one) for one in found])
            rate = len(part) / max(time.monotonic() - began, 1e-3)
            at, size = at + len(part), min(most, max(1, round(rate * KEEP_SECONDS)))


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """The threads that read and embed: OpenCV gets one each. Ctrl-C is answered at once."""
    pool, before = ThreadPoolExecutor(workers), cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield pool
    except KeyboardInterrupt:
        print("\nStopping. Finished photos are kept.", file=sys.stderr, flush=True)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        cv2.setNumThreads(before)


def _assemble(entries: Sequence[Entry], rows: shards.Rows, key: str) -> list[Path]:
    """Write the shards that are not there yet; the paths of all."""
    paths = []
    for number in range(-(-len(entries) // shards.SHARD)):
        part = entries[number * shards.SHARD : (number + 1) * shards.SHARD]
        parts = [_unusable(one) if one.unusable else rows.take(one.stamp) for one in part]
        table, path = shards.pack(part, parts, key), rows.folder / f"shard-{number:05d}.parquet"
        if not (path.name in rows.trusted and shards.stands(path, table)):
            rows.retire(path)
            tables.write(path, tables.EMBEDDINGS, table)
        paths.append(path)
    return paths


def _unusable(entry: Entry) -> pa.Table:
    """The row of a photo that is not read."""
    status, reason = ("bad_name", entry.photo.bad) if entry.photo.bad else ("excluded", EXCLUDED)
    return _table([EmbeddingRow(entry.photo.name, status, reason)])


def _lost_crops(out: Path, receipt: Receipt) -> bool:
    """Whether a face that was cut out is gone or no longer what was written."""
    lost = _without_crop(out)
    paths = [store.below(out, name) for name in receipt.outputs]
    return any(lost(tables.read(path, tables.EMBEDDINGS)) for path in paths)


def _without_crop(out: Path) -> Callable[[pa.Table], bool]:
    """Whether a row's face was cut out and its file is not there with the bytes that were written."""

    def lost(rows: pa.Table) -> bool:
        for name, crop in zip(tables.texts(rows, tables.IMAGE), tables.texts(rows, tables.CROP), strict=True):
            path = store.below(faces_folder(out), name)
            if crop and not (path.is_file() and store.digest_file(path) == crop):
                return True
        return False

    return lost


def _sweep_crops(out: Path, paths: Sequence[Path]) -> None:
    """Remove cut out faces (NAME/001.png) of photos that are gone or excluded."""
    read = (tables.read(path, tables.EMBEDDINGS, [tables.IMAGE]) for path in paths)
    named = {name for table in read for name in tables.texts(table, tables.IMAGE)}
    folder = faces_folder(out)
    for path in folder.rglob("*.png"):
        if re.fullmatch(r"\d{3}", path.stem) and path.relative_to(folder).as_posix() not in named:
            path.unlink()


@dataclass(frozen=True)
class Maker:
    """Makes rows: photos are read and aligned in threads, their faces embedded in batches beside that."""

    out: Path
    recipe: Recipe
    align: Aligner
    embedder: Embedder
    batch_size: int

    def embed(
        self, photos: Sequence[Photo], pool: ThreadPoolExecutor, advance: Callable[[int], object]
    ) -> list[list[EmbeddingRow]]:
        """The rows of each photo, in the photos' order."""
        waiting: list[tuple[EmbeddingRow, Rgb]] = []
        batches: list[tuple[list[EmbeddingRow], Future[Float32]]] = []
        results = []

        def send() -> None:
            faces = np.stack([face for _, face in waiting])
            batches.append(([row for row, _ in waiting], pool.submit(self.embedder.embed, faces)))
            waiting.clear()

        for rows, faces in pool.map(self._prepare, photos):
            for row, face in zip([row for row in rows if row.status == "ok"], faces, strict=True):
                waiting.append((row, face))
                if len(waiting) == self.batch_size:
                    send()
            results.append(rows)
            advance(1)
        if waiting:
            send()
        for batch, future in batches:
            for row, vector in zip(batch, future.result(), strict=True):
                row.embedding = vector
        return results

    def _prepare(self, photo: Photo) -> tuple[list[EmbeddingRow], list[Rgb]]:
        """Read a photo and align its face or faces. One that cannot be used gets a row that says why."""
        row = EmbeddingRow(photo.name)
        try:
            image = read_image(photo.path)
            _note_picture(row, image)
            if self._tombstones.hold(row.pixels):
                return [_forgotten(row)], []
            if min(image.shape[:2]) < SMALLEST:
                height, width = image.shape[:2]
                raise BadImage("too_small", f"{width}x{height} px cannot show a face")
            faces, row.faces = self.align(image, photo.name)
        except BadImage as bad:
            row.status, row.reason = bad.status, str(bad)
            return [row], []
        if self.recipe.faces == "all":
            rows = [self._own_photo(row, number, image, face) for number, face in enumerate(faces, 1)]
        else:
            rows = [_with_face(row, faces[0])]
        return rows, [face.face for own, face in zip(rows, faces, strict=True) if own.status == "ok"]

    @cached_property
    def _tombstones(self) -> Tombstones:
        return tombstones.read(self.out)

    def _own_photo(self, row: EmbeddingRow, number: int, image: Rgb, face: Aligned) -> EmbeddingRow:
        """Cut a face out as FFHQ frames it, into `<out>/faces/<name>/<number>.png`."""
        assert face.landmarks is not None  # `plan` lets --faces all go with detection only
        own = _with_face(row, face)
        own.image = f"{row.image}/{number:03d}.png"
        crop = ffhq_crop(image, face.landmarks, FACE_SIDE)
        _note_picture(own, crop)
        if self._tombstones.hold(own.pixels):
            return _forgotten(own)
        data = encode(crop)
        store.write_bytes(store.below(faces_folder(self.out), own.image), data)
        own.crop = store.digest(data)
        return own


def _note_picture(row: EmbeddingRow, image: Rgb) -> None:
    row.height, row.width = image.shape[:2]
    pixels = hashlib.sha256(f"{row.width}x{row.height}:".encode())
    pixels.update(np.ascontiguousarray(image).data)
    row.pixels = pixels.hexdigest()


def _forgotten(row: EmbeddingRow) -> EmbeddingRow:
    return EmbeddingRow(row.image, tombstones.STATUS, tombstones.REASON)


def _with_face(row: EmbeddingRow, face: Aligned) -> EmbeddingRow:
    landmarks = None if face.landmarks is None else face.landmarks.ravel()
    return replace(row, status="ok", det_score=face.score, landmarks=landmarks)


def _table(rows: Sequence[EmbeddingRow]) -> pa.Table:
    columns = [[getattr(row, name) for row in rows] for name in tables.EMBEDDINGS.names]
    return tables.from_columns(tables.EMBEDDINGS, columns)


@dataclass(frozen=True)
class Estimate:
    """What an embed would do. `seconds` comes from a trial of a few photos on this machine."""

    photos: int
    to_embed: int
    bytes: int
    seconds: float


TRIAL = 8  # photos
FACE_BYTES = 400_000  # of a face cut out as PNG
ROW_BYTES = 3_700  # on disk for a photo with its share of all tables and lists, measured at 512 dimensions


def estimate(images: Path, out: Path, recipe: Recipe, *, device: Device, workers: int) -> Estimate:
    """How many photos are still to embed, what they take on disk, and how long; writes nothing."""
    source, work = find_source(images, out, recipe), plan(recipe, device)
    photos = source.photos
    there = store.read_receipt(out, "embed")
    if store.finished(out, wanted_receipt(source, work.parameters)):
        return Estimate(len(photos), 0, 0, 0.0)
    digests = {Path(name).name: digest for name, digest in there.outputs.items()} if there else {}
    known = shards.Rows(tables.embeddings_folder(out), digests, work.key, _without_crop(out))
    entries = source.entries(recipe)
    left = [entry.photo for entry in entries if not entry.unusable and entry.stamp not in known]
    trial = left[:: max(1, len(left) // TRIAL)][:TRIAL]
    single = replace(recipe, faces="largest")  # cuts no faces out: nothing may be written
    maker = Maker(out, single, replace(work, recipe=single).open_aligner(), work.open_embedder(), 4)
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        found = maker.embed(trial, pool, lambda count: None)
    share = len(left) / max(len(trial), 1)
    space = len(photos) * ROW_BYTES
    if recipe.faces == "all":
        space += round(sum(rows[0].faces for rows in found) * share) * (ROW_BYTES + FACE_BYTES)
    return Estimate(len(photos), len(left), space, (time.monotonic() - began) * share)
