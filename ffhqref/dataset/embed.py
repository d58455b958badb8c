"""Photographs -> tables/embeddings/: one row a photo with its status and, where ok, its embedding."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from ffhqref import __version__
from ffhqref.core import store, tables
from ffhqref.core.arrays import Float32
from ffhqref.core.images import BadImage, Photo, Rgb
from ffhqref.core.images import read as read_image
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import JsonObject, Receipt, UserError
from ffhqref.core.tables import EmbeddingRow
from ffhqref.core.terminal import progress_bar
from ffhqref.dataset import crops, shards, tombstones
from ffhqref.dataset.crops import Cutter
from ffhqref.dataset.shards import Entry
from ffhqref.dataset.source import Source, find_source
from ffhqref.dataset.tombstones import Tombstones
from ffhqref.faces.align import Aligned, Aligner, by_crop, by_detector, by_landmarks, read_landmarks
from ffhqref.faces.networks import Detector, Device, Embedder, provider_for

REVISION = 3
KEEP, KEEP_SECONDS = 64, 10  # photos, and s, after which finished rows are written at the latest
SMALLEST = 16  # px; no face can be seen below this side
LONGEST = 32_766  # px; OpenCV turns no longer picture
AFTERWARDS = ("landmarks", "min_eyes", "max_padding")  # parameters that decide no row by themselves
EXCLUDED = "it is in the exclude list"


@dataclass(frozen=True)
class EmbeddingWork:
    """Everything that decides an embedding but the photo: the recipe's part, the networks, the provider."""

    recipe: Recipe
    device: Device
    parameters: JsonObject

    @property
    def key(self) -> str:
        """Of all but the landmarks, which are part of a photo's entry, and what is judged afterwards."""
        decisive = {name: value for name, value in self.parameters.items() if name not in AFTERWARDS}
        return store.digest(json.dumps([REVISION, decisive], sort_keys=True).encode())

    @cached_property
    def detector(self) -> Detector | None:
        """What finds faces; None where they are given."""
        if self.recipe.align != "detect":
            return None
        path, size = Path(self.recipe.detector or ""), self.recipe.det_size
        return Detector(path, self.device, size=size, min_score=self.recipe.min_score)

    @cached_property
    def aligner(self) -> Aligner:
        recipe = self.recipe
        if recipe.align == "landmarks":
            return by_landmarks(read_landmarks(Path(recipe.landmarks or "")))
        return by_detector(self.detector, recipe) if self.detector else by_crop

    def maker(self, out: Path, batch_size: int) -> Maker:
        """What makes rows, and crops below `out`."""
        cutter = Cutter(out, self.recipe, self.detector) if crops.way(self.recipe) else None
        return Maker(out, cutter, self.recipe, self.aligner, self.open_embedder(), batch_size)

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
    if recipe.align == "crop" and recipe.crop == "on":
        raise UserError("--crop on needs --align detect or landmarks: --align crop says where no face is.")
    for what, file in files.items():
        if not file:
            raise UserError(f"No {what} was named: give --{what} FILE (`ffhqref download` has networks).")
        if not Path(file).is_file():
            raise UserError(f"There is no {what} {file}: give --{what} the path of a file.")
        parameters[what] = store.digest_file(Path(file))
    parameters["provider"] = provider_for(device)
    return EmbeddingWork(recipe, device, parameters)


def settled(
    work: EmbeddingWork, source: Source, images: Path, there: Receipt | None
) -> tuple[EmbeddingWork, JsonObject | None]:
    """The work with `--crop auto` decided, and what was measured for that."""
    recipe, measured = crops.settle(work.recipe, source.photos, lambda: work.aligner, there, images)
    parameters = {**work.parameters, **crops.parameters(recipe)}
    if crops.way(recipe) == "frame":
        parameters |= {"min_eyes": recipe.min_eyes, "max_padding": recipe.max_padding}
    return EmbeddingWork(recipe, work.device, parameters), measured


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
    folder = tables.embeddings_folder(out)
    with store.lock(out, "embed"):
        there = store.read_receipt(out, "embed")
        work, measured = settled(work, source, images, there)
        recipe, wanted = work.recipe, wanted_receipt(source, work.parameters)
        root = crops.folder(out, recipe) if crops.way(recipe) else images
        if there and store.finished(out, wanted) and not there.notes["statuses"].get(shards.PASSING):
            paths = [store.below(out, name) for name in there.outputs]
            if not any(crops.lost(out, recipe, tables.read(path, tables.EMBEDDINGS)) for path in paths):
                return _finish(out, there, root, paths, recipe)
        folder.mkdir(parents=True, exist_ok=True)
        crops.prepare(out, recipe)
        digests = {Path(name).name: digest for name, digest in there.outputs.items()} if there else {}
        rows = shards.Rows(folder, digests, work.key, partial(crops.lost, out, recipe))
        entries = source.entries(recipe)
        missing = [entry for entry in entries if not entry.unusable and entry.stamp not in rows]
        if missing:
            _embed_missing(missing, len(entries), rows, out, work, workers, batch_size)
        paths = _assemble(entries, rows, work)
        passed_over = [str(path) for path in source.passed_over]
        notes: dict[str, object] = {"statuses": tables.count_statuses(paths), "passed_over": passed_over}
        notes |= {"skipped": source.skipped, "framing": measured, "barred": _count_barred(paths)}
        return _finish(out, replace(wanted, notes=notes), root, paths, recipe)


def _count_barred(paths: Sequence[Path]) -> int:
    """How many photos are no targets for their quality."""
    read = (tables.read(path, tables.EMBEDDINGS, [tables.BARRED]) for path in paths)
    return sum(bool(reason) for table in read for reason in tables.texts(table, tables.BARRED))


def _finish(out: Path, receipt: Receipt, root: Path, paths: Sequence[Path], recipe: Recipe) -> Receipt:
    """Write the receipt unless it stands, and remove what only unfinished runs need."""
    if receipt.notes.get("images") != str(root.resolve()):  # new, or the same photos in another place
        notes = {**receipt.notes, "images": str(root.resolve())}
        receipt = store.write_receipt(out, replace(receipt, version=__version__), paths, notes)
    trial = recipe.limit is not None  # of a few photos, which must not cost what hours have made
    shards.sweep(tables.embeddings_folder(out), paths, keep_others=trial)
    if not trial:
        crops.sweep(out, recipe, paths)
    return receipt


def _embed_missing(
    missing: Sequence[Entry], total: int, rows: shards.Rows, out: Path, work: EmbeddingWork, workers: int,
    batch_size: int,
) -> None:  # fmt: skip
    """Embed photos, and keep what is finished every `KEEP` photos or `KEEP_SECONDS`."""
    maker = work.maker(out, batch_size)
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


def _assemble(entries: Sequence[Entry], rows: shards.Rows, work: EmbeddingWork) -> list[Path]:
    """Write the shards that are not there yet; the paths of all."""
    paths = []
    for number in range(-(-len(entries) // shards.SHARD)):
        part = entries[number * shards.SHARD : (number + 1) * shards.SHARD]
        parts = [_unusable(one) if one.unusable else rows.take(one.stamp) for one in part]
        judged = [crops.with_bars(one, work.recipe) for one in parts]
        table, path = shards.pack(part, judged, work.key), rows.folder / f"shard-{number:05d}.parquet"
        if not (path.name in rows.trusted and shards.stands(path, table)):
            rows.retire(path)
            tables.write(path, tables.EMBEDDINGS, table)
        paths.append(path)
    return paths


def _unusable(entry: Entry) -> pa.Table:
    """The row of a photo that is not read."""
    status, reason = ("bad_name", entry.photo.bad) if entry.photo.bad else ("excluded", EXCLUDED)
    return _table([EmbeddingRow(entry.photo.name, status, reason, photo=entry.photo.name)])


@dataclass(frozen=True)
class Maker:
    """Makes rows: photos are read and aligned in threads, their faces embedded in batches beside that."""

    out: Path
    cutter: Cutter | None  # None where photos are left as they are
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
        row = EmbeddingRow(photo.name, photo=photo.name)
        try:
            image = read_image(photo.path)
            _note_picture(row, image)
            if max(image.shape[:2]) > LONGEST:
                raise BadImage("too_large", f"a side is longer than {LONGEST:,} px")
            if self._tombstones.hold(row.pixels):
                return [_forgotten(row)], []
            if min(image.shape[:2]) < SMALLEST:
                height, width = image.shape[:2]
                raise BadImage("too_small", f"{width}x{height} px cannot show a face")
            faces, row.faces = self.align(image, photo.name)
        except BadImage as bad:
            row.status, row.reason = bad.status, str(bad)
            return [row], []
        rows = [_with_face(row, face) for face in faces]
        if self.cutter is not None:
            cut = [self.cutter.cut(one, number, image) for number, one in enumerate(rows, 1)]
            rows = [self._unless_forgotten(own, picture) for own, picture in cut]
        return rows, [face.face for own, face in zip(rows, faces, strict=True) if own.status == "ok"]

    @cached_property
    def _tombstones(self) -> Tombstones:
        return tombstones.read(self.out)

    def _unless_forgotten(self, row: EmbeddingRow, crop: Rgb) -> EmbeddingRow:
        """The row of a crop with what it shows; a crop that was to be forgotten is removed again."""
        _note_picture(row, crop)
        if not self._tombstones.hold(row.pixels):
            return row
        if self.cutter is not None:
            self.cutter.remove(row.image)
        return _forgotten(row)


def _note_picture(row: EmbeddingRow, image: Rgb) -> None:
    row.height, row.width = image.shape[:2]
    pixels = hashlib.sha256(f"{row.width}x{row.height}:".encode())
    pixels.update(np.ascontiguousarray(image).data)
    row.pixels = pixels.hexdigest()


def _forgotten(row: EmbeddingRow) -> EmbeddingRow:
    return EmbeddingRow(row.image, tombstones.STATUS, tombstones.REASON)


def _with_face(row: EmbeddingRow, face: Aligned) -> EmbeddingRow:
    landmarks = None if face.landmarks is None else face.landmarks.ravel()
    eyes, yaw = crops.shown_quality(landmarks)
    return replace(row, status="ok", det_score=face.score, landmarks=landmarks, eyes=eyes, yaw=yaw)


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
    work, _ = settled(work, source, images, there)
    recipe = work.recipe
    if store.finished(out, wanted_receipt(source, work.parameters)):
        return Estimate(len(photos), 0, 0, 0.0)
    digests = {Path(name).name: digest for name, digest in there.outputs.items()} if there else {}
    known = shards.Rows(tables.embeddings_folder(out), digests, work.key, partial(crops.lost, out, recipe))
    entries = source.entries(recipe)
    left = [entry.photo for entry in entries if not entry.unusable and entry.stamp not in known]
    trial = left[:: max(1, len(left) // TRIAL)][:TRIAL]
    single = replace(recipe, faces="largest", crop="off")  # cuts no faces out: nothing may be written
    maker = replace(work, recipe=single).maker(out, 4)
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        found = maker.embed(trial, pool, lambda count: None)
    share = len(left) / max(len(trial), 1)
    space = len(photos) * ROW_BYTES
    if crops.way(recipe):
        every = recipe.faces == "all"
        faces = sum(rows[0].faces if every else rows[0].status == "ok" for rows in found)
        space += round(faces * share) * (ROW_BYTES + FACE_BYTES)
    return Estimate(len(photos), len(left), space, (time.monotonic() - began) * share)
