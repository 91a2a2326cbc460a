"""Aggregation diagnostics by round and layer, and the similarity of the clients' factors (UniFLoW Figure 4)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.experiment.report import figures
from fedloom.experiment.report.columns import DIAGNOSTICS, MEASURES, spread_of
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.page import curve
from fedloom.experiment.report.read import LAYER, Run
from fedloom.experiment.report.units import Spread, arrow, show, words

DRAWN = 4
"""Largest number of rows with a Figure 4; in larger studies only each run's own report has it."""


@dataclass(frozen=True)
class Layers:
    """One row's layers in the last round: a table, and plots of the similarity between clients."""

    row: str
    grid: Grid
    plots: Sequence[Plot]


def rounds(study: Study) -> tuple[list[Plot], Grid | None]:
    """The means over all layers: curves over the rounds, and the last round's figures."""
    names = [n for n in DIAGNOSTICS if n in study.names()]
    charts = [
        plot
        for i, (across, part) in enumerate(study.parts().items())
        for name in names
        if (plot := curve(part, name, f"aggregation{i}{name}", across))
    ]
    return charts, _grid(study.flat(), names, "Aggregation, mean over layers, last round")


def groups(study: Study) -> Grid | None:
    """Restoration error and norm ratio by group of tensors, such as the LLM's adapter."""
    shown = ("restoration_error_before", "restoration_error", "norm_ratio")
    names = sorted(n for n in study.names() if n.split("/")[0] in shown and "/" in n)
    return _grid(study.flat(), names, "Aggregation by group of tensors, last round")


def layers(study: Study) -> list[Layers]:
    """Every row's layers, without the rows that measured none (those without aggregation)."""
    flat = study.flat()
    rows = []
    for number, (row, runs) in enumerate(flat.rows.items()):
        places = places_of(runs)
        if not places:
            continue
        measures = [m for m in MEASURES if any(_of(runs, place, m) for place in places)]
        lines = [[place, *(show(_of(runs, place, m), "number") for m in measures)] for place in places]
        grid = Grid(
            f"Layers of {row}, last round", ["layer", *(words(m) + arrow(m) for m in measures)], lines
        )
        charts = similarity(runs, places, f"layers{number}") if len(flat.rows) <= DRAWN else []
        rows.append(Layers(row, grid, charts))
    return rows


def similarity(runs: Sequence[Run], places: Sequence[str], key: str) -> list[Plot]:
    """Figure 4, by layer: cosines between clients' factors and between their changes, and the angle between their A."""
    charts = []
    for group in dict.fromkeys(place.split("/")[0] for place in places):
        own = [place for place in places if place.split("/")[0] == group]
        panels = (
            ("similarity", {"A": "cosine_A", "B": "cosine_B"}),
            (
                "changes' similarity",
                {"A": "cosine_change_A", "B": "cosine_change_B", "BA": "cosine_change"},
            ),
            ("largest principal angle between clients' A, radians", {"A": "angle"}),
        )
        for what, metrics in panels:
            lines = {
                factor: {i: s for i, place in enumerate(own, 1) if (s := _of(runs, place, metric))}
                for factor, metric in metrics.items()
            }
            if any(lines.values()):
                title = f"{words(group)}: {what}"
                name = f"{key}{group}{what[:3]}"
                charts.append(figures.curves(title, lines, "number", name, "adapted layer", "factor"))
    return charts


def places_of(runs: Sequence[Run]) -> list[str]:
    """The adapted layers measured by any run, in natural order."""
    names = {name for run in runs for name in run.names() if name.startswith(LAYER)}
    return sorted({name[len(LAYER) :].rsplit("/", 1)[0] for name in names}, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Natural sort key: layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _of(runs: Sequence[Run], place: str, metric: str) -> Spread | None:
    return spread_of([run.final(f"{LAYER}{place}/{metric}") for run in runs])


def _grid(study: Study, names: Sequence[str], caption: str) -> Grid | None:
    lines = [
        [row, *(show(spread_of([run.final(n) for run in runs]), "number") for n in names)]
        for row, runs in study.rows.items()
    ]
    return Grid(caption, ["row", *(words(n) + arrow(n) for n in names)], lines) if names else None
