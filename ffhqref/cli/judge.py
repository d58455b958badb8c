"""verify, calibrate, compare, audit: is a dataset sound, a distance right, a test set unseen."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import (
    DeviceOption,
    OutArgument,
    RecordedPhotosOption,
    WorkersOption,
    after_building,
    next_line,
    option,
)
from ffhqref.core.store import UserError


@app.command()
def verify(out: OutArgument, images: RecordedPhotosOption = None) -> None:
    """Prove that a built dataset is sound, or say what is not.

    \b
    ffhqref verify mine
    """
    from ffhqref.dataset.build import recipe_of, refusal
    from ffhqref.dataset.verify import verify_dataset

    report = verify_dataset(out, recipe_of(out), images=images)
    for warning in report.warnings:
        typer.echo(f"Warning: {warning}.", err=True)
    if report.violations:
        raise UserError(refusal(out, report))
    warned = f" ({len(report.warnings):,} warnings)" if report.warnings else ""
    typer.echo(f"{out} is sound: {report.line()}{warned}. {after_building(out)}")


@app.command()
def calibrate(
    out: OutArgument,
    labels: Annotated[Path, option("CSV (image, identity) of known people.", "--labels")],
    false_match_rate: Annotated[
        float, option("Share of pairs of two people that may lie below the distance.", "--false-match-rate")
    ] = 1e-4,
) -> None:
    """Find a network's distance from photos of known people.

    Prints how often each distance is right, and plots it.

    \b
    ffhqref embed lfw-embedded --images lfw \\
        --detector det_500m.onnx --embedder mine.onnx
    ffhqref calibrate lfw-embedded --labels lfw.csv
    """
    from ffhqref.identities.calibrate import calibrate_distance

    found = calibrate_distance(out, labels, false_match_rate=false_match_rate)
    typer.echo(
        f"{found.photos:,} photos of {found.people:,} people: {found.rates.same:,} pairs of one person, "
        f"{found.rates.different:,} of two."
    )
    typer.echo(
        f"distance  {'TAR of one person':25}{'rests on':>10}  {'FAR of two people':28}{'rests on':>10}"
        "  wrong of all below"
    )
    for distance in sorted({*(step / 20 for step in range(4, 19)), found.suggested}):
        true, false = found.rates.intervals(distance)
        wrong = f"{false.pairs / max(true.pairs + false.pairs, 1):.3%}"
        mark = "  <- suggested" if distance == found.suggested else ""
        one = f"{true.rate:7.2%} [{true.low:.1%}, {true.high:.1%}]"
        two = f"{false.rate:.2e} [{false.low:.0e}, {false.high:.0e}]"
        typer.echo(f"{distance:8.3f}  {one:25}{true.pairs:10,}  {two:28}{false.pairs:10,}  {wrong:>18}{mark}")
    typer.echo(
        "In brackets: 95 % intervals by a bootstrap over people. A rate rests on the pairs below a distance."
    )
    error, at = found.rates.equal_error()
    typer.echo(f"Equal error rate {error:.3%} at distance {at:.3f}.")
    if false_match_rate * found.rates.different < 1:
        typer.echo(
            f"Note: {found.rates.different:,} pairs of two people are too few to show a rate of "
            f"{false_match_rate:g}: the suggestion is below the nearest of them."
        )
    typer.echo(
        f"Suggested distance {found.suggested:.3f}; plot: {found.plot}, table: {found.table}. "
        + next_line("cluster", out, "--distance", f"{found.suggested:.3f}")
    )


@app.command(no_args_is_help=True)
def compare(
    dataset: OutArgument,
    other: Annotated[
        Path,
        typer.Argument(metavar="OTHER", help="Another dataset, or a folder of published lists and CSVs."),
    ],
    out: Annotated[Path | None, option("Folder for the tables.", default="OUT/compare")] = None,
) -> None:
    """Compare two datasets: people, pairs, splits, references.

    Of published CSVs alone, people are the connected components of their rows. Writes
    people.csv (who was split or joined), counts.csv and summary.txt.

    \b
    ffhqref compare mine other
    ffhqref compare ffhq-ref FFHQ-Ref --out compared
    """
    from ffhqref.dataset import compare as comparing

    place = out or dataset / "compare"
    result = comparing.compare_datasets(dataset, other)
    comparing.write_comparison(place, result)
    for line in comparing.lines(result):
        typer.echo(line)
    typer.echo(f"Compared: {place}. Next: cat {shlex.quote(str(place / 'people.csv'))}")


@app.command(no_args_is_help=True)
def audit(
    dataset: OutArgument,
    trained_on: Annotated[
        Path,
        option(
            "List of names, folder of pictures, or dataset that a restorer was trained on.", "--trained-on"
        ),
    ],
    names: Annotated[bool, option("Compare names only; read no picture.", "--names")] = False,
    out: Annotated[Path | None, option("CSV to write.", default="OUT/audit/leaks.csv")] = None,
    device: DeviceOption = "auto",
    workers: WorkersOption = 2,
) -> None:
    """Find the test people that a restorer was trained on.

    Looks by name, by pixels, and by face: the same person under another name. A folder of
    pictures is embedded as the dataset was; run it again to continue.

    \b
    ffhqref audit mine --trained-on train.txt
    ffhqref audit mine --trained-on photos
    """
    from ffhqref.dataset import audit as auditing
    from ffhqref.dataset.build import recipe_of

    place = out or dataset / "audit" / "leaks.csv"
    found = auditing.audit(
        dataset, trained_on, recipe_of(dataset), names_only=names, device=device, workers=workers
    )
    auditing.write_audit(place, found)
    for line in auditing.lines(found):
        typer.echo(line)
    typer.echo(f"Photos found: {place}. Next: cat {shlex.quote(str(place))}")
