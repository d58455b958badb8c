"""Who reads an export, and what may be chosen. Imports nothing heavy: the command line needs the words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ffhqref.core.store import UserError

Reader = Literal[
    "refldm", "instantrestore", "faceme", "restorerid", "dmdnet", "asffnet", "coderefformer", "dualpivot",
    "gen2res", "folders", "hf", "webdataset", "lmdb",
]  # fmt: skip
Links = Literal["copy", "hard", "sym"]
PACKED = ("hf", "webdataset", "lmdb")  # many pictures in one file: nothing to link
SPLITS = ("train", "val", "test")
LARGEST = 4096  # px, of --size


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What of a dataset is handed on, and how. `workers` and `links` never change what a reader reads."""

    splits: tuple[str, ...] = SPLITS
    level: str = "severe"  # whose low-quality images go along; refldm takes all that are there
    links: Links = "copy"  # of pictures that need no change
    size: int = 512  # px of each picture; 0 keeps each as large as it is
    landmarks: Path | None = None  # ffhq-dataset-v2.json: 68 points of each FFHQ image
    least: int | None = None  # photos a person must have; None for the reader's own
    seed: int = 0  # of the order in webdataset shards
    shard_mb: int = 500  # 1e6 bytes, about, of a file that holds many pictures
    workers: int | None = None  # threads; None for one a core

    def __post_init__(self) -> None:
        for good, fault in [
            (bool(self.splits) and len(set(self.splits)) == len(self.splits), "Name each --split once"),
            (set(self.splits) <= set(SPLITS), "--split must be train, val or test"),
            (0 <= self.size <= LARGEST, f"--size must be from 1 to {LARGEST}, or 0 for no change"),
            (self.least is None or self.least >= 1, "--least must be at least 1"),
            (1 <= self.shard_mb <= 100_000, "--shard-mb must be from 1 to 100000"),
            (self.workers is None or self.workers >= 1, "--workers must be at least 1"),
            (self.level.replace("-", "").replace("_", "").isalnum(), "--level must be the name of a level"),
        ]:
            if not good:
                raise UserError(f"{fault}.")
