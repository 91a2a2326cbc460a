"""Small inline SVG plots: curves over rounds, horizontal bars, points, heat maps.

Lines and text take their colours from the page (`currentColor`, `var(--series-N)`), for both the light and
the dark scheme. pyplot's global state is not used.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedloom.experiment.report.axis import Span, least_span
from fedloom.experiment.report.svg import INK, SERIES, STYLE, WIDTH, colour, dashes, inline, marker
from fedloom.experiment.report.units import Spread, scale_of, show
from fedloom.tasks.metrics.metric import Unit

__all__ = ["SERIES", "bars", "curves", "heat", "points", "swatch"]

SPREAD_OUT = 20
"""Ratio of the most to the fewest bytes above which their axis is logarithmic."""
FEWEST_JOINED = 3
"""Least number of measured rounds that are joined by a line: two say nothing of the way between them."""
MOST_BANDS = 4
"""Largest number of rows with bands in sight; beyond, a band appears when its row is picked in the legend."""
SHIFTED = 0.14
"""Largest share of the axis over which marks of one round are spread."""
MANY_ROUNDS = 30
"""Number of measured rounds above which their marks are smaller."""


def curves(
    title: str,
    lines: Mapping[str, Mapping[int, Spread]],
    unit: Unit,
    key: str,
    x_axis: str = "round",
    group: str = "row",
) -> str:
    """One SVG: marks where a row was measured, joined from three rounds on, with a band of one standard deviation over seeds.

    `lines` maps a row to its mean and spread by round; values that are not finite are omitted. `key` makes the
    ids of several plots on one page unique. `x_axis` names the whole numbers on it. `group`: class of a row's marks, `row` where
    the legend picks rows, else `factor`.
    """
    finite = [{r: s for r, s in points.items() if math.isfinite(s.mean)} for points in lines.values()]
    hidden = "-hidden" * (sum(any(s.sd for s in points.values()) for points in finite) > MOST_BANDS)
    divisor, sign = _scale(lines.values(), unit)
    span = _span([v for points in finite for s in points.values() for v in _ends(s, divisor)], unit)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.5))
        axes = figure.add_axes((0.155, 0.17, 0.825, 0.79 if span.note is None else 0.73))
        shifts = _shifts(finite)
        for i, points in enumerate(finite):
            x, y = [r + shifts[i] for r in points], [s.mean / divisor for s in points.values()]
            axes.plot(
                x,
                y,
                color=colour(i),
                marker=marker(i),
                markersize=4 if len(x) <= MANY_ROUNDS else 2,
                linestyle=dashes(i) if len(x) >= FEWEST_JOINED else "none",
                linewidth=1.6,
                gid=f"{group}-{i}",
            )
            if any(s.sd for s in points.values()):
                low, high = zip(*(_ends(s, divisor) for s in points.values()), strict=True)
                gid = f"band-{i}{hidden}" if group == "row" else None
                band: dict[str, Any] = {"color": colour(i), "gid": gid}
                if len(x) >= FEWEST_JOINED:
                    axes.fill_between(x, low, high, alpha=0.18, linewidth=0, **band)
                else:
                    axes.vlines(x, low, high, alpha=0.5, linewidth=3, **band)
        if span.note is not None:
            axes.set_ylim(span.low, span.high)
            figure.text(0.155, 0.975, span.note, va="top", fontsize=8)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(sign)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=unit == "count"))
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
        ends = [f"{row} {show(points[max(points)], unit)}" for row, points in lines.items() if points]
        titles = dict(zip((f"{group}-{i}" for i, p in enumerate(lines.values()) if p), ends, strict=True))
        label = f"{title} over {x_axis}s; last {x_axis}: {'; '.join(ends)}"
        return inline(figure, key, label, titles)


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, Spread | None]],
    unit: Unit,
    key: str,
    series: Sequence[str] | None = None,
) -> str:
    """One SVG: a group of horizontal bars per label, one bar per series, each with its value.

    `series` orders the colours (default: order of appearance). Bars with the value None are omitted.
    """
    order = list(series or dict.fromkeys(name for group in groups.values() for name in group))
    shown = {label: {n: s for n, s in group.items() if s is not None} for label, group in groups.items()}
    means = [s.mean for group in shown.values() for s in group.values() if math.isfinite(s.mean)]
    top = 1.0 if unit == "percent" else max(means, default=0.0) or 1.0
    with matplotlib.rc_context(STYLE):
        height = 0.2 * sum(max(len(group), 1) + 0.5 for group in shown.values())
        names = [_short(label) for label in groups]
        # room for the labels on the left and for the figures beside the bars, both known before drawing
        left = 0.15 + 0.075 * max(map(len, names), default=0)
        right = 0.1 + 0.065 * max((len(show(s, unit)) for g in shown.values() for s in g.values()), default=0)
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((left / WIDTH, 0, 1 - (left + right) / WIDTH, 1))
        y, ticks = 0.0, []
        for group in shown.values():
            ticks.append(y + (max(len(group), 1) - 1) / 2)
            for name, spread in group.items():
                length = spread.mean / top if math.isfinite(spread.mean) else 0.0
                axes.barh(y, length, height=0.85, color=colour(order.index(name)))
                axes.text(length + 0.02, y, show(spread, unit), va="center", fontsize=8)
                y += 1
            y += 0.5 + (not group)
        axes.set_yticks(ticks, names)
        axes.set_xlim(0, 1.0)
        axes.set_ylim(y - 0.5, -0.75)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        texts = [
            f"{label}: " + ", ".join(f"{name} {show(spread, unit)}" for name, spread in group.items())
            for label, group in shown.items()
        ]
        return inline(figure, key, f"{title}. {'; '.join(texts)}")


def points(
    title: str,
    positions: Mapping[str, tuple[Spread, Spread]],
    x_axis: tuple[str, Unit],
    y_axis: tuple[str, Unit],
    key: str,
) -> str:
    """One SVG: a point per row, with a bar of one standard deviation over seeds in either direction.

    `positions` maps a row to its (x, y); an axis is (title, unit). Axes of bytes begin at zero and are logarithmic if the values
    are far apart.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.9))
        axes = figure.add_axes((0.155, 0.16, 0.815, 0.76))
        notes = []
        values = [
            [pair[i].mean for pair in positions.values() if math.isfinite(pair[i].mean)] for i in (0, 1)
        ]
        scales = [scale_of(max(v, default=0.0), a[1]) for v, a in zip(values, (x_axis, y_axis), strict=True)]
        for i, pair in enumerate(positions.values()):
            if not all(math.isfinite(s.mean) for s in pair):
                continue
            (x, dx), (y, dy) = (
                (s.mean / divisor, (s.sd or 0.0) / divisor)
                for s, (divisor, _) in zip(pair, scales, strict=True)
            )
            drawn, caps, spreads = axes.errorbar(
                [x],
                [y],
                xerr=[dx] if dx else None,
                yerr=[dy] if dy else None,
                color=colour(i),
                marker=marker(i),
                markersize=7,
                linewidth=1.2,
            )
            for artist in (drawn, *caps, *spreads):
                artist.set_gid(f"row-{i}")
        for i, (axis, (name, unit)) in enumerate(
            zip((axes.xaxis, axes.yaxis), (x_axis, y_axis), strict=True)
        ):
            axis.set_label_text(f"{name}, {scales[i][1]}" if scales[i][1] else name)
            if unit == "bytes":
                sent = [v / scales[i][0] for v in values[i] if v > 0]
                if sent and max(sent) > SPREAD_OUT * min(sent):
                    (axes.set_xscale if i == 0 else axes.set_yscale)("symlog", linthresh=min(sent) / 2)
                    axis.set_major_formatter(_from(min(sent)))
                (axes.set_xlim if i == 0 else axes.set_ylim)(0, 1.3 * max(sent, default=1.0))
            elif unit == "percent":
                axis.set_major_locator(MaxNLocator(nbins=5))
                ends = [e for pair in positions.values() for e in _ends(pair[i], scales[i][0])]
                span = _span([e for e in ends if math.isfinite(e)], unit)
                if span.note is not None:
                    (axes.set_xlim if i == 0 else axes.set_ylim)(span.low, span.high)
                    notes.append(span.note.replace("this axis", f"the {'xy'[i]} axis"))
        figure.text(0.155, 0.98, "\n".join(notes), va="top", fontsize=8)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
        texts = [
            f"{row}: {x_axis[0]} {show(x, x_axis[1])}, {y_axis[0]} {show(y, y_axis[1])}"
            for row, (x, y) in positions.items()
        ]
        titles = {f"row-{i}": text for i, text in enumerate(texts)}
        return inline(figure, key, f"{title}. {'; '.join(texts)}", titles)


def heat(title: str, labels: Sequence[str], values: Sequence[Sequence[float]], key: str) -> str:
    """One SVG: a row of squares per label, in the first series' colour, from pale (0) to saturated (2 and more)."""
    with matplotlib.rc_context(STYLE):
        names = [_short(label) for label in labels]
        left = 0.15 + 0.075 * max(map(len, names), default=0)
        figure = Figure(figsize=(WIDTH, 0.2 * len(labels) + 0.1))
        axes = figure.add_axes((left / WIDTH, 0, 1 - left / WIDTH - 0.02, 1))
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                strength = min(max(value / 2, 0.0), 1.0)
                axes.barh(y, 0.94, left=x, height=0.9, color=colour(0), alpha=0.06 + 0.94 * strength)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, max(map(len, values), default=1))
        axes.set_xticks([])
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        texts = [
            f"{label}: {', '.join(f'{v:.2f}' for v in row)}"
            for label, row in zip(labels, values, strict=True)
        ]
        return inline(figure, key, f"{title}. {'; '.join(texts)}")


def swatch(index: int, key: str, bar: bool = False) -> str:
    """The line and marker (or the bar's colour) of series number `index`, for a legend outside the plots."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(0.34, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        if bar:
            axes.barh(0.5, 1, height=1, color=colour(index))
        else:
            axes.plot([0.05, 0.95], [0.5, 0.5], color=colour(index), linewidth=1.6, linestyle=dashes(index))
            axes.plot([0.5], [0.5], color=colour(index), marker=marker(index), markersize=5)
        return inline(figure, key, None)


def _scale(lines: Iterable[Mapping[int, Spread]], unit: Unit) -> tuple[float, str]:
    finite = [s.mean for points in lines for s in points.values() if math.isfinite(s.mean)]
    return scale_of(max(finite, default=0.0), unit)


def _short(label: str, length: int = 22) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _shifts(lines: Sequence[Mapping[int, Spread]]) -> list[float]:
    """Small shifts of rows along the rounds, so that marks without lines do not cover each other; zero where there are lines."""
    rounds = [r for points in lines for r in points]
    if not rounds or any(len(points) >= FEWEST_JOINED for points in lines):
        return [0.0] * len(lines)
    step = min(0.02, SHIFTED / len(lines)) * (max(rounds) - min(rounds))
    return [(i - (len(lines) - 1) / 2) * step for i in range(len(lines))]


def _from(least: float) -> Callable[[float, float], str]:
    """Labels of zero and of values from `least` on; a logarithmic scale's own are TeX, and too close below."""
    return lambda value, _: f"{value:g}" if value == 0 or value >= least else ""


def _ends(spread: Spread, divisor: float) -> tuple[float, float]:
    """Mean less and plus one standard deviation, in the displayed unit."""
    sd = spread.sd or 0.0
    return (spread.mean - sd) / divisor, (spread.mean + sd) / divisor


def _span(values: Sequence[float], unit: Unit) -> Span:
    """The span of an axis for these displayed values."""
    return least_span(min(values, default=0.0), max(values, default=1.0), unit)
