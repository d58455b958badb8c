"""`faceme`: what the lines of the JSON name is there, and torch reads the embeddings as data alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ffhqref.core import lists, tables
from ffhqref.core.store import UserError
from ffhqref.export import faceme
from ffhqref.export.contents import flat
from tests.export.conftest import photos_of
from tests.export.test_stage import run


def test_lines_name_files_and_embeddings(handed: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch (the extra `train`) is not installed")
    out = tmp_path / "out"
    run("faceme", handed, out)
    known = tables.load_embeddings(handed / "mine")
    vectors = {flat(name): vector for name, vector in zip(known.names, known.vectors, strict=True)}
    for split in ("train", "val", "test"):
        lines = [json.loads(line) for line in (out / f"{split}.json").read_text().splitlines()]
        mapping = lists.read_references(handed / "mine/reference_mapping" / f"{split}_references.csv")
        assert [Path(line["target"]).stem for line in lines] == [flat(name) for name in mapping]
        for line, (target, references) in zip(lines, mapping.items(), strict=True):
            for file, name in zip((line["target_emb"], *line["ref_emb"]), (target, *references), strict=True):
                read = torch.load(out / file, weights_only=True)
                assert read.dtype == torch.float32 and np.array_equal(read.numpy(), vectors[flat(name)])
            assert (out / line["target"]).is_file()
            for pose, name in enumerate(references):
                place = out / "FFHQRef" / f"target_pose_{pose}" / f"target_pose_{pose}_0"
                if name.endswith(".png"):
                    drawn = (place / Path(line["target"]).name).read_bytes()
                    assert drawn == (handed / "photos" / name).read_bytes()
    assert len(list((out / "FFHQ").iterdir())) == sum(len(photos_of(s)) for s in ("train", "val", "test")) - 1


def test_without_torch_it_says_so(handed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faceme, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="loads its embeddings with torch: `pip install"):
        next(iter(faceme.plan(None)))  # type: ignore[arg-type]
