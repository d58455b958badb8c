"""Photographs -> tables/embeddings/: one row a photo with its status and, where ok, its embedding."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ffhqref.core import store, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Photo, Rgb, scan
from ffhqref.core.images import read as read_image
from ffhqref.core.images import write as write_image
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.core.tables import EmbeddingRow
from ffhqref.core.terminal import progress_bar
from ffhqref.faces.align import Aligned, Aligner, by_crop, by_detector, by_landmarks, read_landmarks
from ffhqref.faces.geometry import ffhq_crop
from ffhqref.faces.networks import Detector, Device, Embedder, provider_for

REVISION = 1
SHARD = 512  # photos a file; fixed, since a shard is the unit of resuming and of equal bytes
SMALLEST = 16  # px; no face can be seen below this side
FACE_SIDE = 512  # px of a face cut out of a photograph (`--faces all`)
PHOTOS_KEY, ROWS_KEY = b"ffhqref", b"rows"  # of a shard's metadata: photos and work; rows of each photo


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
        return store.digest(json.dumps([REVISION, dict(self.parameters)], sort_keys=True).encode())

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


def wanted_receipt(photos: Sequence[Photo], excluded: set[str], parameters: JsonObject) -> Receipt:
    """The receipt that a finished embed of these photos has."""
    listing = [[photo.name, photo.size, photo.mtime_ns, photo.bad] for photo in photos]
    given = {"photos": listing, "exclude": sorted(excluded)}
    inputs = {name: store.digest(json.dumps(value).encode()) for name, value in given.items()}
    return Receipt(stage="embed", revision=REVISION, parameters=parameters, inputs=inputs)


def _photos(images: Path, out: Path, recipe: Recipe) -> list[Photo]:
    """The photos to embed. What was written to `out` is none of them, should it lie below `images`."""
    if images.resolve() == out.resolve():
        raise UserError(f"{out} holds the photographs: give --out another folder (one below it will do).")
    return scan(images, without=out)[: recipe.limit]


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

    Rows of photos whose file did not change since an earlier run of the same work are taken over.
    The receipt's notes count the photos by status.
    """
    photos = _photos(images, out, recipe)
    work = plan(recipe, device)
    excluded = set(tables.read_list(Path(recipe.exclude))) if recipe.exclude else set()
    wanted = wanted_receipt(photos, excluded, work.parameters)
    with store.lock(out, "embed"):
        if done := store.finished(out, wanted):
            return done
        shards = _shards(photos, tables.embeddings_folder(out), excluded, work.key)
        missing = [shard for shard in shards if not shard.stands()]
        if missing:
            _make_all(missing, len(photos), out, work, workers, batch_size)
        paths = [shard.path for shard in shards]
        if recipe.limit is None:  # a trial of a few photos must not cost what hours have made
            for stale in set(tables.embeddings_folder(out).glob("shard-*.parquet")) - set(paths):
                stale.unlink()
        root = faces_folder(out) if recipe.faces == "all" else images
        notes = {"images": str(root.resolve()), "statuses": tables.count_statuses(paths)}
        return store.write_receipt(out, wanted, paths, notes)


def _make_all(
    missing: Sequence[Shard], total: int, out: Path, work: EmbeddingWork, workers: int, batch_size: int
) -> None:
    known = _known_rows(tables.embeddings_folder(out), work.key)
    maker = Maker(out, work.recipe, work.open_aligner(), work.open_embedder(), batch_size)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the workers are the threads
    try:
        done = total - sum(len(shard.photos) for shard in missing)
        with ThreadPoolExecutor(workers) as pool, progress_bar("embed", "photo", total, done=done) as bar:
            for shard in missing:
                maker.make(shard, known, pool, bar.update)
    finally:
        cv2.setNumThreads(threads)


@dataclass(frozen=True)
class Shard:
    """A file of `SHARD` photos. Its metadata says which, so that a finished one is known again."""

    path: Path
    photos: Sequence[Photo]
    excluded: set[str]
    metadata: bytes

    def stands(self) -> bool:
        """Whether the file on disk is of these photos, unchanged, and this work."""
        try:
            there = pq.read_metadata(self.path).metadata or {}
        except (OSError, pa.ArrowException):
            return False
        return there.get(PHOTOS_KEY) == self.metadata


def _shards(photos: Sequence[Photo], folder: Path, excluded: set[str], key: str) -> list[Shard]:
    shards = []
    for number in range(-(-len(photos) // SHARD)):
        part = photos[number * SHARD : (number + 1) * SHARD]
        listing = [[p.name, p.size, p.mtime_ns, p.bad, p.name in excluded] for p in part]
        metadata = json.dumps({"key": key, "photos": listing}).encode()
        shards.append(Shard(folder / f"shard-{number:05d}.parquet", part, excluded, metadata))
    return shards


def _known_rows(folder: Path, key: str) -> dict[tuple[str, int, int], pa.Table]:
    """The rows of earlier shards made by the same work, by name, size and time of the photo's file."""
    known = {}
    for path in sorted(folder.glob("shard-*.parquet")):
        try:
            table = pq.read_table(path)
            about = json.loads((table.schema.metadata or {})[PHOTOS_KEY])
            rows = json.loads(table.schema.metadata[ROWS_KEY])
        except (OSError, KeyError, ValueError, pa.ArrowException):
            continue
        at = 0
        for (name, size, changed, bad, excluded), count in zip(about["photos"], rows, strict=True):
            if about["key"] == key and not bad and not excluded:
                known[name, size, changed] = table.slice(at, count).replace_schema_metadata(None)
            at += count
    return known


@dataclass(frozen=True)
class Maker:
    """Makes shards: photos are read and aligned in threads, their faces embedded in batches beside that."""

    out: Path
    recipe: Recipe
    align: Aligner
    embedder: Embedder
    batch_size: int

    def make(
        self,
        shard: Shard,
        known: Mapping[tuple[str, int, int], pa.Table],
        pool: ThreadPoolExecutor,
        advance: Callable[[int], object],
    ) -> None:
        """Write one shard: rows taken over where the photo is the same, the others made."""
        found: list[pa.Table | None] = []
        for photo in shard.photos:
            if photo.bad or photo.name in shard.excluded:
                status = "bad_name" if photo.bad else "excluded"
                reason = photo.bad or "it is in the exclude list"
                found.append(_table([EmbeddingRow(photo.name, status, reason)]))
            else:
                found.append(known.get((photo.name, photo.size, photo.mtime_ns)))
        new = [photo for photo, rows in zip(shard.photos, found, strict=True) if rows is None]
        advance(len(shard.photos) - len(new))
        fresh = iter(self.embed(new, pool, advance))
        parts = [rows if rows is not None else _table(next(fresh)) for rows in found]
        counts = json.dumps([len(part) for part in parts]).encode()
        table = pa.concat_tables(parts).combine_chunks()
        table = table.replace_schema_metadata({PHOTOS_KEY: shard.metadata, ROWS_KEY: counts})
        tables.write(shard.path, tables.EMBEDDINGS, table)

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
        return rows, [face.face for face in faces]

    def _own_photo(self, row: EmbeddingRow, number: int, image: Rgb, face: Aligned) -> EmbeddingRow:
        """Cut a face out as FFHQ frames it, into `<out>/faces/<name>/<number>.png`."""
        assert face.landmarks is not None  # `plan` lets --faces all go with detection only
        own = _with_face(row, face)
        own.image = f"{row.image}/{number:03d}.png"
        crop = ffhq_crop(image, face.landmarks, FACE_SIDE)
        write_image(store.below(faces_folder(self.out), own.image), crop)
        _note_picture(own, crop)
        return own


def _note_picture(row: EmbeddingRow, image: Rgb) -> None:
    row.height, row.width = image.shape[:2]
    pixels = hashlib.sha256(f"{row.width}x{row.height}:".encode())
    pixels.update(np.ascontiguousarray(image).data)
    row.pixels = pixels.hexdigest()


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
    photos = _photos(images, out, recipe)
    work = plan(recipe, device)
    excluded = set(tables.read_list(Path(recipe.exclude))) if recipe.exclude else set()
    if store.finished(out, wanted_receipt(photos, excluded, work.parameters)):
        return Estimate(len(photos), 0, 0, 0.0)
    known = _known_rows(tables.embeddings_folder(out), work.key)
    usable = [photo for photo in photos if not photo.bad and photo.name not in excluded]
    left = [photo for photo in usable if (photo.name, photo.size, photo.mtime_ns) not in known]
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
