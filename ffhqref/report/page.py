"""The report: sections into one self-contained page."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ffhqref import __version__
from ffhqref.core.images import find, png_name
from ffhqref.core.store import UserError, below
from ffhqref.core.terminal import shown
from ffhqref.report import answers, doubts, labels, scores, views
from ffhqref.report.doubts import Doubt
from ffhqref.report.facts import Facts
from ffhqref.report.thumbnails import Thumbnails, of_file
from ffhqref.report.views import Row, Shown
from ffhqref.restore.run import restored_folder

TEMPLATES = Path(__file__).parent / "templates"
MOST_DOUBTS, MOST_PHOTOS, MOST_RESTORED = 30, 4, 6  # shown; photos are those of a side
LIBRARIES = ("numpy", "faiss-cpu", "onnxruntime", "insightface", "opencv-python", "pyarrow")


@dataclass(frozen=True)
class ReportOptions:
    """What a report shows. `gallery` counts targets; `label_accuracy` is how often labels are right."""

    gallery: int = 24
    seed: int = 0
    labels: Path | None = None
    label_accuracy: float | None = None


@dataclass(frozen=True)
class ShownDoubt:
    """A doubt as the page shows it."""

    title: str
    why: str
    gain: float
    left: Row
    right: Row


@dataclass(frozen=True)
class Restored:
    """A low-quality picture, what was restored of it, and the target, each inside an address."""

    name: str
    pictures: tuple[tuple[str, str | None], ...]


def render(known: Facts, pictures: Thumbnails, options: ReportOptions) -> str:
    """The whole page as text; UserError where an option is out of range."""
    if not 1 <= options.gallery <= 200:
        raise UserError(f"--gallery {options.gallery}: give a number of targets from 1 to 200.")
    found = answers.unanswered(known, doubts.find(known))
    doubtful = [show_doubt(known, doubt) for doubt in found[:MOST_DOUBTS]]
    gallery, copies = views.gallery(known, options.seed, options.gallery), views.copies(known)
    rows = [*gallery, *copies.rows, *(row for d in doubtful for row in (d.left, d.right))]
    pictures.prepare(photo.name for row in rows for photo in row.photos)
    statuses, left_out, more_left_out = views.left_out(known)
    measured = scores.scores(known, options.seed)
    page: str = environment().get_template("report.html").render(
        facts=known, address=pictures.address, summary=views.summary(known), numbers=views.numbers(known),
        references=views.reference_charts(known), similarity=views.similarity_chart(known, options.seed),
        sizes=views.sizes_chart(known), doubts=doubtful, doubt_count=len(found),
        expected=sum(doubt.gain for doubt in found), gallery=gallery, quality=views.quality_charts(known),
        levels=views.degradation_charts(known), restored=list(restored(known)), copies=copies,
        labels=labels.charts(known, options.labels, options.label_accuracy), scores=measured,
        score_charts=scores.charts(measured), curves=scores.curves(known.out, known.scores),
        verdicts=views.verdict_counts(known), waiting=known.waiting, statuses=statuses, left_out=left_out,
        more_left_out=more_left_out, crossing=views.crossing(known), recipe=recipe_text(known),
        versions=versions(), command=f"ffhqref report {known.out}",
    )  # fmt: skip
    return page


def environment(escape: bool = True) -> Any:
    """Jinja2 that escapes everything it is not told is markup; an undefined name is an error.

    Without `escape` it makes Markdown, in which the filter `plain` keeps a text from being markup.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        autoescape=escape, undefined=StrictUndefined, loader=FileSystemLoader(TEMPLATES), trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    filters: dict[str, Callable[..., str]] = {
        "shown": shown,
        "number": lambda value: f"{value:,}",
        "plain": plain,
    }
    made.filters.update(filters)
    return made


def plain(text: str) -> str:
    """A user's text as a line of Markdown that is text alone: no tags, links, tables or line ends in it."""
    return re.sub(r"([\\<>\[\]|*])", r"\\\1", shown(" ".join(text.split())))


def show_doubt(known: Facts, doubt: Doubt, most: int = MOST_PHOTOS) -> ShownDoubt:
    """A doubt with the photos of its sides, the doubtful pair first."""
    left = _side(known, doubt.left, doubt.left_side, most)
    right = _side(known, doubt.right, doubt.right_side, most)
    title = "One person?" if doubt.together else "Two people?"
    return ShownDoubt(title, doubts.why(doubt, known.distance), doubt.gain, left, right)


def _side(known: Facts, first: int, side: Sequence[int], most: int) -> Row:
    order = [first, *(at for at in side if at != first)]
    photos = tuple(Shown(known.faces.names[at]) for at in order[:most])
    return Row(known.identity[first], known.split[first], photos, max(len(order) - most, 0))


def restored(known: Facts) -> Iterator[Restored]:
    """The first restored test pictures of each level: low quality, restored (alone too), target."""
    for folder in sorted((known.out / "test_images").glob("*_degrad")):
        level = folder.name.removesuffix("_degrad")
        places = {"with references": restored_folder(known.out, level)}
        places["without"] = places["with references"].with_name(f"{level}-alone")
        if not any(place.is_dir() for place in places.values()):
            continue
        names = [
            name for name in known.mapping["test"] if (places["with references"] / png_name(name)).is_file()
        ]
        for name in names[:MOST_RESTORED]:
            files = {f"{level} low quality": folder, **{k: v for k, v in places.items() if v.is_dir()}}
            found = [(what, of_file(below(place, png_name(name)))) for what, place in files.items()]
            target = of_file(find(known.images, name))
            yield Restored(name, (*found, ("target", target)))


def recipe_text(known: Facts) -> str:
    from ffhqref.core.recipe import to_toml

    return to_toml(known.recipe)


def versions() -> dict[str, str]:
    """The libraries that the numbers depend on."""
    found = {"ffhqref": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
