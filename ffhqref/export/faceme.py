"""`faceme`: targets, a pose's folder a reference, and embeddings that `torch.load` reads."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ffhqref.core import tables
from ffhqref.core.arrays import Float32
from ffhqref.core.journal import Made
from ffhqref.core.store import UserError, below, digest, write_bytes
from ffhqref.export.contents import Contents, flat
from ffhqref.export.entries import Entry, json_lines, keyed
from ffhqref.export.people import put

EMBEDDINGS = "embeddings"


def plan(contents: Contents) -> Iterator[Entry]:
    """FFHQ/TARGET.png, FFHQRef/target_pose_A/target_pose_A_0/TARGET.png, SPLIT.json, embeddings/NAME.pt.

    The reference in place A (from 0) of a target is that of pose A. A line of SPLIT.json names the target
    and the files of its embedding and its references', in their order: paths below the export.
    """
    if find_spec("torch") is None:
        raise UserError(
            "FaceMe loads its embeddings with torch: `pip install 'ffhqref[train]'` to write them."
        )
    table = tables.load_embeddings(contents.dataset)
    vectors = dict(zip(table.names, table.vectors, strict=True))
    for split in contents.mappings:
        rows: list[dict[str, str | list[str]]] = []
        for sample in contents.samples(split):
            stem, pictures = flat(sample.target.name), (sample.target, *sample.references)
            yield put(contents, "FFHQ", sample.target)
            for pose, reference in enumerate(sample.references):
                yield put(contents, f"FFHQRef/target_pose_{pose}/target_pose_{pose}_0", reference, stem)
            files = []
            for picture in pictures:
                if picture.name not in vectors:
                    raise UserError(f"{picture.name} has no embedding in {contents.dataset}: embed it first.")
                entry = EmbeddingEntry(
                    f"{EMBEDDINGS}/{flat(picture.name)}.pt", vectors[picture.name], picture.name
                )
                files.append(entry.file)
                yield entry
            rows.append({"target": f"FFHQ/{stem}.png", "target_emb": files[0], "ref_emb": files[1:]})
        if rows:
            yield json_lines(f"{split}.json", rows)


@dataclass(frozen=True, eq=False)
class EmbeddingEntry:
    """A unit embedding as a tensor that `torch.load(weights_only=True)` reads."""

    file: str
    vector: Float32
    origin: str

    @property
    def key(self) -> str:
        return keyed(digest(np.ascontiguousarray(self.vector).tobytes()))

    @property
    def about(self) -> int:
        return 4 * self.vector.size + 2048

    def make(self, out: Path) -> Made:
        import torch

        data = io.BytesIO()
        torch.save(torch.from_numpy(self.vector.copy()), data)
        write_bytes(below(out, self.file), data.getvalue())
        return Made(self.key, digest(data.getvalue()))
