"""Small inline SVG plots: curves over rounds, horizontal bars, points, heat maps.

Lines and text take their colours from the page (`currentColor`, `var(--series-N)`), for both the light and
the dark scheme. pyplot's global state is not used.
"""

import html
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedloom.experiment.report.units import Spread, scale_of, show
from fedloom.tasks.metrics.metric import Unit

SERIES = 8
"""Number of colours in the style sheet (`--series-0` to `--series-7`)."""

SPREAD_OUT = 20
"""Ratio of the most to the fewest bytes above which their axis is logarithmic."""

_INK = "#010203"
_COLOURS = [f"#0{i}0b0c" for i in range(SERIES)]
_MARKERS = "os^DvPX*<"
_WIDTH = 3.9  # inches: a phone's width, so that letters stay readable there
_STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # real text: small, readable aloud, in the page's own font
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
}


def curves(
    title: str, lines: Mapping[str, Mapping[int, Spread]], unit: Unit, key: str, x_axis: str = "round"
) -> str:
    """One SVG: a line per row over rounds, with a band of one standard deviation over seeds.

    `lines` maps a row to its mean and spread by round; values that are not finite are omitted. `key` makes the
    ids of several plots on one page unique. `x_axis` names the whole numbers on it.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.5))
        axes = figure.add_axes((0.155, 0.17, 0.825, 0.79))
        divisor, sign = _scale(lines.values(), unit)
        for i, points in enumerate(lines.values()):
            colour, marker = _COLOURS[i % SERIES], _marker(i)
            finite = {r: s for r, s in points.items() if math.isfinite(s.mean)}
            x, y = list(finite), [s.mean / divisor for s in finite.values()]
            axes.plot(x, y, color=colour, marker=marker, markersize=4, linewidth=1.6)
            if any(s.sd for s in finite.values()):
                sd = [(s.sd or 0.0) / divisor for s in finite.values()]
                low = [a - b for a, b in zip(y, sd, strict=True)]
                high = [a + b for a, b in zip(y, sd, strict=True)]
                axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel(x_axis)
        axes.set_ylabel(sign)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="y", color=_INK, alpha=0.15, linewidth=0.6)
        last = [f"{row} {show(points[max(points)], unit)}" for row, points in lines.items() if points]
        return _svg(figure, key, f"{title} over {x_axis}s; last {x_axis}: {'; '.join(last)}")


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
    with matplotlib.rc_context(_STYLE):
        height = 0.2 * sum(max(len(group), 1) + 0.5 for group in shown.values())
        names = [_short(label) for label in groups]
        # room for the labels on the left and for the figures beside the bars, both known before drawing
        left = 0.15 + 0.075 * max(map(len, names), default=0)
        right = 0.1 + 0.065 * max((len(show(s, unit)) for g in shown.values() for s in g.values()), default=0)
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_axes((left / _WIDTH, 0, 1 - (left + right) / _WIDTH, 1))
        y, ticks = 0.0, []
        for group in shown.values():
            ticks.append(y + (max(len(group), 1) - 1) / 2)
            for name, spread in group.items():
                length = spread.mean / top if math.isfinite(spread.mean) else 0.0
                axes.barh(y, length, height=0.85, color=_COLOURS[order.index(name) % SERIES])
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
        return _svg(figure, key, f"{title}. {'; '.join(texts)}")


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
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.9))
        axes = figure.add_axes((0.155, 0.16, 0.815, 0.8))
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
            axes.errorbar(
                [x],
                [y],
                xerr=[dx] if dx else None,
                yerr=[dy] if dy else None,
                color=_COLOURS[i % SERIES],
                marker=_marker(i),
                markersize=7,
                linewidth=1.2,
            )
        for i, (axis, (name, unit)) in enumerate(
            zip((axes.xaxis, axes.yaxis), (x_axis, y_axis), strict=True)
        ):
            axis.set_label_text(f"{name}, {scales[i][1]}" if scales[i][1] else name)
            if unit == "bytes":
                sent = [v / scales[i][0] for v in values[i] if v > 0]
                if sent and max(sent) > SPREAD_OUT * min(sent):
                    (axes.set_xscale if i == 0 else axes.set_yscale)("symlog", linthresh=min(sent) / 2)
                (axes.set_xlim if i == 0 else axes.set_ylim)(0, 1.3 * max(sent, default=1.0))
            elif unit == "percent":
                axis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(color=_INK, alpha=0.15, linewidth=0.6)
        texts = [
            f"{row}: {x_axis[0]} {show(x, x_axis[1])}, {y_axis[0]} {show(y, y_axis[1])}"
            for row, (x, y) in positions.items()
        ]
        return _svg(figure, key, f"{title}. {'; '.join(texts)}")


def heat(title: str, labels: Sequence[str], values: Sequence[Sequence[float]], key: str) -> str:
    """One SVG: a row of squares per label, in the first series' colour, from pale (0) to saturated (2 and more)."""
    with matplotlib.rc_context(_STYLE):
        names = [_short(label) for label in labels]
        left = 0.15 + 0.075 * max(map(len, names), default=0)
        figure = Figure(figsize=(_WIDTH, 0.2 * len(labels) + 0.1))
        axes = figure.add_axes((left / _WIDTH, 0, 1 - left / _WIDTH - 0.02, 1))
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                strength = min(max(value / 2, 0.0), 1.0)
                axes.barh(y, 0.94, left=x, height=0.9, color=_COLOURS[0], alpha=0.06 + 0.94 * strength)
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
        return _svg(figure, key, f"{title}. {'; '.join(texts)}")


def swatch(index: int, key: str, bar: bool = False) -> str:
    """The line and marker (or the bar's colour) of series number `index`, for a legend outside the plots."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(0.34, 0.16))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        colour = _COLOURS[index % SERIES]
        if bar:
            axes.barh(0.5, 1, height=1, color=colour)
        else:
            axes.plot([0.05, 0.5, 0.95], [0.5] * 3, color=colour, linewidth=1.6)
            axes.plot([0.5], [0.5], color=colour, marker=_marker(index), markersize=5)
        return _svg(figure, key, None)


def _marker(index: int) -> str:
    """The marker of a series; the ninth has the first one's colour and a different marker."""
    return _MARKERS[(index + index // SERIES) % len(_MARKERS)]


def _scale(lines: Iterable[Mapping[int, Spread]], unit: Unit) -> tuple[float, str]:
    finite = [s.mean for points in lines for s in points.values() if math.isfinite(s.mean)]
    return scale_of(max(finite, default=0.0), unit)


def _short(label: str, length: int = 22) -> str:
    return label if len(label) <= length else label[: length - 1] + "…"


def _svg(figure: Figure, key: str, label: str | None) -> str:
    """The figure as an inline <svg>; `label` is its alternative text (None: decoration)."""
    canvas, buffer = FigureCanvasSVG(figure), io.StringIO()
    # a salt makes the ids, and so the page, the same every time
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": key}):
        warnings.simplefilter("ignore", UserWarning)  # matplotlib lacks a glyph: the browser draws it
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    aimed = set(re.findall(r'(?:xlink:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in aimed else "", text)
    text = re.sub(r' (id|xlink:href|clip-path)="(url\()?(#?)', rf' \1="\2\3{key}-', text)
    text = text.replace("xlink:href", "href").replace(_INK, "currentColor")
    for i, colour in enumerate(_COLOURS):
        text = text.replace(colour, f"var(--series-{i})")
    view = re.search(r'viewBox="([^"]*)"', text)
    box = view.group(1) if view else "0 0 1 1"
    role = "aria-hidden=true" if label is None else f'role=img aria-label="{html.escape(label)}"'
    width = float(box.split()[2])
    tag = f'<svg {role} viewBox="{box}" style="max-width:{width * 1.35:.0f}px">'
    return tag + text[text.index(">") + 1 :]
