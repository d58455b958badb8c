"""Numbers -> SVG that stands in the page: text stays text, and colours follow the page's light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ffhqref.core.arrays import Float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What matplotlib draws with stands for a variable of the page's style sheet.
INK, MUTED, LINE = "#010101", "#020202", "#030303"
FIRST, SECOND, THIRD, MARK = "#040404", "#050505", "#060606", "#070707"
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", FIRST: "--first", SECOND: "--second", THIRD: "--third",
    MARK: "--mark",
}  # fmt: skip
STYLE: Any = {
    "svg.fonttype": "none", "font.size": 10, "axes.edgecolor": LINE, "axes.labelcolor": MUTED,
    "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED, "axes.spines.top": False,
    "axes.spines.right": False, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False, "xtick.major.size": 3, "ytick.major.size": 3, "axes.axisbelow": True,
    "grid.color": LINE, "grid.linewidth": 0.5,
}  # fmt: skip


WIDE, NARROW = 5.4, 3.6  # inches: a chart that stands alone, one of several in a row
LEFT_OUT = {"Date": None, "Creator": None, "Format": None, "Type": None}  # of an SVG's metadata


@dataclass(frozen=True)
class Chart:
    """An SVG for the page; `label` says in words what it shows, for those who do not see it."""

    svg: str
    label: str


def _canvas(
    key: str, label: str, draw: Callable[[list[Axes]], None], *, rows: int = 1, columns: int = 1,
    width: float = WIDE, height: float = 2.5,
) -> Chart:  # fmt: skip
    """Draw on axes in rows; `key` makes the ids of one chart differ from all others'. Sizes are inches."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "svg.hashsalt": key}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = [figure.add_subplot(rows, columns, place + 1) for place in range(rows * columns)]
        for one in axes:
            one.grid(True, axis="y")
        draw(axes)
        return Chart(_to_svg(figure, key), label)


def _to_svg(figure: Figure, key: str) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=LEFT_OUT)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'\b(id="|url\(#|xlink:href="#)', rf"\g<1>{key}-", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    svg = re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"',
        'class="chart" aria-hidden="true" focusable="false"',
        svg,
        count=1,
    )
    return re.sub(r"\n\s*", "\n", svg)


def references_per_target(split: str, counts: Sequence[int]) -> Chart:
    """How many targets of a split have 1, 2, ... 9, 10 and more references (the paper's Figure 8)."""

    def draw(axes: list[Axes]) -> None:
        axes[0].bar(range(1, 11), counts, color=FIRST, width=0.8)
        axes[0].set_xticks(range(1, 11), [*map(str, range(1, 10)), "10+"])
        axes[0].set_title(f"{split}: {sum(counts):,} targets")
        axes[0].set_xlabel("references")
        axes[0].set_ylabel("targets")
        _whole_numbers(axes[0])

    words = f"{split}: targets with 1, 2, up to 9, and 10 or more references: {', '.join(map(str, counts))}."
    return _canvas(f"refs-{split}", words, draw, width=NARROW, height=2.3)


def similarities(same: Float64, different: Float64, marks: Mapping[str, float]) -> Chart:
    """Histograms of the similarity of pairs of one person and of two, log counts, with lines at `marks`."""

    def draw(axes: list[Axes]) -> None:
        axis = axes[0]
        bins = np.linspace(-0.4, 1.0, 71).tolist()
        for values, colour, name in ((different, SECOND, "two people"), (same, FIRST, "one person")):
            if len(values):
                axis.hist(
                    values, bins=bins, color=colour, alpha=0.75, label=f"{name} ({len(values):,} pairs)"
                )
        axis.set_yscale("log")
        for name, value in marks.items():
            axis.axvline(value, color=MARK, linewidth=1.4, linestyle="--")
            axis.text(
                value, 1.02, name, color=MARK, fontsize=8, ha="center", transform=axis.get_xaxis_transform()
            )
        axis.set_xlabel("cosine similarity (1 - distance)")
        axis.set_ylabel("pairs")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=9, labelcolor=INK)

    def middle(values: Float64) -> str:
        return f"median {np.median(values):.2f} of {len(values):,} pairs" if len(values) else "no pairs"

    label = f"Similarity of photos. One person: {middle(same)}. Two people: {middle(different)}. Lines: "
    return _canvas(
        "sims", label + ", ".join(f"{k} at {v:g}" for k, v in marks.items()) + ".", draw, height=3.2
    )


def histogram(
    key: str, values: Sequence[float] | Float64, name: str, what: str, *, log: bool = False
) -> Chart:
    """One histogram. `what` is counted, `name` is along the axis."""
    data = np.asarray(values, np.float64)

    def draw(axes: list[Axes]) -> None:
        axes[0].hist(data, bins=min(40, max(8, len(np.unique(data)))), color=FIRST, log=log)
        axes[0].set_xlabel(name)
        axes[0].set_ylabel(what)
        if not log:
            _whole_numbers(axes[0])

    low, mid, high = np.percentile(data, [5, 50, 95]) if len(data) else (0, 0, 0)
    label = f"{name}: median {mid:.4g}, nine in ten from {low:.4g} to {high:.4g}, of {len(data):,} {what}."
    return _canvas(key, label, draw, width=NARROW, height=2.2)


def sizes_of_people(counts: Mapping[int, int]) -> Chart:
    """How many people have a number of photos."""

    def draw(axes: list[Axes]) -> None:
        axis = axes[0]
        axis.bar(list(counts), list(counts.values()), color=FIRST, width=0.8)
        if max(counts.values()) > 30:  # so that a few large people can be seen beside very many small ones
            axis.set_yscale("symlog", linthresh=1)
            ticks = [10**k for k in range(6) if 10**k <= 2 * max(counts.values())]
            axis.set_yticks(ticks, [f"{tick:,}" for tick in ticks])
        else:
            _whole_numbers(axis)
        axis.set_xlabel("photos of one person")
        axis.set_ylabel("people")
        axis.minorticks_off()
        _whole_numbers(axis, "x")

    words = ", ".join(f"{n:,} with {size}" for size, n in list(counts.items())[:12])
    return _canvas("sizes", f"People by number of photos: {words}.", draw, height=2.4)


def drawn_ranges(
    key: str, level: str, drawn: Mapping[str, Float64], ranges: Mapping[str, tuple[float, float]]
) -> Chart:
    """Degradation parameters that were drawn, with the ends of the range that they were drawn from."""

    def draw(axes: list[Axes]) -> None:
        for axis, (name, values) in zip(axes, drawn.items(), strict=True):
            axis.hist(values, bins=16, color=FIRST)
            axis.set_xlabel(name, fontsize=9)
            _whole_numbers(axis)
            for end in ranges.get(name, ()):
                axis.axvline(end, color=MARK, linewidth=1.4, linestyle="--")
        axes[0].set_ylabel("images")
        axes[2].set_ylabel("images")

    words = "; ".join(
        f"{name} from {values.min():.3g} to {values.max():.3g}"
        + (f" of the range {ranges[name][0]:g} to {ranges[name][1]:g}" if name in ranges else "")
        for name, values in drawn.items()
    )
    return _canvas(key, f"Level {level}, as drawn: {words}.", draw, rows=2, columns=2, height=3.2)


def intervals(key: str, rows: Sequence[tuple[str, float, float, float]], axis_name: str) -> Chart:
    """A dot and a line for each (name, value, low, high)."""

    def draw(axes: list[Axes]) -> None:
        axis, places = axes[0], np.arange(len(rows))[::-1]
        axis.grid(True, axis="x")
        axis.grid(False, axis="y")
        for place, (_, value, low, high) in zip(places, rows, strict=True):
            axis.plot(
                [low, high], [place, place], color=FIRST, linewidth=4, alpha=0.45, solid_capstyle="butt"
            )
            axis.plot([value], [place], "o", color=FIRST, markersize=5)
        axis.set_yticks(places, [row[0] for row in rows], color=INK)
        axis.set_ylim(-0.6, len(rows) - 0.4)
        axis.set_xlabel(axis_name)

    words = "; ".join(f"{name} {value:.3g}, from {low:.3g} to {high:.3g}" for name, value, low, high in rows)
    return _canvas(key, f"{axis_name}: {words}.", draw, height=0.7 + 0.28 * len(rows))


def _whole_numbers(axis: Axes, which: str = "y") -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    chosen = axis.yaxis if which == "y" else axis.xaxis
    chosen.set_major_locator(MaxNLocator(nbins=4 if which == "y" else 10, integer=True))
    chosen.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
