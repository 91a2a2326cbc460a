"""Accuracy against the share of missing modalities; draws `docs/missing.svg` from the runs of `experiments/missing/missing.yaml`.

`python -m benchmarks missing FOLDER [FOLDER ...]`: the folders that `fedloom run` wrote, such as one per seed.
"""

import re
from pathlib import Path

from benchmarks.report import ROOT
from fedloom.experiment.report.columns import figure_of, spread_of
from fedloom.experiment.report.load_study import Study, gather
from fedloom.experiment.report.units import Spread

COLOURS = ("#666666", "#1f5f8b", "#c06020", "#3a7d44")
MARKERS = "os^D"


def figures(study: Study, column: str) -> dict[str, dict[int, Spread]]:
    """The figure of a column by row and by share in percent, with its spread over seeds."""
    found: dict[str, dict[int, Spread]] = {}
    for across, part in study.parts().items():
        share = re.match(r"\d+", across or "")
        for row, runs in part.rows.items():
            spread = spread_of([figure_of(run, column) for run in runs])
            if share is not None and spread is not None:
                found.setdefault(row, {})[int(share[0])] = spread
    return found


def draw(study: Study, path: Path) -> None:
    """One plot for each column; the bars are one standard deviation over the seeds, none for a single seed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "missing", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(9, 3), layout="constrained")
        grid = figure.subplots(1, len(study.columns), sharey=True, squeeze=False)[0]
        for axes, column in zip(grid, study.columns, strict=True):
            for i, (row, points) in enumerate(figures(study, column).items()):
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
    study, path = gather([Path(a) for a in arguments]), ROOT / "docs" / "missing.svg"
    for column in study.columns:
        for row, points in figures(study, column).items():
            shown = [f"{share} %: {_written(spread)}" for share, spread in sorted(points.items())]
            print(f"{column}  {row}  {'  '.join(shown)}")
    draw(study, path)
    print(path)
