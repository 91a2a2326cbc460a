"""Tables and plots of the page: text, inline SVG, and both as files to save."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import quote

from fedloom.experiment.report import csv_text, plots
from fedloom.experiment.report.svg import standalone
from fedloom.experiment.report.units import Spread
from fedloom.tasks.metrics.metric import Unit

_PLAIN = "/:;,=-.!?&*+@$ '"
"""Characters that stay as they are in a data: link between double quotes."""


@dataclass(frozen=True)
class Grid:
    """A table of text; the first field of each line is its header."""

    caption: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True)
class File:
    """A file to save from the page: its name, and its content as a data: link."""

    name: str
    link: str


@dataclass(frozen=True)
class Plot:
    """A titled inline SVG (our own markup, escaped where it holds text), and its figures as CSV, if any.

    `legend`: names of the series in the order of their colours, which a saved plot shows; `bars`: whether they are bars.
    """

    title: str
    svg: str
    csv: str = ""
    legend: Sequence[str] = ()
    bars: bool = False

    @property
    def files(self) -> list[File]:
        """The plot to save, as SVG and, with its figures, as CSV."""
        named = [(_swatch(i, self.bars), name) for i, name in enumerate(self.legend)]
        text = standalone(self.svg, self.title, named)
        drawn = File(f"{_slug(self.title)}.svg", _link(text, "image/svg+xml"))
        return [drawn, csv_file(self.title, self.csv)] if self.csv else [drawn]


def csv_file(title: str, text: str) -> File:
    """CSV to save, under a name made of a title."""
    return File(f"{_slug(title)}.csv", _link(text, "text/csv;charset=utf-8"))


def curves(
    title: str,
    lines: Mapping[str, Mapping[int, Spread]],
    unit: Unit,
    key: str,
    x_axis: str = "round",
    group: str = "row",
    *,
    name: str | None = None,
) -> Plot:
    """`plots.curves` with its figures; `name` stands above the plot, else the title."""
    svg = plots.curves(title, lines, unit, key, x_axis, group)
    return Plot(name or title, svg, csv_text.of_curves(lines, x_axis), list(lines))


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, Spread | None]],
    unit: Unit,
    key: str,
    series: Sequence[str] | None = None,
    *,
    name: str | None = None,
) -> Plot:
    """`plots.bars` with its figures."""
    names = list(series or dict.fromkeys(name for group in groups.values() for name in group))
    svg = plots.bars(title, groups, unit, key, names)
    return Plot(name or title, svg, csv_text.of_bars(groups), names if len(names) > 1 else (), bars=True)


def points(
    title: str,
    positions: Mapping[str, tuple[Spread, Spread]],
    x_axis: tuple[str, Unit],
    y_axis: tuple[str, Unit],
    key: str,
) -> Plot:
    """`plots.points` with its figures."""
    svg = plots.points(title, positions, x_axis, y_axis, key)
    return Plot(title, svg, csv_text.of_points(positions, x_axis[0], y_axis[0]), list(positions))


@cache
def _swatch(index: int, bar: bool) -> str:
    return plots.swatch(index, f"saved{index}", bar)


def _slug(title: str) -> str:
    return re.sub(r"\W+", "-", title).strip("-").lower()[:80] or "figure"


def _link(text: str, kind: str) -> str:
    return f"data:{kind},{quote(text, safe=_PLAIN)}"
