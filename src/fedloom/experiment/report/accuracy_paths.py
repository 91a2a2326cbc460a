"""Paths of image classification over the rounds: base against novel accuracy, and local against novel, with settled rows named.

A row has settled when none of its accuracies, as a mean over seeds, moves by more than SETTLED in the last quarter of its rounds.
The plots are inline SVG in the page's colours.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, linear_regression

from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.read import Run

At = Callable[[float, float], tuple[float, float]]
"""Two accuracies in percent to a place in the drawing."""
SETTLED = 0.01
QUARTER = 0.75
LOCAL, BASE, NOVEL = (f"{name}/image/accuracy" for name in ("local", "base", "novel"))
SERIES = 8
SIDE, LEFT, BOTTOM, RIGHT, TOP = 300, 46, 40, 12, 10
WIDTH, HEIGHT = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
SHAPES = (
    '<circle r="{r}"/>',
    '<rect x="-{r}" y="-{r}" width="{d}" height="{d}"/>',
    '<path d="M0 -{r}L{r} {r}L-{r} {r}Z"/>',
    '<path d="M0 -{b}L{b} 0L0 {b}L-{b} 0Z"/>',
    '<path d="M0 {r}L{r} -{r}L-{r} -{r}Z"/>',
)


@dataclass(frozen=True)
class Path:
    """A row's mean accuracies by round."""

    row: str
    rounds: Mapping[int, Mapping[str, float]]

    @property
    def last_quarter(self) -> list[int]:
        """The evaluated rounds of the last quarter, with the last one before it."""
        last = max(self.rounds)
        before = [r for r in self.rounds if r <= QUARTER * last]
        return [*before[-1:], *(r for r in self.rounds if r > QUARTER * last)]

    def drift(self) -> dict[str, float] | None:
        """The range of each accuracy over the last quarter; None for a row without rounds in it."""
        if len(self.last_quarter) < 2:
            return None
        values = [self.rounds[r] for r in self.last_quarter]
        return {key: max(v[key] for v in values) - min(v[key] for v in values) for key in values[0]}

    def trend(self, key: str) -> float:
        """The change of the least-squares line of an accuracy over the last quarter: its way, without its ups and downs."""
        rounds = self.last_quarter
        line = linear_regression(rounds, [self.rounds[r][key] for r in rounds])
        return line.slope * (rounds[-1] - rounds[0])

    @property
    def settled(self) -> bool | None:
        """Whether the row has settled; None where its rounds cannot tell, as for a row that is not trained."""
        drift = self.drift()
        return None if drift is None else max(drift.values()) <= SETTLED + 1e-9


def paths_of(study: Study) -> list[Path]:
    """The path of every row with both base and novel accuracy; means over its seeds, at rounds that all of them have."""
    paths = []
    for row, runs in study.rows.items():
        if runs and (rounds := _means(runs)):
            paths.append(Path(row, rounds))
    return paths


def _means(runs: Sequence[Run]) -> dict[int, dict[str, float]]:
    series = {key: [run.series(key) for run in runs] for key in (LOCAL, BASE, NOVEL)}
    known = [set(one) for of_key in series.values() for one in of_key]
    common = sorted(set.intersection(*known))
    return {r: {key: fmean(one[r] for one in of_key) for key, of_key in series.items()} for r in common}


def drawn(study: Study) -> dict[str | None, list[Path]]:
    """The paths of each part in which several rows have one and some row was evaluated in three rounds."""
    of_part = {across: paths_of(part) for across, part in study.parts().items()}
    return {
        across: paths
        for across, paths in of_part.items()
        if len(paths) > 1 and any(len(path.rounds) > 2 for path in paths)
    }


def section(study: Study) -> str:
    """Plots, legend, verdict and table of each part as HTML; empty where nothing is drawn."""
    parts = []
    for across, paths in drawn(study).items():
        heading = "" if across is None else f"<h3>{escape(across)}</h3>"
        plots = _plot(paths, "base", across) + _plot(paths, "local", across)
        row = f'<div style="display:flex;flex-wrap:wrap;gap:1rem">{plots}</div>'
        settled, sentence = verdict(paths)
        said = f'<p class="{"note" if settled else "warning"}">{escape(sentence)}</p>'
        parts.append(heading + row + _legend(paths) + said + _table(paths, across))
    note = (
        '<p class="note">A point per evaluated round, from the hollow one before training to the large one at the end; means '
        "over seeds. Thin lines join points of equal harmonic mean of the two accuracies. A row that has not begun to move stays "
        "within a point, too.</p>"
    )
    return "".join([*parts, note]) if parts else ""


def verdict(paths: Sequence[Path]) -> tuple[bool, str]:
    """Whether every row has settled, and a sentence on who has not."""
    moving = []
    for path in paths:
        drift = path.drift()
        if drift is not None and not path.settled:
            key = max(drift, key=lambda name: drift[name])
            # 1.04 is not within a point, and 1.0 would be.
            digits = 1 if round(drift[key], 3) > SETTLED else 2
            moved = f"{100 * drift[key]:.{digits}f}, its fitted line by {100 * path.trend(key):+.1f}"
            moving.append(f"{path.row} ({key.partition('/')[0]} moves by {moved})")
    rule = "within a point in every accuracy during the last quarter of its rounds, as a mean over the seeds"
    if not moving:
        return True, f"Every trained row has settled: {rule}."
    return False, f"Not settled: {', '.join(moving)}. Settled is a row that stays {rule}."


def _plot(paths: Sequence[Path], x_name: str, across: str | None) -> str:
    title = title_of(x_name, across)
    return (
        f'<figure style="flex:0 1 {1.25 * WIDTH:.0f}px"><figcaption>{escape(title)}</figcaption>'
        f"{plot(paths, x_name, across)}</figure>"
    )


def title_of(x_name: str, across: str | None) -> str:
    """A plot's title."""
    return f"{x_name} against novel accuracy" + ("" if across is None else f", {across}")


def plot(paths: Sequence[Path], x_name: str, across: str | None) -> str:
    """The inline SVG of `x_name` (base or local) against novel accuracy."""
    x_key = {"base": BASE, "local": LOCAL}[x_name]
    values = [100 * v[key] for path in paths for v in path.rounds.values() for key in (x_key, NOVEL)]
    low, high = 5 * (min(values) // 5), 5 * -(-max(values) // 5)
    low, high = (low - 5, high + 5) if high - low < 10 else (low, high)

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + SIDE * (x - low) / (high - low), TOP + SIDE * (high - y) / (high - low)

    parts = [_axes(low, high, at, x_name), *(_contour(h, low, high, at) for h in _ticks(low, high))]
    for i, path in enumerate(paths):
        points = {r: at(100 * v[x_key], 100 * v[NOVEL]) for r, v in path.rounds.items()}
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points.values())
        colour = f"var(--series-{i % SERIES})"
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        for r, (x, y) in points.items():
            size = 5.5 if r == max(points) else 3
            hollow = r == 0 and len(points) > 1
            parts.append(_mark(i, size, colour, hollow, f"translate({x:.1f} {y:.1f})"))
    ends = [
        f"{path.row}: {x_name} {100 * path.rounds[max(path.rounds)][x_key]:.1f} %, "
        f"novel {100 * path.rounds[max(path.rounds)][NOVEL]:.1f} %"
        for path in paths
    ]
    label = f"{title_of(x_name, across)} over the rounds; last round: {'; '.join(ends)}"
    return (
        f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'style="max-width:{1.25 * WIDTH:.0f}px">{"".join(parts)}</svg>'
    )


def _axes(low: float, high: float, at: At, x_name: str) -> str:
    parts = []
    for tick in _ticks(low, high):
        x, _ = at(tick, low)
        _, y = at(low, tick)
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + SIDE + 15}" text-anchor="middle" font-size="11" fill="currentColor">{tick:g}</text>'
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="11" fill="currentColor">{tick:g}</text>'
        )
    frame = f'<rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}" fill="none" stroke="currentColor" stroke-opacity="0.4"/>'
    names = (
        f'<text x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 33}" text-anchor="middle" font-size="12" fill="currentColor">'
        f"{escape(x_name)} %</text>"
        f'<text x="12" y="{TOP + SIDE / 2}" text-anchor="middle" font-size="12" fill="currentColor" '
        f'transform="rotate(-90 12 {TOP + SIDE / 2})">novel %</text>'
    )
    return "".join([frame, *parts, names])


def _ticks(low: float, high: float) -> list[float]:
    step = 5 if high - low <= 30 else 10 if high - low <= 60 else 20
    first = -(-low // step) * step
    return [first + step * i for i in range(int((high - first) // step) + 1)]


def _contour(mean: float, low: float, high: float, at: At) -> str:
    """The points (x, y) with 2 / (1/x + 1/y) = mean, inside the frame."""
    points = []
    for i in range(101):
        x = low + (high - low) * i / 100
        if 2 * x > mean and low <= (y := mean * x / (2 * x - mean)) <= high:
            points.append(at(x, y))
    if len(points) < 2:
        return ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = at(mean, mean)
    label = f'<text x="{x + 3:.1f}" y="{y - 3:.1f}" font-size="9" fill="currentColor" fill-opacity="0.6">HM {mean:g}</text>'
    inside = label if low < mean < high else ""
    return f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity="0.25" stroke-width="0.8"/>{inside}'


def _mark(index: int, size: float, colour: str, hollow: bool, place: str) -> str:
    shape = SHAPES[(index + index // SERIES) % len(SHAPES)].format(r=size, d=2 * size, b=1.3 * size)
    fill = "var(--page, #ffffff)" if hollow else colour
    return f'<g transform="{place}" fill="{fill}" stroke="{colour}" stroke-width="1.2">{shape}</g>'


def swatches(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The mark of each row as an inline SVG, and the row."""
    marks = [_mark(i, 5, f"var(--series-{i % SERIES})", False, "translate(8 8)") for i in range(len(paths))]
    return [
        (f'<svg aria-hidden="true" viewBox="0 0 16 16" style="width:1rem">{mark}</svg>', path.row)
        for mark, path in zip(marks, paths, strict=True)
    ]


def _legend(paths: Sequence[Path]) -> str:
    items = "".join(f"<li>{swatch} {escape(row)}</li>" for swatch, row in swatches(paths))
    return f'<ul class="legend" aria-label="Rows">{items}</ul>'


def cells(path: Path, rounds: Sequence[int]) -> list[str]:
    """local / base / novel in percent by round, and whether the row has settled."""
    shown = [
        " / ".join(f"{100 * path.rounds[r][key]:.1f}" for key in (LOCAL, BASE, NOVEL))
        if r in path.rounds
        else "—"
        for r in rounds
    ]
    return [*shown, {None: "—", True: "yes", False: "no"}[path.settled]]


def _table(paths: Sequence[Path], across: str | None) -> str:
    rounds = sorted({r for path in paths for r in path.rounds})
    caption = "local / base / novel accuracy in %, by round" + ("" if across is None else f", {across}")
    head = "".join(f'<th scope="col">{text}</th>' for text in ("row", *map(str, rounds), "settled"))
    lines = []
    for path in paths:
        body = "".join(f"<td>{cell}</td>" for cell in cells(path, rounds))
        lines.append(f'<tr><th scope="row">{escape(path.row)}</th>{body}</tr>')
    return (
        "<details><summary>The paths as a table</summary>"
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )
