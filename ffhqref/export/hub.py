"""`hf`: Parquet that `datasets.load_dataset` reads as pictures, and the Hub's viewer shows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ffhqref.core import tables
from ffhqref.core.images import png_name
from ffhqref.core.journal import Made
from ffhqref.core.store import atomic, below, digest_file
from ffhqref.export.contents import Contents, Picture, Sample
from ffhqref.export.entries import BytesEntry, Entry, json_lines, packed
from ffhqref.export.shards import sample_key, shares, size_about

NAMES = {"train": "train", "val": "validation", "test": "test"}  # as the Hub calls splits
GROUP_BYTES, GROUP_ROWS = 64 << 20, 100  # of a row group: the viewer reads one at a time, up to 300 MB
STRING, IMAGE = {"dtype": "string", "_type": "Value"}, {"_type": "Image"}
FEATURES = {
    tables.NAME: STRING, tables.IDENTITY: STRING, tables.GT_IMAGE: IMAGE, tables.LQ_IMAGE: IMAGE,
    tables.REF_IMAGE: [IMAGE], tables.REFERENCES: [STRING],
}  # fmt: skip
SCHEMA = tables.HUB.with_metadata({"huggingface": json.dumps({"info": {"features": FEATURES}})})


def plan(contents: Contents) -> Iterator[Entry]:
    """data/SPLIT-00000-of-N.parquet with a row a target, metadata.jsonl, and a README.md that names them."""
    options = contents.options
    rows: list[dict[str, str | list[str] | None]] = []
    splits = []
    for split in contents.mappings:
        samples = contents.samples(split)
        if not samples:
            continue
        splits.append(NAMES[split])
        parts = shares(samples, size_about(samples, options.size), options.shard_mb)
        for number, part in enumerate(parts):
            file = f"data/{NAMES[split]}-{number:05d}-of-{len(parts):05d}.parquet"
            yield ParquetEntry(file, tuple(part), options.size)
        rows += [
            {"split": NAMES[split], "name": s.target.name, "identity": s.identity,
             "references": [reference.name for reference in s.references]} for s in samples
        ]  # fmt: skip
    yield json_lines("metadata.jsonl", rows)
    yield BytesEntry("README.md", card(splits).encode())


def card(splits: Sequence[str]) -> str:
    """The least README.md from which the Hub and `datasets` know which files are which split."""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in splits)
    columns = "".join(f"- `{name}`\n" for name in FEATURES)
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"
        f"A row a target; its references are in order, best first.\n\n{columns}"
    )


@dataclass(frozen=True)
class ParquetEntry:
    """A shard: rows in the order of the samples."""

    file: str
    samples: tuple[Sample, ...]
    size: int

    @property
    def key(self) -> str:
        return sample_key(self.samples, self.size)

    @property
    def origin(self) -> str:
        return self.file

    @property
    def about(self) -> int:
        return size_about(self.samples, self.size)

    def make(self, out: Path) -> Made:
        path = below(out, self.file)
        with atomic(path) as part, pq.ParquetWriter(part, SCHEMA, write_page_index=True) as writer:
            group: list[tables.TableRow] = []
            filled = 0
            for sample in self.samples:
                row, held = self._row(sample)
                if group and (filled + held > GROUP_BYTES or len(group) == GROUP_ROWS):
                    writer.write_table(pa.Table.from_pylist(group, SCHEMA))
                    group, filled = [], 0
                group.append(row)
                filled += held
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
        return Made(self.key, digest_file(path))

    def _row(self, sample: Sample) -> tuple[tables.TableRow, int]:
        """A row, and how many bytes of pictures it holds."""
        pictures = [sample.target, *sample.references, *([sample.lq] if sample.lq else [])]
        files = [self._file(picture) for picture in pictures]
        references = files[1 : 1 + len(sample.references)]
        row = {
            tables.NAME: sample.target.name, tables.IDENTITY: sample.identity, tables.GT_IMAGE: files[0],
            tables.LQ_IMAGE: files[-1] if sample.lq else None, tables.REF_IMAGE: references,
            tables.REFERENCES: [reference.name for reference in sample.references],
        }  # fmt: skip
        return row, sum(len(file["bytes"]) for file in files)

    def _file(self, picture: Picture) -> dict[str, bytes]:
        return {"bytes": packed(picture, self.size), "path": png_name(picture.name)}  # type: ignore[dict-item]
