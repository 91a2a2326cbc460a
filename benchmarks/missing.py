"""Accuracy against the share of missing modalities; draws `docs/missing.svg` from the runs of `experiments/missing/missing.yaml`.

`python -m benchmarks missing FOLDER [FOLDER ...]`: the folders that `fedloom run` wrote, such as one per seed.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import ROOT
from fedloom.experiment.report.columns import figure_of, spread_of
from fedloom.experiment.report.load_study import Study, gather
from fedloom.experiment.report.units import Spread

COLOURS = ("#666666", "#1f5f8b", "#c06020", "#3a7d44")
MARKERS = "os^D"


def figures(studies: Sequence[Study], column: str) -> dict[str, dict[int, Spread]]:
    """The figure of a column by row and by share in percent, with its spread over the seeds of all studies."""
    values: dict[str, dict[int, list[float | None]]] = {}
    for study in studies:
        for across, part in study.parts().items():
            if (share := re.match(r"\d+", across or "")) is not None:
                for row, runs in part.rows.items():
                    own = values.setdefault(row, {}).setdefault(int(share[0]), [])
                    own += [figure_of(run, column) for run in runs]
    spreads = {row: {n: spread_of(own) for n, own in points.items()} for row, points in values.items()}
    return {row: {n: s for n, s in points.items() if s is not None} for row, points in spreads.items()}


def draw(studies: Sequence[Study], path: Path) -> None:
    """One plot for each column; the bars are one standard deviation over the seeds, none for a single seed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "missing", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        columns = studies[0].columns
        grid = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(grid, columns, strict=True):
            for i, (row, points) in enumerate(figures(studies, column).items()):
                shares = sorted(points)
                axes.errorbar(
                    [share + (i - 1.5) * 0.8 for share in shares],  # side by side, so that bars stay apart
                    [100 * points[share].mean for share in shares],
                    yerr=[100 * (points[share].sd or 0.0) for share in shares],
                    color=COLOURS[i % len(COLOURS)],
                    marker=MARKERS[i % len(MARKERS)],
                    markersize=4,
                    linewidth=1.2,
                    label=row,
                )
            axes.set_title(column.split("/")[1], fontsize=9)
            axes.set_xlabel("% missing in training")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        grid[0].set_ylabel("exact match, %")
        grid[0].set_ylim(bottom=0)
        grid[-1].legend(frameon=False, fontsize=8)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _written(spread: Spread) -> str:
    """Mean and standard deviation in percent; a single seed has none."""
    sd = "one seed" if spread.sd is None else f"± {100 * spread.sd:.1f}, {spread.n} seeds"
    return f"{100 * spread.mean:.1f} ({sd})"


def main(arguments: list[str]) -> None:
    """Print every figure, and draw them."""
    studies, path = [gather([Path(a)]) for a in arguments], ROOT / "docs" / "missing.svg"
    for column in studies[0].columns:
        for row, points in figures(studies, column).items():
            shown = [f"{share} %: {_written(spread)}" for share, spread in sorted(points.items())]
            print(f"{column}  {row}  {'  '.join(shown)}")
    draw(studies, path)
    print(path)
