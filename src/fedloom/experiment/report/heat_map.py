"""Heat maps of a study over a grid: every row's figure, and its difference from the first row, with a table of both.

The maps are inline SVG. Text takes the page's colour and cells take `--series-0` and `--series-1`, so that both colour schemes
fit; a cell's strength is its fill's opacity, low enough for its text to stay readable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fedloom.experiment.report.differences import SAMPLES_NOTE
from fedloom.experiment.report.grid_cells import FigureGrid, Labels, grids_of
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.units import scale_of, show
from fedloom.tasks.metrics.metric import Unit, metric_of

UP, DOWN = "var(--series-0, #0b62a4)", "var(--series-1, #c2410c)"
STRONGEST = 0.6
"""Opacity of the strongest cell."""
CELL, HIGH, LEFT, TOP, LETTER = 58, 30, 12, 34, 6.4
"""Width and height of a cell, the margins around the cells, and a letter's width, in the units of the drawing."""


@dataclass(frozen=True)
class Square:
    """A cell as it is drawn: its text, its strength from -1 to 1, and whether it is marked."""

    text: str
    strength: float
    marked: bool = False


def section(study: Study) -> str:
    """The maps and tables of all grids as HTML; empty for a study without a grid."""
    grids = grids_of(study)
    return "".join(_figure_of(grid, number) for number, grid in enumerate(grids))


def _figure_of(grid: FigureGrid, number: int) -> str:
    axes = ", ".join(grid.axes)
    blocks = [f"<h3>{escape(grid.title)} by {escape(axes)}</h3>", _values(grid)]
    if grid.against is not None and len(grid.rows) > 1:
        blocks.append(_differences(grid))
    blocks.append(_tables(grid))
    return f'<div class="maps" id="map-{number}">{"".join(blocks)}</div>'


def _values(grid: FigureGrid) -> str:
    """A map per row and facet, on one scale."""
    means = [c.figure.mean for c in grid.cells.values() if c.figure is not None]
    finite = [m for m in means if math.isfinite(m)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    span = high - low or 1.0

    def squares(row: str, facet: Labels) -> list[list[Square]]:
        return [
            [
                Square("—", 0.0)
                if c.figure is None or not math.isfinite(c.figure.mean)
                else Square(short(c.figure.mean, grid.unit), 0.08 + 0.92 * (c.figure.mean - low) / span)
                for c in line
            ]
            for line in grid.of(row, facet)
        ]

    drawn = [_map(grid, row, facet, squares(row, facet), "") for row in grid.rows for facet in grid.facets]
    ends = (short(low, grid.unit), short(high, grid.unit))
    scale = _scale([(UP, 0.08 + 0.92 * i / 8) for i in range(9)], *ends, _symbol(grid.unit))
    return f"{_side_by_side(drawn)}{scale}"


def _differences(grid: FigureGrid) -> str:
    """A map per row but the reference, and facet, on one scale around zero; marked where the interval excludes zero."""
    gaps = [c.difference.mean for c in grid.cells.values() if c.difference is not None]
    most = max(map(abs, gaps), default=0.0) or 1.0
    lower = (metric := metric_of(grid.key)) is not None and metric.lower_is_better
    drawn = []
    for row in grid.rows:
        if row == grid.against:
            continue
        for facet in grid.facets:
            squares = [
                [
                    Square("—", 0.0)
                    if (gap := c.difference) is None
                    else Square(
                        _signed(gap.mean, grid.unit),
                        gap.mean / most * (-1 if lower else 1),
                        gap.verdict in ("ahead", "behind"),
                    )
                    for c in line
                ]
                for line in grid.of(row, facet)
            ]
            drawn.append(_map(grid, row, facet, squares, f"less {grid.against}"))
    colours = [(DOWN if i < 0 else UP, abs(i) / 4) for i in range(-4, 5)]
    low, high = (
        _signed(-most if not lower else most, grid.unit),
        _signed(most if not lower else -most, grid.unit),
    )
    scale = _scale(colours, low, high, _symbol(grid.unit))
    note = (
        "Framed cells: the interval of the paired difference excludes zero. "
        if any(c.difference is not None and c.difference.interval is not None for c in grid.cells.values())
        else "This figure has no samples, hence no interval, and no cell is framed. "
    )
    heading = f"<h4>Difference from {escape(str(grid.against))}</h4>"
    return f'{heading}{_side_by_side(drawn)}{scale}<p class="note">{note}{escape(SAMPLES_NOTE)}.</p>'


def _side_by_side(figures: Sequence[str]) -> str:
    return f'<div style="display:flex;flex-wrap:wrap;gap:.75rem 1.5rem">{"".join(figures)}</div>'


def _map(
    grid: FigureGrid, row: str, facet: Labels, squares: Sequence[Sequence[Square]], addition: str
) -> str:
    """One map with its caption: x along the bottom, y from the bottom up."""
    xs, ys = grid.axes[grid.x], grid.axes[grid.y]
    place = ", ".join(f"{axis} {label}" for axis, label in zip(grid.others(), facet, strict=True))
    title = ", ".join(part for part in (f"{row} {addition}".strip(), place) if part)
    left = LEFT + LETTER * max(map(len, ys)) + 12
    width, height = left + CELL * len(xs) + 4, TOP + HIGH * len(ys) + 4
    parts, told = [], []
    for up, (label, line) in enumerate(zip(ys, squares, strict=True)):
        y = HIGH * (len(ys) - 1 - up) + 2
        parts.append(_text(left - 6, y + HIGH / 2 + 4, label, "end"))
        for across, (of, square) in enumerate(zip(xs, line, strict=True)):
            x = left + CELL * across
            parts.append(_square(x, y, square))
            mark = ", interval excludes zero" if square.marked else ""
            told.append(f"{grid.x} {of}, {grid.y} {label}: {square.text}{mark}")
    bottom = HIGH * len(ys) + 2
    for across, of in enumerate(xs):
        parts.append(_text(left + CELL * (across + 0.5), bottom + 13, of, "middle"))
    parts.append(_text(left + CELL * len(xs) / 2, bottom + 28, grid.x, "middle"))
    middle = HIGH * len(ys) / 2
    parts.append(
        f'<text x="10" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 10 {middle:.0f})" font-size="11" '
        f'fill="currentColor">{escape(grid.y)}</text>'
    )
    label = f"{title}: {grid.title}. {'; '.join(told)}"
    svg = (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width * 1.2:.0f}px">{"".join(parts)}</svg>'
    )
    style = f"flex:0 1 {width * 1.2:.0f}px"
    return f'<figure style="{style}"><figcaption>{escape(title)}</figcaption>{svg}</figure>'


def _square(x: float, y: float, square: Square) -> str:
    colour = UP if square.strength >= 0 else DOWN
    opacity = STRONGEST * min(abs(square.strength), 1.0)
    frame = ' stroke="currentColor" stroke-width="2"' if square.marked else ""
    weight = ' font-weight="700"' if square.marked else ""
    return (
        f'<rect x="{x + 1.5:.1f}" y="{y + 1.5:.1f}" width="{CELL - 3}" height="{HIGH - 3}" fill="{colour}" '
        f'fill-opacity="{opacity:.3f}"{frame}/>'
        f'<text x="{x + CELL / 2:.1f}" y="{y + HIGH / 2 + 4:.1f}" text-anchor="middle" font-size="12" '
        f'fill="currentColor"{weight}>{escape(square.text)}</text>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" fill="currentColor">'
        f"{escape(text)}</text>"
    )


def _scale(colours: Sequence[tuple[str, float]], low: str, high: str, unit: str) -> str:
    """The colour scale with the figures at its ends."""
    boxes = "".join(
        f'<rect x="{14 * i}" y="0" width="14" height="14" fill="{colour}" fill-opacity="{STRONGEST * strength:.3f}"/>'
        for i, (colour, strength) in enumerate(colours)
    )
    width = 14 * len(colours)
    svg = f'<svg aria-hidden="true" viewBox="0 0 {width} 14" style="width:{width}px;max-width:none">{boxes}</svg>'
    ends = [f"{end} {unit}".strip() for end in (low, high)]
    label = f"Colour scale from {ends[0]} to {ends[1]}"
    return f'<ul class="legend" aria-label="{escape(label)}"><li>{escape(ends[0])} {svg} {escape(ends[1])}</li></ul>'


def _tables(grid: FigureGrid) -> str:
    """The same figures with their spread over seeds, and the differences with their intervals."""
    unit = f", {_symbol(grid.unit)}" if _symbol(grid.unit) else ""
    blocks = [_table(f"{grid.title}{unit}", *grid.table())]
    if grid.against is not None and len(grid.rows) > 1:
        blocks.append(
            _table(f"{grid.title}, difference from {grid.against}{unit}", *grid.table(differences=True))
        )
    return f"<details><summary>{escape(grid.title)} as a table</summary>{''.join(blocks)}</details>"


def _table(caption: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(h) or "row"}</th>' for h in header)
    body = "".join(
        f'<tr><th scope="row">{escape(line[0])}</th>{"".join(f"<td>{escape(f)}</td>" for f in line[1:])}</tr>'
        for line in lines
    )
    table = f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">{table}</div>'


def short(value: float, unit: Unit) -> str:
    """A figure in few letters, without its unit: "71.4" for percent, two significant digits for plain numbers."""
    if unit == "percent":
        return f"{100 * value:.1f}"
    if unit != "number":
        return show(value, unit)
    return "0" if value == 0 else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.3f}"


def _signed(value: float, unit: Unit) -> str:
    text = short(value, unit)
    return text if text.startswith("-") or not text.strip("0.") else f"+{text}"


def _symbol(unit: Unit) -> str:
    """The unit of the figures in cells: their own text has it already unless they are percent."""
    return scale_of(1.0, unit)[1] if unit == "percent" else ""
