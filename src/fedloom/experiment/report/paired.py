"""Paired differences on the page: every row against the first, seed by seed, a table and a plot per metric."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedloom.experiment.report import csv_text
from fedloom.experiment.report.columns import columns_of, keys_of
from fedloom.experiment.report.differences import Differences, of_study
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.forest import forest
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.units import arrow, show_signed


@dataclass(frozen=True)
class Paired:
    """All rows against the first one in one metric."""

    grid: Grid
    plot: Plot


def paired(study: Study) -> tuple[list[Paired], list[str]]:
    """Every row against the first, metric by metric, and the notes below; empty for a single row."""
    if len(study.rows) < 2:
        return [], []
    tables, notes = of_study(study, None, columns_of(study, keys_of(study, None)))
    return [_paired(table, f"paired{i}") for i, table in enumerate(tables)], notes


def _paired(table: Differences, key: str) -> Paired:
    column = table.column
    seeds = sorted({seed for found in table.found.values() for seed in found.by_seed})
    _, mean, *rest = table.header
    header = ["row", f"{mean}{arrow(column.key)}", *(f"seed {seed}" for seed in seeds), *rest[:-1], "verdict"]
    lines = []
    for row, difference, *others in table.lines:
        gaps = table.found[row].by_seed
        by_seed = [show_signed(gaps[s], column.unit) if s in gaps else "—" for s in seeds]
        lines.append([row, difference, *by_seed, *others])
    title = table.title
    plot = Plot(title, forest(title, table.found, column.unit, key), _csv(table, seeds))
    return Paired(Grid(title, header, lines), plot)


def _csv(table: Differences, seeds: Sequence[int]) -> str:
    """A line per row: the mean difference, each seed's, the interval and both p-values."""
    header = ("row", "difference", *(f"seed {seed}" for seed in seeds), "low", "high", "p", "p over seeds")
    records = []
    for row, found in table.found.items():
        inside = found.interval
        ends = (None, None, None) if inside is None else (inside.low, inside.high, inside.p)
        records.append((row, found.mean, *(found.by_seed.get(s) for s in seeds), *ends, found.p_seeds))
    return csv_text.text(header, records)
