"""The schema of every table, in one place; nothing else spells a column's name.

Parquet tables are checked against their schema when written and when read. `lists` has CSV files and lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffhqref.core.arrays import Float32, Float64, Int64
from ffhqref.core.store import UserError, atomic, below, read_receipt
from ffhqref.core.vectors import read_vectors

IMAGE, STATUS, REASON = "image", "status", "reason"
WIDTH, HEIGHT, PIXELS = "width", "height", "pixels"
DET_SCORE, FACES, LANDMARKS, EMBEDDING = "det_score", "faces", "landmarks", "embedding"
CROP, PHOTO, EYES, PADDING, BLUR, YAW, BARRED = "crop", "photo", "eyes", "padding", "blur", "yaw", "barred"
LEFT, RIGHT, DISTANCE = "left", "right", "distance"
IDENTITY, COMPONENT, SPLIT = "identity", "component", "split"
KEPT, KIND, COHESION, MEMBERS, OTHER = "kept", "kind", "cohesion", "members", "other"
DOUBT = "doubt"
PERSON, SINCE, FROZEN = "person", "since", "frozen"
LEVEL, COPY, KERNEL, SIGMA_X, SIGMA_Y, THETA = "level", "copy", "kernel", "sigma_x", "sigma_y", "theta"
SCALE, NOISE, QUALITY, SEED, DRAW = "scale", "noise", "quality", "seed", "draw"
METHOD, METRIC, VALUE, COMPUTED_BY = "method", "metric", "value", "computed_by"
GT_IMAGE, LQ_IMAGE, REF_IMAGE = "gt_image", "lq_image", "ref_image"  # the published CSV's columns
NAME, REFERENCES = "name", "references"

URL, BYTES, MD5, PIXEL_MD5, CATEGORY = "url", "bytes", "md5", "pixel_md5", "category"
LICENCE, LICENCE_URL = "license", "license_url"
ATTRIBUTION_FILE = "attribution.parquet"  # that `download` leaves beside FFHQ's images
LANDMARK_COLUMNS = tuple(
    f"{point}_{axis}"
    for point in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # as the picture shows them
    for axis in "xy"
)  # px

LEFT_PIXELS, RIGHT_PIXELS, WHO, WHEN, NOTE = "left_pixels", "right_pixels", "who", "when", "note"
VERDICTS = (KIND, LEFT, LEFT_PIXELS, RIGHT, RIGHT_PIXELS, WHO, WHEN, NOTE)  # columns of verdicts.csv

SPLITS = ("train", "val", "test")
HELD = "held"  # the split of photos that stand in no list until a person decides

TableRow = dict[str, Any]  # a row by column, as Parquet gives it

TEXT: pa.DataType = pa.string()
COUNT: pa.DataType = pa.int32()
SCORE: pa.DataType = pa.float32()
REAL: pa.DataType = pa.float64()
VECTOR: pa.DataType = pa.list_(pa.float32())

EMBEDDINGS = pa.schema(
    {
        IMAGE: TEXT,
        STATUS: TEXT,  # ok, or why it cannot be used: bad_name, unreadable, no_face, excluded, forgotten ...
        REASON: TEXT,  # for people; empty where ok
        WIDTH: COUNT,  # px of the decoded picture; 0 where it could not be decoded
        HEIGHT: COUNT,
        PIXELS: TEXT,  # SHA-256 of the decoded RGB bytes and their shape
        CROP: TEXT,  # SHA-256 of the file that was cut out of a photograph; empty where it is its own file
        PHOTO: TEXT,  # the photograph that it was cut out of, or is
        EYES: SCORE,  # px between the eyes in the photograph; null where no landmarks are known
        PADDING: SCORE,  # which part of the crop lies outside the photograph, 0..1; null where it is no crop
        BLUR: SCORE,  # variance of the Laplacian, the smaller the more blurred; null where it is no crop
        YAW: SCORE,  # degrees, estimated from five points; null where no landmarks are known
        BARRED: TEXT,  # why it is no target, by its quality; empty where it may be one
        FACES: COUNT,  # faces found, with those that were passed over
        DET_SCORE: SCORE,  # 0..1 of the detector; 1 where landmarks were given
        LANDMARKS: VECTOR,  # x, y of both eyes, nose, mouth corners, px in the decoded picture
        EMBEDDING: VECTOR,  # unit length
    }
)


@dataclass
class EmbeddingRow:
    """A row of `EMBEDDINGS`, while it is made: the fields are its columns."""

    image: str
    status: str = ""
    reason: str = ""
    width: int = 0
    height: int = 0
    pixels: str = ""
    crop: str = ""
    photo: str = ""
    eyes: float | None = None
    padding: float | None = None
    blur: float | None = None
    yaw: float | None = None
    barred: str = ""
    faces: int = 0
    det_score: float | None = None
    landmarks: Float32 | None = None
    embedding: Float32 | None = None


PAIRS = pa.schema({LEFT: TEXT, RIGHT: TEXT, DISTANCE: REAL})  # left < right
IDENTITIES = pa.schema({IMAGE: TEXT, IDENTITY: TEXT, COMPONENT: TEXT})
SUSPECTS = pa.schema(
    {
        KIND: TEXT,  # label, weak_link, split: see `identities.doubts`
        DOUBT: REAL,  # how likely it is wrong, 0..1
        IDENTITY: TEXT,
        OTHER: TEXT,  # the other identity, or empty
        LEFT: TEXT,  # the pair of photos to look at; of a wrong label the left one
        RIGHT: TEXT,
        DISTANCE: REAL,
        COHESION: REAL,  # mean similarity between the two groups that are compared
        MEMBERS: COUNT,  # photos of both
    }
)
DUPLICATES = pa.schema({IMAGE: TEXT, KEPT: TEXT, KIND: TEXT, DISTANCE: REAL})  # kind: exact or near
DEGRADATIONS = pa.schema(
    {
        IMAGE: TEXT,
        LQ_IMAGE: TEXT,  # the file that was made, a path below the output folder
        STATUS: TEXT,  # ok, missing, unreadable, too_large
        REASON: TEXT,  # for people; empty where ok
        LEVEL: TEXT,
        COPY: COUNT,  # 0 where an image has one low-quality version
        KERNEL: TEXT,  # iso or aniso
        SIGMA_X: REAL,  # px in the target
        SIGMA_Y: REAL,
        THETA: REAL,  # radians
        SCALE: REAL,  # times smaller
        NOISE: REAL,  # standard deviation, of 255
        QUALITY: COUNT,  # of the JPEG, 1..100
        SEED: pa.int64(),  # of the noise
        DRAW: COUNT,  # place in the published order of draws; -1 where drawn by the image's name
        WIDTH: COUNT,  # px of the low-quality file
        HEIGHT: COUNT,
    }
)
SCORES = pa.schema(
    {
        METHOD: TEXT,
        IMAGE: TEXT,  # the target; empty where the score is of all pictures together (FID)
        METRIC: TEXT,
        VALUE: REAL,
        COMPUTED_BY: TEXT,  # library and version, the network's SHA-256
    }
)
FAILURES = (METHOD, IMAGE, STATUS, REASON)  # columns of failures.csv
SPLIT_TABLE = pa.schema({IMAGE: TEXT, IDENTITY: TEXT, SPLIT: TEXT})
PEOPLE = pa.schema(  # the ledger: rows are never renumbered or taken away
    {
        PERSON: COUNT,  # from 1
        SPLIT: TEXT,
        SINCE: COUNT,  # the draw that brought the person in, from 1; a date would differ from run to run
        FROZEN: pa.bool_(),  # takes no new photos
        PIXELS: pa.list_(TEXT),  # of every photo that was ever the person's: what they are recognised by
    }
)
PICTURE: pa.DataType = pa.struct([("bytes", pa.binary()), ("path", TEXT)])  # as `datasets` has it
HUB = pa.schema(  # of an export for the Hugging Face Hub: a row a target
    {
        NAME: TEXT,  # of the target
        IDENTITY: TEXT,  # null where the dataset does not say
        GT_IMAGE: PICTURE,
        LQ_IMAGE: PICTURE,  # null where the target has none
        REF_IMAGE: pa.list_(PICTURE),  # best first
        REFERENCES: pa.list_(TEXT),  # their names
    }
)

LISTING = pa.schema({IMAGE: TEXT, URL: TEXT, BYTES: pa.int64(), MD5: TEXT, PIXEL_MD5: TEXT})
ATTRIBUTION = pa.schema(  # of FFHQ's images; all but the last as the metadata gives them
    {
        IMAGE: TEXT,  # the path below the download folder
        "author": TEXT,
        "photo_title": TEXT,
        "photo_url": TEXT,
        "country": TEXT,
        LICENCE: TEXT,
        LICENCE_URL: TEXT,
        "date_uploaded": TEXT,
        "date_crawled": TEXT,
        CATEGORY: TEXT,  # training or validation
    }
)


def write(path: Path, schema: pa.Schema, table: pa.Table) -> None:
    """Write a Parquet table atomically after checking that it has exactly this schema."""
    if not table.schema.equals(schema, check_metadata=False):
        raise ValueError(f"{path.name}: {table.schema} is not the schema {schema}")
    with atomic(path) as part:
        pq.write_table(table, part, compression="zstd")


def from_columns(schema: pa.Schema, columns: Sequence[Sequence[object]]) -> pa.Table:
    """A table of this schema from its columns, in the schema's order."""
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.table(arrays, schema=schema)


def write_columns(path: Path, schema: pa.Schema, columns: Sequence[Sequence[object]]) -> None:
    """`write` of a table given as columns in the schema's order."""
    write(path, schema, from_columns(schema, columns))


def write_rows(path: Path, schema: pa.Schema, rows: Sequence[Sequence[object]]) -> None:
    """`write` of a table given as rows in the schema's order."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(schema)
    write_columns(path, schema, columns)


def read(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet table; UserError where it is missing, damaged or of another schema."""
    try:
        found = pq.read_schema(path)
        if not found.equals(schema, check_metadata=False):
            raise UserError(f"{path} has other columns than this version writes: make it again.")
        return pq.read_table(path, columns=list(columns) if columns else None)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"Cannot read the table {path} ({reason}): run the stage that writes it.") from None


def iterate_pairs(path: Path, names: Sequence[str]) -> Iterator[tuple[Int64, Int64, Float64]]:
    """pairs.parquet a piece at a time as (left, right, distances), rows as indices into `names`.

    UserError where it is missing, damaged, or names a photo that is not in `names`.
    """
    words = pa.array(names, pa.string())
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1 << 18):
                left, right = (pc.index_in(batch.column(side), value_set=words) for side in (LEFT, RIGHT))
                if left.null_count or right.null_count:
                    raise UserError(
                        f"{path} names photos that are not embedded: run `ffhqref cluster` again."
                    )
                distances = np.asarray(batch.column(DISTANCE), np.float64)
                yield np.asarray(left, np.int64), np.asarray(right, np.int64), distances
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(f"Cannot read the table {path} ({error}): run `ffhqref cluster`.") from None


def path_of(out: Path, name: str) -> Path:
    """Where the table `name` lies in the dataset `out`."""
    return out / "tables" / f"{name}.parquet"


def texts(table: pa.Table, column: str) -> list[str]:
    """A text column as a list."""
    return [str(value) for value in table[column].to_pylist()]


def read_by_image(path: Path, schema: pa.Schema, column: str) -> dict[str, str]:
    """A text column of a table by image."""
    table = read(path, schema, [IMAGE, column])
    return dict(zip(texts(table, IMAGE), texts(table, column), strict=True))


def embeddings_folder(out: Path) -> Path:
    """Where the shards lie in the dataset `out`."""
    return out / "tables" / "embeddings"


@dataclass(frozen=True)
class Embeddings:
    """The photos that are ok, ordered by name: `vectors[i]` (unit float32, n x D) is of `names[i]`."""

    names: list[str]
    vectors: Float32
    area: list[int]  # px of the picture
    pixels: list[str]  # digest of the decoded picture

    def at(self, rows: Int64) -> Embeddings:
        """Some of the photos, in their order; all of them are these very arrays."""
        if len(rows) == len(self.names):
            return self
        chosen = rows.tolist()
        return Embeddings(
            [self.names[row] for row in chosen],
            self.vectors[rows],
            [self.area[row] for row in chosen],
            [self.pixels[row] for row in chosen],
        )

    def of(self, names: Sequence[str]) -> Embeddings:
        """The photos of these names, which are ordered; UserError where one is not embedded."""
        index = {name: row for row, name in enumerate(self.names)}
        if odd := [name for name in names if name not in index]:
            raise UserError(f"{odd[0]} is not embedded: run `ffhqref cluster` again.")
        return self.at(np.array([index[name] for name in names], np.int64))


def load_embeddings(out: Path) -> Embeddings:
    """The embeddings of a dataset's photos that are ok, ordered by name.

    Read a piece at a time into the one array that is returned, so that little memory beyond it is needed
    and no column of Arrow's outgrows its 2^31 numbers.
    """
    shards = _shards(out)
    table = pa.concat_tables(
        [read(path, EMBEDDINGS, [IMAGE, STATUS, WIDTH, HEIGHT, PIXELS]) for path in shards]
    )
    ok = np.asarray(pc.equal(table[STATUS], pa.scalar("ok")))
    table = table.filter(pa.array(ok))
    if len(table) == 0:
        raise UserError(f"{out}: no photo has a face to use; `ffhqref embed` says why for each.")
    order = np.asarray(pc.sort_indices(table, [(IMAGE, "ascending")]), np.int64)
    table = table.take(order)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    area = np.asarray(table[WIDTH]).astype(np.int64) * np.asarray(table[HEIGHT])
    return Embeddings(
        texts(table, IMAGE), read_vectors(shards, EMBEDDING, ok, place), area.tolist(), texts(table, PIXELS)
    )


def count_statuses(shards: Iterable[Path]) -> dict[str, int]:
    """How many photos of these embedding shards have each status."""
    counts: Counter[str] = Counter()
    for path in shards:
        counts.update(texts(read(path, EMBEDDINGS, [STATUS]), STATUS))
    return dict(sorted(counts.items()))


def _shards(out: Path) -> list[Path]:
    """The shards that the embed receipt names: others may be left from an earlier, larger run."""
    receipt = read_receipt(out, "embed")
    if receipt is None:
        raise UserError(f"{out} has no finished embeddings: run `ffhqref embed` first.")
    return [below(out, name) for name in receipt.outputs]
