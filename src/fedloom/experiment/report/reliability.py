"""Fed-CMP's reliability weights as heat maps (clients by groups of directions), and the agreement of updates."""

from collections.abc import Sequence
from statistics import fmean

from fedloom.experiment.report import csv_text, plots
from fedloom.experiment.report.columns import UPDATES
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.page import curve
from fedloom.experiment.report.read import RELIABILITY, Run
from fedloom.experiment.report.units import arrow, show, unit_of, words

SHOWN = 8
"""Largest number of rows (methods and columns) with heat maps; in larger studies each run's own report has them."""


def updates(study: Study) -> tuple[list[Plot], Grid | None]:
    """Agreement of the clients' updates, and of successive rounds: curves, and the last round's table."""
    names = [n for n in UPDATES if n in study.names()]
    charts = [
        plot
        for i, (across, part) in enumerate(study.parts().items())
        for name in names
        if name in ("update/cosine", "update/turn")
        if (plot := curve(part, name, f"update{i}{name[7:]}", across))
    ]
    flat = study.flat()
    lines = [
        [row, *(show(_mean([run.final(n) for run in runs]), unit_of(n)) for n in names)]
        for row, runs in flat.rows.items()
    ]
    measured = [line for line in lines if any(cell != "—" for cell in line[1:])]
    caption = "Agreement of the clients' changes, last round"
    return charts, Grid(
        caption, ["row", *(words(n) + arrow(n) for n in names)], measured
    ) if measured else None


def heat(study: Study) -> list[Plot]:
    """A heat map per row and layer, last round, mean over seeds; 1 means the client's plain weight."""
    flat = study.flat()
    maps = []
    for number, (row, runs) in enumerate(flat.rows.items()):
        cells = _cells(runs)
        for place in sorted({p for p, _, _ in cells}):
            clients = sorted({c for p, c, _ in cells if p == place})
            groups = sorted({g for p, _, g in cells if p == place})
            values = [[cells.get((place, c, g), 1.0) for g in groups] for c in clients]
            title = f"{row}, {place}"
            svg = plots.heat(title, clients, values, f"heat{number}{place}")
            maps.append(Plot(title, svg, csv_text.of_heat(clients, values, groups)))
    return maps if len({title.title.split(", projector")[0] for title in maps}) <= SHOWN else []


def _cells(runs: Sequence[Run]) -> dict[tuple[str, str, str], float]:
    """Mean over seeds of the last available round, by (layer, client, group of directions)."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        for name in run.names():
            if name.startswith(RELIABILITY):
                place, client, group = name[len(RELIABILITY) :].rsplit("/", 2)
                value = run.final(name)
                if value is not None:
                    values.setdefault((place, client, group), []).append(value)
    return {key: fmean(v) for key, v in values.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return fmean(known) if known else None
