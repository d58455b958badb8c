"""Photos embedded a second, from files, beside a loop of imread and insightface's FaceAnalysis."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ffhqref.core.recipe import Recipe, load_recipe
from ffhqref.core.tables import IMAGE, LANDMARK_COLUMNS, load_embeddings
from ffhqref.dataset.embed import embed_photos
from tests.benchmarks.common import FACES, PAIRS, Row, interleave, needed, seconds

SIDE = "512"  # px: the pictures of this width and height are used
COPIES = 3  # of each picture, so that a run takes seconds
EMBEDDER, DETECTOR = "w600k_mbf_dequant_fp32.onnx", "scrfd_2.5g_bnkps.onnx"


def lay_out(folder: Path) -> list[Path]:
    """Copies of the shared 512 px pictures and landmarks.csv of their five points; the pictures."""
    (folder / "photos").mkdir()
    lines, paths = [[IMAGE, *LANDMARK_COLUMNS]], []
    with needed(FACES / "photos.csv").open(newline="") as file:
        photos = [photo for photo in csv.DictReader(file) if photo["width"] == photo["height"] == SIDE]
    for copy in range(COPIES):
        for number, photo in enumerate(photos):
            path = folder / "photos" / f"{copy}-{number:04d}{Path(photo['file']).suffix}"
            shutil.copyfile(FACES / "photos" / photo["file"], path)
            paths.append(path)
            lines.append([path.name, *photo["landmarks"].split()])
    with (folder / "landmarks.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return paths


def face_analysis(folder: Path) -> Any:
    """insightface's own pipeline with the same two networks, default sessions."""
    models = folder / "models" / "same"
    models.mkdir(parents=True)
    for name in (EMBEDDER, DETECTOR):
        shutil.copyfile(needed(FACES / "weights" / name), models / name)
    from insightface.app import FaceAnalysis

    warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)  # at each of its faces
    with contextlib.redirect_stdout(io.StringIO()):
        app = FaceAnalysis(name="same", root=str(folder), providers=["CPUExecutionProvider"])
        app.prepare(ctx_id=-1, det_size=(320, 320))
    return app


def their_embeddings(app: Any, paths: list[Path]) -> dict[str, Any]:
    """The largest face's embedding of each picture that has one, one picture after another."""
    found = {}
    for path in paths:
        if faces := app.get(cv2.imread(str(path))):
            box = [float(np.prod(face.bbox[2:] - face.bbox[:2])) for face in faces]
            found[path.name] = faces[int(np.argmax(box))].normed_embedding
    return found


def run(pairs: int = PAIRS) -> Iterator[Row]:
    weights = needed(FACES / "weights")
    networks = {"embedder": str(weights / EMBEDDER), "detector": str(weights / DETECTOR), "distance": 0.6}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths, app = lay_out(folder), face_analysis(folder)
        for what, given in (
            ("embed, faces detected", {}),
            ("embed, landmarks known", {"align": "landmarks", "landmarks": str(folder / "landmarks.csv")}),
        ):
            yield compare(what, folder, paths, app, load_recipe("photos", **networks, **given), pairs)


def compare(name: str, folder: Path, paths: list[Path], app: Any, recipe: Recipe, pairs: int) -> Row:
    """One row; the embeddings of both must be of the same faces."""
    out, found = folder / "out", {}

    def ours() -> float:
        shutil.rmtree(out, ignore_errors=True)
        return seconds(lambda: embed_photos(folder / "photos", out, recipe, device="cpu"))

    def theirs() -> float:
        return seconds(lambda: found.update(their_embeddings(app, paths)))

    times = interleave(pairs, ours=ours, theirs=theirs)
    made = load_embeddings(out)
    alike = [
        float(vector @ found[at]) for at, vector in zip(made.names, made.vectors, strict=True) if at in found
    ]
    if len(alike) < 0.9 * len(paths) or np.median(alike) < 0.98:
        raise AssertionError(f"{len(alike)} of {len(paths)} faces are alike, median {np.median(alike):.4f}")
    note = (
        f"{len(paths)} files of 512 px, networks' start and tables included; beside a loop of imread and "
        f"FaceAnalysis.get, det_size 320, default sessions; median cosine of both {np.median(alike):.4f}"
    )
    return times.row(
        name, times.made["ours"], times.made["theirs"], "photos/s", note, lambda cost: len(paths) / cost
    )
