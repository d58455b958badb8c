"""report and review: look at a dataset, and correct it by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import OutArgument, RecordedPhotosOption, option


@app.command(no_args_is_help=True)
def report(
    out: OutArgument,
    images: RecordedPhotosOption = None,
    gallery: Annotated[int, option("How many targets the gallery shows.", "--gallery")] = 24,
    seed: Annotated[int, option("Another seed shows other people.", "--seed")] = 0,
    labels: Annotated[
        Path | None, option("CSV of labels by image to count.", "--labels", default="the recipe's, if any")
    ] = None,
    label_accuracy: Annotated[
        float | None,
        option("How often the labels are right, 0 to 1.", "--label-accuracy", default="not known"),
    ] = None,
) -> None:
    """Write report.html: what is in a dataset, and what is doubtful.

    One file that needs no network, with the card of the dataset beside it (README.md,
    croissant.json).

    \b
    ffhqref report mine
    """
    from ffhqref.report.page import ReportOptions, write_report

    options = ReportOptions(gallery=gallery, seed=seed, labels=labels, label_accuracy=label_accuracy)
    written = write_report(out, images, options)
    for name in written.missing[:5]:
        typer.echo(f"Warning: {name} could not be read and is grey.", err=True)
    typer.echo(f"Wrote {written.path}: open it in a browser. Next: ffhqref review {out}")
