"""A built dataset -> report.html, README.md and croissant.json in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ffhqref.core.store import write_text
from ffhqref.report import facts
from ffhqref.report.card import Curator, read_curator, write_card
from ffhqref.report.croissant import write_croissant
from ffhqref.report.facts import Facts
from ffhqref.report.page import ReportOptions, render
from ffhqref.report.thumbnails import Thumbnails


@dataclass(frozen=True)
class Written:
    """A report that was written: its page, photographs that could not be shown, facts still to be given."""

    path: Path
    missing: tuple[str, ...]
    to_complete: tuple[str, ...]


def write_report(out: Path, images: Path | None = None, options: ReportOptions | None = None) -> Written:
    """Write the report and the card of a built dataset into its folder; UserError where it is not built.

    `images` is the folder of the photographs; by default the one that embed recorded. Photographs that
    cannot be read are left grey, and named in the result.
    """
    known = facts.load(out, images)
    pictures = Thumbnails(known.images, known.faces)
    page = render(known, pictures, options or ReportOptions())
    curator = write_cards(known)
    write_text(out / "report.html", page)
    return Written(out / "report.html", tuple(sorted(pictures.missing)), tuple(curator.missing()))


def write_cards(known: Facts) -> Curator:
    """Write README.md and croissant.json; the curator's facts that they were written with."""
    curator = read_curator(known.out)
    write_card(known, curator)
    write_croissant(known, curator)
    return curator
