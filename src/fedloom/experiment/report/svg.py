"""Matplotlib figures as small inline SVG that takes its colours from the page, and as files of their own."""

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

SERIES = 8
"""Number of colours in the style sheet (`--series-0` to `--series-7`)."""

INK = "#010203"
COLOURS = [f"#0{i}0b0c" for i in range(SERIES)]
"""Placeholders, which become `currentColor` and `var(--series-N)`."""
MARKERS = "os^DvPX*<"
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
"""Line styles of the first eight series, the next eight and so on."""
WIDTH = 3.9  # inches: a phone's width, so that letters stay readable there
STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.fonttype": "none",  # real text: small, readable aloud, in the page's own font
    "text.parse_math": False,  # a dollar sign in a label is a dollar sign
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
}

_COLUMNS, _LINE = 2, 16
"""Columns and height of a saved plot's legend."""
_NUMBERS = re.compile(r'(?<= )(?:d|x|y|transform|width|height)="[^"]*"')
_GROUP = re.compile(r'<g id="((row|band|factor)-\d+)(-hidden)?">')


def colour(index: int) -> str:
    """The colour of series number `index`; they repeat."""
    return COLOURS[index % SERIES]


def marker(index: int) -> str:
    """The marker of a series; the ninth has the first one's colour and a different marker."""
    return MARKERS[(index + index // SERIES) % len(MARKERS)]


def dashes(index: int) -> str | tuple[int, tuple[float, ...]]:
    """The line style of a series; the ninth is the first dashed one."""
    return DASHES[index // SERIES % len(DASHES)]


def inline(figure: Figure, key: str, label: str | None, titles: Mapping[str, str] | None = None) -> str:
    """The figure as an inline <svg>; `label` is its alternative text (None: decoration).

    Artists with the gid `row-3`, `band-3` or `factor-3` stand in a group of this class, `band-3-hidden` unseen until the style
    sheet shows it; `titles` gives such groups a text that appears below the pointer.
    """
    canvas, buffer = FigureCanvasSVG(figure), io.StringIO()
    # a salt makes the ids, and so the page, the same every time
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": key}):
        warnings.simplefilter("ignore", UserWarning)  # matplotlib lacks a glyph: the browser draws it
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = _NUMBERS.sub(lambda m: _shorter(m.group(0)), re.sub(r">\s+<", "><", text).strip())
    text = _GROUP.sub(lambda m: _group(m, titles or {}), text)
    aimed = set(re.findall(r'(?:xlink:href="|url\()#([\w-]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m.group(0) if m.group(1) in aimed else "", text)
    text = re.sub(r' (id|xlink:href|clip-path)="(url\()?(#?)', rf' \1="\2\3{key}-', text)
    text = text.replace("xlink:href", "href").replace(INK, "currentColor")
    for i, placeholder in enumerate(COLOURS):
        text = text.replace(placeholder, f"var(--series-{i})")
    view = re.search(r'viewBox="([^"]*)"', text)
    box = view.group(1) if view else "0 0 1 1"
    role = "aria-hidden=true" if label is None else f'role=img aria-label="{html.escape(label)}"'
    width = float(box.split()[2])
    tag = f'<svg {role} viewBox="{box}" style="max-width:{width * 1.35:.0f}px">'
    return tag + text[text.index(">") + 1 :]


def standalone(svg: str, title: str = "", legend: Sequence[tuple[str, str]] = ()) -> str:
    """An inline <svg> of ours as a file: the light scheme's colours on white, with a title above and a legend below.

    `legend` has swatches (inline <svg>, too) with their names.
    """
    width, height = _size(svg)
    lines = -(-len(legend) // _COLUMNS)
    total = _LINE + height + _LINE * lines
    parts = [f'<rect y="-{_LINE}" width="{width:g}" height="{total:g}" fill="#ffffff"/>']
    parts.append(f'<text x="4" y="-5" font-size="10" font-weight="bold">{html.escape(title)}</text>')
    parts.append(svg.replace("<svg ", f'<svg width="{width:g}" height="{height:g}" ', 1))
    for i, (mark, name) in enumerate(legend):
        x, y = i % _COLUMNS * width / _COLUMNS + 4, height + _LINE * (i // _COLUMNS)
        parts.append(mark.replace("<svg ", f'<svg x="{x:g}" y="{y:g}" width="24" height="11" ', 1))
        parts.append(f'<text x="{x + 29:g}" y="{y + 9:g}" font-size="9">{html.escape(name)}</text>')
    colours = _light_colours()
    text = re.sub(r"var\((--series-\d)\)", lambda m: colours[m.group(1)], "".join(parts))
    text = re.sub(r"var\(--[\w-]+, (#[0-9a-f]{6})\)", r"\1", text)
    text = text.replace("currentColor", colours["--ink"]).replace("role=img", 'role="img"')
    text = text.replace("aria-hidden=true", 'aria-hidden="true"')
    box = f'viewBox="0 -{_LINE} {width:g} {total:g}" width="{2 * width:g}" height="{2 * total:g}"'
    plain = f'xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" fill="{colours["--ink"]}"'
    return f"<svg {plain}>{text}</svg>"


def _size(svg: str) -> tuple[float, float]:
    box = re.search(r'viewBox="([^"]*)"', svg)
    _, _, width, height = map(float, (box.group(1) if box else "0 0 1 1").split())
    return width, height


@cache
def _light_colours() -> dict[str, str]:
    """The light scheme's colours by variable, from the style sheet: `--name: light-dark(#light, #dark)`."""
    sheet = (resources.files("fedloom.experiment.report") / "templates" / "report.css").read_text("utf-8")
    return dict(re.findall(r"(--[\w-]+): light-dark\((#[0-9a-f]{6}),", sheet))


def _shorter(attribute: str) -> str:
    """An attribute's numbers with at most two decimals, on one line."""
    rounded = re.sub(
        r"-?\d+\.\d{3,}", lambda m: f"{float(m.group(0)):.2f}".rstrip("0").rstrip("."), attribute
    )
    return " ".join(rounded.split()).replace(' "', '"')


def _group(match: re.Match[str], titles: Mapping[str, str]) -> str:
    name, kind, hidden = match.groups()
    unseen = ' opacity="0"' if hidden else ""
    title = f"<title>{html.escape(titles[name])}</title>" if name in titles else ""
    return f'<g class="{kind} {name}"{unseen}>{title}'
