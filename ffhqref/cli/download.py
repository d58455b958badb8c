"""download and doctor."""

from __future__ import annotations

import re
import shlex
import shutil
import textwrap
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ffhqref.cli.app import app
from ffhqref.cli.options import AcceptTermsOption, DryRunOption, LeastSpeedOption, ask_terms, option
from ffhqref.core.store import UserError
from ffhqref.core.terminal import shown

if TYPE_CHECKING:
    from ffhqref.download.sources import Source
    from ffhqref.download.stage import DownloadOutcome

ROWS_SHOWN = 20  # rows of a table in the terminal; the file beside the download has all


@app.command()
def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|MANIFEST", help="Sources to download; without one they are listed."),
    ] = None,
    out: Annotated[Path | None, option("Folder to write to.")] = None,
    only: Annotated[
        list[str] | None,
        option("Only these: '*.png', a folder, a range as 0-999, or a group's name.", metavar="GLOB|RANGE"),
    ] = None,
    exclude: Annotated[Path | None, option("List of files to leave out, one name per line.")] = None,
    mirror: Annotated[
        list[str] | None,
        option("Try this first: a URL, hf://datasets/OWNER/NAME, or a folder.", metavar="URL|DIR"),
    ] = None,
    jobs: Annotated[int, option("Files to download at a time.", min=1, max=64)] = 8,
    rate: Annotated[
        str, option("Bytes per second in all, such as 500k or 2M.", metavar="LIMIT", default="unlimited")
    ] = "",
    verify: Annotated[bool, option("Read all files again; download damaged ones.", "--verify")] = False,
    dry_run: DryRunOption = False,
    accept_terms: AcceptTermsOption = False,
    timeout: Annotated[float, option("Seconds that a server may be silent.", min=0.1, max=86_400)] = 30,
    least_speed: LeastSpeedOption = "1k",
    retries: Annotated[int, option("Attempts without progress before giving up.", min=1)] = 6,
) -> None:
    """Download datasets and networks, verified and resumable.

    If anything goes wrong, run the same command again: it continues where it stopped.

    \b
    ffhqref download                                the sources and their licences
    ffhqref download ffhq --out ffhq --only 0-999   the first thousand images
    ffhqref download ffhq-ref --only lists --out published
    ffhqref download ffhq --out ffhq --mirror /mnt/institute/ffhq
    ffhqref download mine.toml --out mine           your own list of files
    """
    from ffhqref.download import stage as stage
    from ffhqref.download.network import Manners
    from ffhqref.download.sources import load_source

    if not names:
        return _list_sources()
    if out is None:
        raise UserError("Say where the files go: give --out DIR.")
    manners = Manners(
        rate=_rate("--rate", rate) if rate else 0, least_speed=_rate("--least-speed", least_speed, least=0),
        timeout=timeout, retries=retries,
    )  # fmt: skip
    options = stage.DownloadOptions(
        only=tuple(only or ()), exclude=exclude, mirrors=tuple(mirror or ()), jobs=jobs, verify=verify,
        manners=manners,
    )  # fmt: skip
    sources = [load_source(name) for name in dict.fromkeys(names)]
    if dry_run:
        return _say_plan(stage.preview(sources, out, options), out)
    for source in sources:
        stage.accept_terms(source, out, partial(ask_terms, accept_terms, source.name))
    _say_outcome(stage.download(sources, out, options), sources, out)


def _rate(name: str, text: str, least: float = 1) -> float:
    """500k, 2M, 1.5G or a plain number as bytes per second; `name` is the option."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kKmMgG]?)i?[bB]?(?:/s)?", text.strip())
    rate = float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[found[2].lower()] if found else -1
    if rate < least:
        raise UserError(f"{name} {text} is not a rate: give bytes per second, such as 500k or 2M.")
    return rate


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _list_sources() -> None:
    from ffhqref.download.sources import load_source, sources

    width = min(100, shutil.get_terminal_size().columns)
    for name in sources():
        source = load_source(name)
        known = sum(file.bytes or 0 for file in source.files) + source.about_bytes
        terms = "  terms to accept" if source.terms else ""
        size = f"{'~' if source.about_bytes else ''}{_size(known)}" if known else ""
        typer.echo(f"{name:<20}{size:>9}{terms}")
        for text in (source.title, source.licence):
            typer.echo(textwrap.fill(text, width, initial_indent="    ", subsequent_indent="    "))
    typer.echo("\nUnpublished sizes are left blank. --out says where to: these are networks for a start.")
    typer.echo("Next: ffhqref download buffalo_s --out networks --accept-terms")


def _say_plan(plan: DownloadOutcome, out: Path) -> None:
    for note in plan.notes:
        typer.echo(shown(note))
    left = plan.wanted - plan.there
    unknown = f" and {plan.unknown_sizes:,} of unknown size" if plan.unknown_sizes else ""
    typer.echo(f"{plan.there:,} of {plan.wanted:,} files are in {out} ({_size(plan.bytes_there)}).")
    typer.echo(
        f"Would download or check {left:,} files: {_size(plan.bytes_wanted)}{unknown}. Nothing was written; "
        "run it without --dry-run."
    )


def _say_outcome(outcome: DownloadOutcome, sources: list[Source], out: Path) -> None:
    """What was made and what follows; UserError, so exit code 1, where files are missing."""
    for note in outcome.notes:
        typer.echo(shown(note), err=True)
    if outcome.excluded_on_disk:
        typer.echo(f"{outcome.excluded_on_disk:,} excluded files are still in {out}: delete them.", err=True)
    if outcome.missing:
        _say_missing(outcome, out)
    counts = f"{outcome.there:,} were there, {outcome.fetched:,} fetched"
    typer.echo(f"{outcome.wanted:,} files are in {out}, verified ({counts}). Next: {_next(sources, out)}")


def _next(sources: list[Source], out: Path) -> str:
    """The command that follows, as a shell takes it: a source's own, if the folder that it reads is there."""
    for source in sources:
        words = source.next.split()
        needed = [Path(word.replace("{out}", str(out))) for word in words if word.startswith("{out}/")]
        if words and all(path.exists() for path in needed):
            return " ".join(shlex.quote(word.replace("{out}", str(out))) for word in words)
    return f"ffhqref doctor {shlex.quote(str(out))}"


def _say_missing(outcome: DownloadOutcome, out: Path) -> None:
    reasons = Counter(reason for _, reason in outcome.missing)
    for path, reason in outcome.missing[:ROWS_SHOWN]:
        typer.echo(shown(f"missing  {path}  {reason}"), err=True)
    if len(outcome.missing) > ROWS_SHOWN:
        typer.echo(f"... and {len(outcome.missing) - ROWS_SHOWN:,} more; the reasons in all:", err=True)
        for reason, count in reasons.most_common(10):
            typer.echo(shown(f"{count:>7,}  {reason}"), err=True)
    raise UserError(
        f"{len(outcome.missing):,} of {outcome.wanted:,} files are missing (all in {out / 'missing.csv'}): "
        "run the same command again to fetch just these."
    )


@app.command()
def doctor(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="FOLDER", help="Folders with downloads to check.")
    ] = None,
    verify: Annotated[bool, option("Read every downloaded file again.", "--verify")] = False,
) -> None:
    """Check this machine, and say how to fix what is wrong.

    The exit code is 1 if something is wrong; what is only missing may not be needed.

    \b
    ffhqref doctor
    ffhqref doctor ffhq weights --verify
    """
    from ffhqref.doctor import examine

    verdicts: Counter[str] = Counter()
    for line in examine(folders or [], verify):
        verdicts[line.verdict] += 1
        typer.echo(shown(f"{line.verdict:<8} {line.what}: {line.finding}"))
        if line.fix:
            typer.echo(f"{'':<8} -> {line.fix}")
    counts = f"{verdicts['ok']} ok, {verdicts['missing']} missing, {verdicts['wrong']} wrong"
    if verdicts["wrong"]:
        raise UserError(f"{counts}: run the commands after the arrows.")
    typer.echo(f"{counts}. Next: ffhqref {'download' if verdicts['missing'] else 'demo --out demo-out'}")
