"""report and review: look at a dataset, and correct it by hand."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import OutArgument, RecordedPhotosOption, option
from ffhqref.core.store import UserError
from ffhqref.core.terminal import shown


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
    from ffhqref.report.card import curator_path, listed
    from ffhqref.report.page import ReportOptions
    from ffhqref.report.write import write_report

    options = ReportOptions(gallery=gallery, seed=seed, labels=labels, label_accuracy=label_accuracy)
    written = write_report(out, images, options)
    for name in written.missing[:5]:
        typer.echo(f"Warning: {name} could not be read and is grey.", err=True)
    for line in listed(written.to_complete, curator_path(out)):
        typer.echo(line)
    typer.echo(f"Wrote {written.path} and the card beside it. Next: ffhqref review {out}")


def _part(text: str) -> tuple[int, int]:
    """`1/2` -> (1, 2)."""
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UserError(f"--part {text}: give i/n with i from 1 to n, such as 1/2.")
    return int(first), int(count)


@app.command(no_args_is_help=True)
def review(
    out: OutArgument,
    images: RecordedPhotosOption = None,
    who: Annotated[str | None, option("Who looks.", "--who", default="your user name")] = None,
    part: Annotated[
        str, option("The i-th of n parts of the list, for n people.", "--part", metavar="i/n")
    ] = "1/1",
    only: Annotated[
        Literal["all", "train", "val", "test", "contradictions"],
        option("Only one split, each of its people looked through; or what contradicts itself.", "--only"),
    ] = "all",
    merge: Annotated[
        list[Path] | None, option("Add another's verdicts.csv to the dataset's, and end.", "--merge")
    ] = None,
    port: Annotated[int, option("Port on this machine; 0 takes a free one.", "--port", min=0, max=65535)] = 0,
    idle: Annotated[
        float, option("Minutes without a request after which it stops.", "--idle", min=0.01)
    ] = 60,
) -> None:
    """Look through the doubtful people in a browser, and decide.

    The most useful questions come first. Each answer is written at once to OUT/verdicts.csv;
    the next build-refs or cluster obeys it.

    \b
    ffhqref review mine
    ffhqref review mine --only test
    """
    from ffhqref.dataset import verdicts
    from ffhqref.report import facts
    from ffhqref.report.server import Review
    from ffhqref.report.session import ReviewOptions, Session, add_files

    path = verdicts.path_of(out)
    if merge:
        added, against = add_files(path, merge)
        for one in against:
            typer.echo(f"Contradiction: {shown(str(one))}.", err=True)
        only_them = " --only contradictions" if against else ""
        typer.echo(f"Added {added:,} verdicts to {path}. Next: ffhqref review {out}{only_them}")
        return
    options = ReviewOptions(who=who or getpass.getuser(), part=_part(part), only=only)
    session = Session(facts.load(out, images), options, path)
    with Review(session, port, 60 * idle) as server:
        typer.echo(f"{session.progress()}.\nOpen {server.address}\nCtrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    session.refresh()
    typer.echo(f"{session.progress()}: {path}. Next: ffhqref cluster {out}")
