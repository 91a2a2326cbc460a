"""Grids of a study: the cells in which its runs lie, every row's figure in a cell, and its difference from one row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from fedloom.experiment.report.columns import Column, figures_by_seed, keys_of, spread_of, title_of
from fedloom.experiment.report.differences import Difference, compared, interval_text, reference_row
from fedloom.experiment.report.load_study import Study
from fedloom.experiment.report.read import Run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.experiment.report.units import Spread, show, show_signed, unit_of
from fedloom.tasks.metrics.metric import Unit

Labels = tuple[str, ...]
"""A label on every axis, in the axes' order."""
MARKS = {"ahead": "+", "behind": "−", "within": "", None: ""}


@dataclass(frozen=True)
class Cell:
    """A row's figure in one cell, and its difference from the reference row; None where the runs have none."""

    figure: Spread | None
    difference: Difference | None = None

    @property
    def mark(self) -> str:
        """A plus for a row that is ahead of the reference there, a minus for one behind it; in brackets where seeds disagree."""
        found = self.difference
        mark = MARKS[None if found is None else found.verdict]
        return f"({mark})" if found is not None and found.seeds_disagree else mark


@dataclass(frozen=True)
class FigureGrid:
    """One figure of every row over the axes of one grid: x is the first axis, y the second, and the others are facets.

    `cells` maps a row and the labels of a cell to its figure. `against`: the row that the differences are from.
    """

    key: str
    title: str
    unit: Unit
    axes: Mapping[str, Labels]
    rows: Labels
    cells: Mapping[tuple[str, Labels], Cell]
    against: str | None

    @property
    def x(self) -> str:
        """The title of the first axis."""
        return next(iter(self.axes))

    @property
    def y(self) -> str:
        """The title of the second axis."""
        return list(self.axes)[1]

    @property
    def facets(self) -> list[Labels]:
        """Every combination of labels on the other axes; one empty combination for a grid of two axes."""
        return list(product(*list(self.axes.values())[2:]))

    def others(self) -> list[str]:
        """The titles of the axes beyond the second."""
        return list(self.axes)[2:]

    def of(self, row: str, facet: Labels) -> list[list[Cell]]:
        """A row's cells in one facet, a list for every label of y."""
        return [
            [self.cells.get((row, (x, y, *facet)), Cell(None)) for x in self.axes[self.x]]
            for y in self.axes[self.y]
        ]

    def table(self, *, differences: bool = False) -> tuple[list[str], list[list[str]]]:
        """Header and lines of text: a line for every row, facet and label of y, a column for every label of x.

        With `differences`, those of the other rows with their intervals in place of the figures.
        """
        header = ["", *self.others(), self.y, *(f"{self.x} {label}" for label in self.axes[self.x])]
        lines = []
        for row, facet in product(self.rows, self.facets):
            if differences and row == self.against:
                continue
            for label, line in zip(self.axes[self.y], self.of(row, facet), strict=True):
                shown = [self._difference(c) if differences else self._figure(c) for c in line]
                lines.append([row, *facet, label, *shown])
        return header, lines

    def _figure(self, cell: Cell) -> str:
        text = show(cell.figure, self.unit).removesuffix(" %")
        return f"{text} {cell.mark}".rstrip()

    def _difference(self, cell: Cell) -> str:
        found = cell.difference
        if found is None:
            return "—"
        text, inside = show_signed(found.mean, self.unit), interval_text(found, self.unit)
        return text if inside is None else f"{text} {inside}"


def has_grid(study: Study) -> bool:
    """Whether the study's runs lie in the cells of a grid."""
    return any(coordinates_of(run) for run in study.runs)


def coordinates_of(run: Run) -> Mapping[str, str]:
    """The run's label on every axis; empty outside a grid."""
    found = run.experiment.get("coordinates")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def grids_of(study: Study, keys: Sequence[str] | None = None, against: str | None = None) -> list[FigureGrid]:
    """A grid for every set of axes and every figure that its runs have: the study's columns, or `keys`.

    `against`: the row that the others are compared with; the first if None. Raises ExperimentError for a row that there is not.
    """
    base = reference_row(study, against) if len(study.rows) > 1 or against is not None else None
    parts: dict[Labels, dict[Labels, str]] = {}
    fullest = sorted(study.rows.values(), key=len, reverse=True)  # its labels come in the file's order
    for run in (run for runs in fullest for run in runs):
        place = coordinates_of(run)
        if len(place) > 1 and run.across is not None:
            parts.setdefault(tuple(place), {})[tuple(place.values())] = run.across
    samples, grids = SampleValues(), []
    for titles, names in parts.items():
        axes = {title: tuple(dict.fromkeys(labels[i] for labels in names)) for i, title in enumerate(titles)}
        for key in keys_of(study, keys):
            column = Column(key, title_of(key), unit_of(key))
            cells = {
                (row, labels): _cell(study, row, base, replace(column, across=part), samples)
                for row in study.rows
                for labels, part in names.items()
            }
            if any(cell.figure is not None for cell in cells.values()):
                grids.append(FigureGrid(key, column.title, column.unit, axes, tuple(study.rows), cells, base))
    return grids


def _cell(study: Study, row: str, base: str | None, column: Column, samples: SampleValues) -> Cell:
    runs = _in_part(study.rows[row], column)
    figure = spread_of(list(figures_by_seed(runs, column).values()))
    if figure is None or base is None or row == base or not math.isfinite(figure.mean):
        return Cell(figure)
    return Cell(figure, compared(runs, _in_part(study.rows[base], column), column, samples))


def _in_part(runs: Sequence[Run], column: Column) -> list[Run]:
    return [run for run in runs if run.across == column.across]
