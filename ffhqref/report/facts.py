"""All that is known of a built dataset, read once: tables, receipts, lists. No picture is opened here."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ffhqref.core import lists, tables
from ffhqref.core.arrays import Float32, Float64, Int64
from ffhqref.core.recipe import Recipe
from ffhqref.core.store import Receipt, UserError, below, digest_given, read_receipt, recorded_images
from ffhqref.dataset import verdicts
from ffhqref.dataset.build import recipe_of
from ffhqref.dataset.verdicts import Verdict
from ffhqref.dataset.verify import STAGES
from ffhqref.identities.grouping import Vectors

BY_VERDICT = "a verdict of the review"


@dataclass(frozen=True)
class LeftOut:
    """A photo that is not in the dataset: its status, and the reason in words."""

    image: str
    status: str
    reason: str


@dataclass(frozen=True)
class Faces:
    """The photos that are ok, ordered by name: a row each of every array.

    `landmarks` is n x 5 x 2 (px of the picture), `sizes` n x 2 (width, height, px), `scores` n (0..1).
    """

    names: list[str]
    pixels: list[str]  # digest of the decoded picture
    vectors: Vectors
    landmarks: Float32
    sizes: Int64
    scores: Float64

    @cached_property
    def index(self) -> dict[str, int]:
        return {name: at for at, name in enumerate(self.names)}

    @cached_property
    def eye_distance(self) -> Float64:
        """Between the eyes, px of the picture."""
        apart = self.landmarks[:, 1] - self.landmarks[:, 0]
        return np.asarray(np.linalg.norm(apart, axis=1), np.float64)


@dataclass(frozen=True)
class Facts:
    """A built dataset as it lies on disk."""

    out: Path
    images: Path  # the photographs
    recipe: Recipe
    receipts: Mapping[str, Receipt]
    faces: Faces
    identity: list[str]  # of each face
    split: list[str]  # of each face
    mapping: Mapping[str, Mapping[str, Sequence[str]]]  # split -> target -> references, best first
    suspects: list[tables.TableRow]
    duplicates: list[tables.TableRow]
    left_out: list[LeftOut]
    degradations: pa.Table | None
    scores: Mapping[str, pa.Table]  # level -> what `evaluate` measured
    verdicts: list[Verdict]  # all lines

    @cached_property
    def people(self) -> dict[str, list[int]]:
        """Identity -> its faces, ordered by name."""
        found: dict[str, list[int]] = {}
        for at, name in enumerate(self.identity):
            found.setdefault(name, []).append(at)
        return found

    @property
    def distance(self) -> float:
        """The distance that the dataset was grouped with: strictly below it, two photos show one person."""
        return float(self.receipts["cluster"].notes["distance"])

    @property
    def waiting(self) -> bool:
        """Whether verdicts were given that `cluster` has not seen yet."""
        path = verdicts.path_of(self.out)
        seen = self.receipts["cluster"].inputs.get("verdicts", "")
        return bool(self.verdicts) and seen != digest_given(str(path))

    @property
    def title(self) -> str:
        return self.out.resolve().name

    def targets(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """(split, target, references) of every target."""
        for split, rows in self.mapping.items():
            for target, references in rows.items():
                yield split, target, references


def load(out: Path, images: Path | None = None) -> Facts:
    """Read the dataset `out`; UserError where it is not built, or its photographs are not known.

    `images` is where the photographs are; by default the folder that embed recorded.
    """
    receipts = {stage: receipt for stage in STAGES if (receipt := read_receipt(out, stage))}
    missing = [stage for stage in STAGES if stage not in receipts]
    if missing:
        raise UserError(
            f"{out} is not a finished dataset (no {', '.join(missing)}): run `ffhqref build-refs` first."
        )
    people = _column_by_image(out, "identities", tables.IDENTITIES, tables.IDENTITY)
    splits = _column_by_image(out, "splits", tables.SPLIT_TABLE, tables.SPLIT)
    faces, left_out = _faces(out, receipts["embed"], people)
    verify = read_receipt(out, "verify")
    return Facts(
        out=out,
        images=images or recorded_images(out),
        recipe=recipe_of(out),
        receipts=receipts | ({"verify": verify} if verify else {}) | _other_receipts(out),
        faces=faces,
        identity=[people[name] for name in faces.names],
        split=[splits.get(name, "") for name in faces.names],
        mapping={split: _mapping(out, split) for split in tables.SPLITS},
        suspects=tables.read(tables.path_of(out, "suspects"), tables.SUSPECTS).to_pylist(),
        duplicates=tables.read(tables.path_of(out, "duplicates"), tables.DUPLICATES).to_pylist(),
        left_out=left_out,
        degradations=_table_if_there(out, "degradations", tables.DEGRADATIONS),
        scores=_scores(out),
        verdicts=verdicts.read(verdicts.path_of(out)),
    )


def _mapping(out: Path, split: str) -> dict[str, list[str]]:
    return lists.read_references(out / "reference_mapping" / f"{split}_references.csv")


def _table_if_there(out: Path, name: str, schema: pa.Schema) -> pa.Table | None:
    path = tables.path_of(out, name)
    return tables.read(path, schema) if path.is_file() else None


def _other_receipts(out: Path) -> dict[str, Receipt]:
    """Receipts of what came after the building: low-quality images."""
    found = {
        path.stem: read_receipt(out, path.stem) for path in sorted((out / "receipts").glob("degrade-*.json"))
    }
    return {stage: receipt for stage, receipt in found.items() if receipt}


def _column_by_image(out: Path, name: str, schema: pa.Schema, column: str) -> dict[str, str]:
    table = tables.read(tables.path_of(out, name), schema, [tables.IMAGE, column])
    return dict(zip(tables.texts(table, tables.IMAGE), tables.texts(table, column), strict=True))


def _scores(out: Path) -> dict[str, pa.Table]:
    """Level -> scores, of every OUT/scores/LEVEL/scores.parquet."""
    found = sorted((out / "scores").glob("*/scores.parquet"))
    return {path.parent.name: tables.read(path, tables.SCORES) for path in found}


def _faces(out: Path, receipt: Receipt, people: Container[str]) -> tuple[Faces, list[LeftOut]]:
    """Every ok photo that is one of `people`, and every other with its reason; both ordered by name."""
    columns = [
        tables.IMAGE, tables.STATUS, tables.REASON, tables.WIDTH, tables.HEIGHT, tables.DET_SCORE,
        tables.LANDMARKS,
    ]  # fmt: skip
    shards = [tables.read(below(out, name), tables.EMBEDDINGS, columns) for name in receipt.outputs]
    table = pa.concat_tables(shards).sort_by(tables.IMAGE)
    ok = np.asarray(table[tables.STATUS].to_pylist(), object) == "ok"
    bad = table.filter(pa.array(~ok)).select([tables.IMAGE, tables.STATUS, tables.REASON]).to_pylist()
    here = np.array([name in people for name in tables.texts(table, tables.IMAGE)], bool)
    bad += [
        {**row, tables.STATUS: "excluded", tables.REASON: BY_VERDICT}
        for row in table.filter(pa.array(ok & ~here)).select([tables.IMAGE]).to_pylist()
    ]
    good = table.filter(pa.array(ok & here)).combine_chunks()
    embeddings = tables.load_embeddings(out).of(tables.texts(good, tables.IMAGE))
    count = len(good)
    points = np.asarray(pc.list_flatten(good[tables.LANDMARKS]), np.float32)
    landmarks = (
        points.reshape(count, 5, 2) if len(points) == count * 10 else np.zeros((count, 5, 2), np.float32)
    )
    scores = np.asarray(good[tables.DET_SCORE].to_pandas(), np.float64)
    sizes = np.stack([np.asarray(good[side], np.int64) for side in (tables.WIDTH, tables.HEIGHT)], axis=1)
    faces = Faces(embeddings.names, embeddings.pixels, embeddings.vectors, landmarks, sizes, scores)
    left_out = [LeftOut(*(str(row[c] or "") for c in columns[:3])) for row in bad]
    return faces, sorted(left_out, key=lambda row: row.image)
