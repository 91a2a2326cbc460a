"""The offline report: one self-contained `report.html`, without external requests and scripts."""

import os
from importlib import resources
from pathlib import Path

import jinja2
import yaml
from markupsafe import Markup

from fedloom.core.terminal import visible
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.report import (
    accuracy_paths,
    heat_map,
    layers,
    page,
    plots,
    reliability,
    tradeoff,
    transfer,
)
from fedloom.experiment.report.deal import deals
from fedloom.experiment.report.figures import csv_file
from fedloom.experiment.report.load_study import Study, read
from fedloom.experiment.report.own_figures import own_figures
from fedloom.experiment.report.paired import paired
from fedloom.experiment.report.row_css import row_css
from fedloom.experiment.report.samples import kinds_of
from fedloom.experiment.report.table import remark_of, table_of


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder or a folder of rows and return its path.

    Every text that comes from data is escaped, its control characters are replaced. A broken or missing file raises
    ExperimentError.
    """
    load_entry_points()
    study = read(Path(folder))
    target = study.folder / "report.html"
    partial = target.with_name("report.html.partial")
    partial.write_bytes(visible(render(study)).encode())
    os.replace(partial, target)
    return target


def render(study: Study) -> str:
    """The complete page as HTML."""
    files = resources.files("fedloom.experiment.report") / "templates"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["ours"] = Markup  # style sheet, plots and tables: they escape their own texts
    template = environment.from_string((files / "report.html.j2").read_text(encoding="utf-8"))
    flat = study.flat()  # one line per row and task (or other column)
    maps = heat_map.section(study)  # in place of a table with a column for every cell
    kinds = kinds_of(flat)
    head, more = page.curves(study)
    aggregation_plots, aggregation_grid = layers.rounds(study)
    traffic_plots, traffic_grid = page.traffic(flat)
    update_plots, update_grid = reliability.updates(study)
    table = table_of(study, before=True, intervals=True)
    own_plots, own_grid = own_figures(study)
    legend = [(row, plots.swatch(i, f"swatch{i}")) for i, row in enumerate(study.rows)]
    return template.render(
        row_css=row_css(len(legend)),
        norm_of_factors="update_norm" in study.names(),
        most_bands=plots.MOST_BANDS,
        own_plots=own_plots,
        own=own_grid,
        css=(files / "report.css").read_text(encoding="utf-8"),
        study=study,
        facts=page.facts(study),
        complete=all(run.complete for run in study.runs),
        statuses=[(row, remark_of(runs)) for row, runs in flat.rows.items()],
        refusals=page.refusals(flat),
        notes=page.notes(flat),
        headline=maps or table.html(),
        headline_csv=csv_file(study.name, table.csv()),
        differences=([], []) if maps else paired(study),
        legend=legend if len(legend) > 1 else [],
        curves=head,
        more_curves=more,
        tradeoffs=tradeoff.tradeoffs(study),
        paths=accuracy_paths.section(study),
        modalities=page.modalities(flat),
        clients=page.clients(flat),
        deals=deals(flat),
        bar_swatches=[plots.swatch(i, f"swatch{i}", bar=True) for i in range(plots.SERIES)],
        factor_swatches=[plots.swatch(i, f"swatch{i}") for i in range(2)],
        traffic_plots=traffic_plots,
        traffic=traffic_grid,
        sizes=page.sizes(flat),
        aggregation_plots=aggregation_plots,
        aggregation=aggregation_grid,
        aggregation_groups=layers.groups(study),
        layers=layers.layers(study),
        update_plots=update_plots,
        updates=update_grid,
        heat=reliability.heat(study),
        galleries=transfer.galleries(study),
        transfer=transfer.parts(study),
        weights=transfer.weights(study),
        collapses=transfer.collapses(study),
        controls=page.controls(flat),
        kinds=kinds,
        experiments=_experiments(study),
        commands=page.commands(study),
        description=str(study.runs[0].experiment.get("description") or ""),
    )


def _experiments(study: Study) -> list[tuple[str, str]]:
    """(rows, resolved experiment) of each row's first run; rows with equal experiments are joined."""
    texts: dict[str, list[str]] = {}
    for row, runs in study.flat().rows.items():
        text = runs[0].experiment_text.strip() or yaml.safe_dump(runs[0].experiment)
        texts.setdefault(text, []).append(row)
    return [(", ".join(rows), text) for text, rows in texts.items()]
