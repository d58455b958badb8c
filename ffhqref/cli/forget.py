"""forget: take people out of a dataset, and prove it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import DryRunOption, OutArgument, next_line, option
from ffhqref.core.store import UserError, recorded_images
from ffhqref.core.terminal import shown

if TYPE_CHECKING:
    from ffhqref.dataset.forget import Forgotten

SHOWN = 20  # files that are named in the terminal
LEVELS = ("train", "severe", "moderate", "gfpgan", "codeformer", "faceme", "demo")  # a run records no level


@app.command(no_args_is_help=True)
def forget(
    out: OutArgument,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Photos, as the dataset's lists name them.")
    ] = None,
    person: Annotated[
        str | None, option("All photos of this identity (tables/identities.parquet).", "--person")
    ] = None,
    listed: Annotated[Path | None, option("Text file of photos, one name per line.", "--list")] = None,
    runs: Annotated[
        Path | None, option("Folder of training runs to look through, beside those below OUT.", "--runs")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Take photos out of a dataset without a trace.

    Their rows, crops, low-quality and restored images, and every mention below OUT go;
    nobody else changes person or split, and other targets get other references. A salted
    digest of the pixels keeps the photos from coming back under any name. If it is
    interrupted, run it again: it continues.

    \b
    ffhqref forget mine 00017.jpg 00042.jpg
    ffhqref forget mine --list asked.txt --dry-run
    """
    from ffhqref.core.lists import read_list
    from ffhqref.dataset.forget import forget_photos

    wanted = [*(names or []), *(read_list(listed) if listed else [])]
    done = forget_photos(
        out, wanted, person=person, runs=runs, trained_on=partial(_trained_on, out), dry_run=dry_run
    )
    if dry_run:
        return _say_preview(done, out)
    for line in _others(done):
        typer.echo(shown(line), err=True)
    mentions = len(done.scan.mentions)
    typer.echo(
        f"Forgot {done.photos:,} photos: {len(done.removed):,} files removed, {len(done.changed):,} changed, "
        f"references of {done.refilled:,} other targets chosen again. Scanned {done.scan.files:,} files "
        f"below {out}, {mentions} mention them. {next_line('report' if done.reported else 'verify', out)}"
    )


def _trained_on(out: Path, run: Path) -> bool:
    """Whether a run was trained on this dataset as it is, by the digest that it recorded of its lists."""
    try:
        from ffhqref.cli.train import configure
        from ffhqref.degrade.operators import sampler
        from ffhqref.refldm.training.data import open_dataset
        from ffhqref.refldm.training.runs import RunFolder

        folder, photos = RunFolder(run), recorded_images(out)
        config = configure(str(folder.read_settings().get("stage")), None, {}, run)
        levels = LEVELS if config.stage != "autoencoder" else ("",)
        samplers = (sampler(level, config.seed) if level else None for level in levels)
        wanted = folder.read_config().get("data")
        return any(open_dataset(out, photos, config, one).digest() == wanted for one in samplers)
    except (ImportError, UserError):  # no torch here, or a run or photographs that cannot be read
        return False


def _say_preview(done: Forgotten, out: Path) -> None:
    for what, files in (("remove", done.removed), ("change", done.changed)):
        for file in files[:SHOWN]:
            typer.echo(shown(f"{what}  {file}"))
        if len(files) > SHOWN:
            typer.echo(f"... and {len(files) - SHOWN:,} more to {what}")
    for line in _others(done):
        typer.echo(shown(line), err=True)
    typer.echo(
        f"Would forget {done.photos:,} photos: {len(done.removed):,} of {done.scan.files:,} files below "
        f"{out} would be removed, {len(done.changed):,} changed, and references of {done.refilled:,} other "
        "targets chosen again. Nothing was written; run it without --dry-run."
    )


def _others(done: Forgotten) -> list[str]:
    """What `forget` cannot do: the user's own photographs, and networks."""
    lines = []
    if done.photographs:
        some = ", ".join(map(str, done.photographs[:3])) + (" ..." if len(done.photographs) > 3 else "")
        lines.append(
            f"Yours, and left: {len(done.photographs):,} photographs ({some}). Delete them: "
            "the next build would pass over them as forgotten, and list their names."
        )
    for run, known in done.runs.items():
        why = "It was trained on them" if known else "Whether it was trained on them is not known"
        lines.append(f"Cannot forget: the checkpoints of {run}. {why}: to be rid of them, train again.")
    lines.append("Exports, checkpoints and copies elsewhere are not known here: look for them yourself.")
    return lines
