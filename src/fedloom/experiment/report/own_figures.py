"""Figures that a method measures itself (`Method.measured`), with the titles and units that it declares."""

from fedloom.experiment.report import figures, transfer
from fedloom.experiment.report.columns import DIAGNOSTICS, measure_title, spread_of
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.load_study import SCOPES, Study
from fedloom.experiment.report.page import by_round
from fedloom.experiment.report.units import arrow, show, unit_of
from fedloom.federation.diagnostics import SIMILARITIES
from fedloom.tasks.metrics.metric import Unit

DRAWN = 12
"""Largest number of figures with curves; the table has the others too."""
ELSEWHERE = SCOPES.union(("hm", "hm2"), DIAGNOSTICS, SIMILARITIES)
"""First parts of the names of figures that have a place of their own on the page."""


def own_figures(study: Study) -> tuple[list[Plot], Grid | None]:
    """Curves and the last round's table of every figure that has no other place on the page; None without any."""
    names = [n for n in study.names() if n.split("/")[0] not in ELSEWHERE and not transfer.is_shown(n)]
    charts = []
    for i, name in enumerate(names[:DRAWN]):
        title, unit, _ = _declared(study, name)
        for j, (across, part) in enumerate(study.parts().items()):
            lines = {row: by_round(runs, name) for row, runs in part.rows.items()}
            if any(len(points) > 1 for points in lines.values()):
                titled = title if across is None else f"{across}, {title}"
                charts.append(figures.curves(titled, lines, unit, f"own{i}p{j}"))
    flat = study.flat()
    table = []
    for name in names:
        title, unit, sign = _declared(study, name)
        last = (spread_of([run.final(name) for run in runs]) for runs in flat.rows.values())
        table.append([title + sign, *(show(spread, unit) for spread in last)])
    caption = "The methods' own figures, last round"
    return charts, Grid(caption, ["figure", *flat.rows], table) if table else None


def _declared(study: Study, name: str) -> tuple[str, Unit, str]:
    """A figure's title, unit and arrow: the method's, or else those that are known of the name."""
    measure = study.measure(name)
    if measure is None:
        return measure_title(name, None), unit_of(name), arrow(name)
    sign = {"higher": "\u00a0↑", "lower": "\u00a0↓", None: ""}[measure.better]
    return measure_title(name, measure), measure.unit, sign
