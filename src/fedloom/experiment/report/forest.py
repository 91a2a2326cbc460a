"""Paired differences as a plot: a row per method, a ring per seed, the mean and its interval, around zero."""

import math
from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedloom.experiment.report.axis import least_span
from fedloom.experiment.report.differences import Difference
from fedloom.experiment.report.svg import COLOURS, INK, STYLE, WIDTH, inline
from fedloom.experiment.report.units import scale_of, show_interval, show_signed
from fedloom.tasks.metrics.metric import Unit


def forest(title: str, differences: Mapping[str, Difference], unit: Unit, key: str) -> str:
    """One SVG; `differences` maps a row to its difference from the reference row, which is the line at zero."""
    shown = {row: d for row, d in differences.items() if math.isfinite(d.mean)}
    ends = [v for d in shown.values() for v in (*d.by_seed.values(), *_interval(d))]
    divisor, sign = scale_of(max(map(abs, ends), default=0.0), unit)
    values = [0.0, *(v / divisor for v in ends)]
    span = least_span(min(values), max(values), unit)
    names = [row if len(row) <= 22 else row[:21] + "…" for row in shown]
    left = 0.15 + 0.075 * max(map(len, names), default=0)
    height = 0.22 * len(shown) + 0.62
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((left / WIDTH, 0.42 / height, 0.97 - left / WIDTH, 1 - 0.6 / height))
        axes.axvline(0, color=INK, alpha=0.6, linewidth=0.8)
        for y, difference in enumerate(shown.values()):
            low, high = (end / divisor for end in _interval(difference))
            axes.plot([low, high], [y, y], color=COLOURS[0], linewidth=2.2)
            seeds = [gap / divisor for gap in difference.by_seed.values()]
            axes.plot(seeds, [y] * len(seeds), "o", color=COLOURS[1], markersize=4, markerfacecolor="none")
            axes.plot([difference.mean / divisor], [y], "D", color=COLOURS[0], markersize=5)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        margin = 0.05 * (span.high - span.low)
        axes.set_xlim(span.low - margin, span.high + margin)
        if span.note is not None:
            figure.text(left / WIDTH, 1, span.note, va="top", fontsize=8)
        axes.set_xlabel({"%": "points of %"}.get(sign, sign or "difference"))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.6)
        texts = [f"{row} {_words(d, unit)}" for row, d in shown.items()]
        return inline(figure, key, f"{title}. {'; '.join(texts)}")


def _interval(difference: Difference) -> tuple[float, float]:
    """The interval's ends, or the mean twice where there is none."""
    inside = difference.interval
    return (difference.mean, difference.mean) if inside is None else (inside.low, inside.high)


def _words(difference: Difference, unit: Unit) -> str:
    text = show_signed(difference.mean, unit)
    if (inside := difference.interval) is not None:
        text += f" {show_interval(inside.low, inside.high, unit, signed=True)}"
    return text
