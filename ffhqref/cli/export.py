"""export: a built dataset -> files in the form of who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import OutArgument, RecordedPhotosOption, option
from ffhqref.export.options import SPLITS, Links, Reader

READERS = ", ".join(get_args(Reader))
NEXT = {
    "refldm": "ffhqref sheet {out} --images {out}/images512x512 --out contact-sheet.png",
    "hf": "python -c \"import datasets; print(datasets.load_dataset('{out}'))\"",
    "webdataset": "tar --list --file {out}/{split}-000000.tar",
    "lmdb": "head {out}/{split}_gt.lmdb/meta_info.txt",
}


@app.command(no_args_is_help=True)
def export(
    dataset: OutArgument,
    reader: Annotated[Reader, option(f"Who reads it: {READERS}.", "--for", metavar="READER")],
    out: Annotated[Path, option("Folder to write to, for this export alone.")],
    images: RecordedPhotosOption = None,
    links: Annotated[
        Links, option("What becomes of pictures that need no change: a copy, or a hard or symbolic link.")
    ] = "copy",
    split: Annotated[
        Literal["train", "val", "test"] | None, option("Hand on only one split.", default="all")
    ] = None,
    level: Annotated[str, option("Whose low-quality images go along; refldm takes all.")] = "severe",
    size: Annotated[int, option("Side of each picture in px; 0: as large as it is.")] = 512,
    landmarks: Annotated[
        Path | None, option("ffhq-dataset-v2.json: 68 points of FFHQ's images.", default="none")
    ] = None,
    least: Annotated[int | None, option("Photos that a person must have.", default="the reader's")] = None,
    seed: Annotated[int, option("Of the order in webdataset's shards.")] = 0,
    shard_mb: Annotated[int, option("MB of a file of hf or webdataset, about.")] = 500,
    workers: Annotated[int | None, option("Number of threads.", default="one per core")] = None,
) -> None:
    """Hand a dataset on in the form that another program reads.

    Crops of the dataset (images512x512) are taken where there are any. A second run makes only
    what is missing.

    \b
    ffhqref export mine --for hf --out mine-hf
    ffhqref export mine --for folders --out people --links hard --split train
    """
    from ffhqref.export.options import ExportOptions
    from ffhqref.export.stage import export_dataset

    splits = (split,) if split else SPLITS
    options = ExportOptions(
        splits=splits, level=level, links=links, size=size, landmarks=landmarks, least=least, seed=seed,
        shard_mb=shard_mb, workers=workers,
    )  # fmt: skip
    outcome = export_dataset(dataset, reader, out, photos=images, options=options)
    for note in outcome.notes:
        typer.echo(f"Note: {note}", err=True)
    total = outcome.made + outcome.kept
    kept = f", {outcome.kept:,} of them kept" if outcome.kept else ""
    after = NEXT.get(reader, "ls {out}").format(out=out, split=splits[0])
    typer.echo(f"{total:,} files for {reader} are in {out}{kept}. Next: {after}")
