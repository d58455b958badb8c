"""demo and sheet."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    AcceptTermsOption,
    OutArgument,
    RecordedPhotosOption,
    ask_terms,
    next_line,
    option,
)


@app.command()
def demo(
    out: Annotated[
        Path | None, option("Folder to write to.", default="demo-out, or real-out with --real")
    ] = None,
    people: Annotated[int, option("How many people to draw, with 1 to 8 photos each.")] = 60,
    seed: Annotated[int, option("Another seed draws other people.")] = 0,
    workers: Annotated[int, option("Processes that draw.", min=1, max=64)] = 2,
    real: Annotated[bool, option("Use real people instead: downloads LFW and buffalo_sc.", "--real")] = False,
    accept_terms: AcceptTermsOption = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Restorer for the severe test images, such as refldm.ckpt.  [default: the demo's own]",
        ),
    ] = None,
) -> None:
    """Run everything offline, on people drawn by program.

    Draws their photographs, builds and verifies their dataset, degrades and restores its
    test images. Who the people are is known, so it says how well they were told apart. If it
    is interrupted, run it again: it continues.

    \b
    ffhqref demo --out demo-out
    ffhqref demo --real --out real-out
    """
    from ffhqref.demo.run import closing_lines, run_demo, run_real
    from ffhqref.report.write import write_report

    out = out or Path("real-out" if real else "demo-out")
    if real:
        result = run_real(out, accept=partial(ask_terms, accept_terms), workers=workers, say=typer.echo)
    else:
        result = run_demo(out, people=people, seed=seed, workers=workers, say=typer.echo)
    for line in closing_lines(out, result):
        typer.echo(line)
    _restore(out, checkpoint)
    page = write_report(out / "dataset", out / "photos").path
    typer.echo(f"Look at it all: {page}. {next_line('verify', out / 'dataset')}")


def _restore(out: Path, checkpoint: Path | None) -> None:
    """Restore the severe test images: by the given restorer, or the demo's own."""
    from ffhqref.cli.restore import say
    from ffhqref.demo import RESTORER
    from ffhqref.demo.likeness import of_restored
    from ffhqref.restore import run

    dataset, photos, options = out / "dataset", out / "photos", run.RestoreOptions(sheets=True)
    place = run.restored_folder(dataset, "severe")
    if checkpoint is not None:
        say(run.restore_dataset(dataset, checkpoint, level="severe", photos=photos, options=options), place)
        return
    if not (out / "landmarks.csv").is_file():  # real people
        return
    if not run.has_torch():
        typer.echo("To restore the test images too: pip install 'ffhqref[train]', and run this again.")
        return
    typer.echo("Restoring the severe test images at 64 px, with references and without ...")
    alone = dataset / "restored" / "severe-alone"
    say(run.restore_pictures(dataset / "test_images" / "severe_degrad", RESTORER, out=alone), alone)
    say(run.restore_dataset(dataset, RESTORER, level="severe", photos=photos, options=options), place)
    for line in of_restored(out):
        typer.echo(line)


@app.command(no_args_is_help=True)
def sheet(
    out: OutArgument,
    images: RecordedPhotosOption = None,
    file: Annotated[
        Path | None, option("Picture to write.", "--out", default="contact-sheet.png in the dataset")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None, option("Show only one split.", default="all")
    ] = None,
    count: Annotated[int, option("How many targets, one row each.")] = 12,
) -> None:
    """Draw a contact sheet: targets and their references.

    Each row starts with the target, with its split in the corner.

    \b
    ffhqref sheet mine
    ffhqref sheet ffhq-ref --images ffhq --split test --out test.png
    """
    from ffhqref.dataset.sheet import contact_sheet

    made = contact_sheet(out, images, file=file, split=split, count=count)
    for name in made.missing[:5]:
        typer.echo(f"Warning: {name} could not be read and is grey.", err=True)
    if len(made.missing) > 5:
        typer.echo(f"Warning: so are {len(made.missing) - 5:,} more.", err=True)
    typer.echo(
        f"Laid out {made.rows:,} targets with their references: {made.path}. {next_line('verify', out)}"
    )
