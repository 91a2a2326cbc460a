"""Grids of an experiment file: every combination of the entries of two or more axes, each a part of the study.

`grid` maps an axis's title to its entries, and an entry's label to settings, as `across` does for one axis. A list holds several
grids. A cell is one combination; its name joins axes and labels, and its coordinates place it in a heat map.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.experiment.layers import layer, places

EXAMPLE = "'learning rate: {0.001: {training.lr: 0.001}, 0.01: {training.lr: 0.01}}'"
COORDINATES = "coordinates"


@dataclass(frozen=True)
class Cell:
    """One combination: its label on every axis, and the settings of each, by a name for messages."""

    coordinates: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The cell in words: "local steps 16, rank 8"."""
        return ", ".join(f"{axis} {label}" for axis, label in self.coordinates.items())


def cells_of(grid: Any, origin: str) -> dict[str, Cell]:
    """The cells of one grid, or of a list of them, by name, the first axis outermost. Raises ExperimentError."""
    grids = grid if isinstance(grid, list) else [grid]
    cells: dict[str, Cell] = {}
    for number, one in enumerate(grids, 1):
        place = f"{origin}: grid {number}" if len(grids) > 1 else f"{origin}: grid"
        for cell in _product(_axes(one, place), place):
            if cell.name in cells:
                raise ExperimentError(f"{place}: the cell '{cell.name}' stands in an earlier grid, too")
            cells[cell.name] = cell
    if not cells:
        raise ExperimentError(f"{origin}: grid is empty; leave it out, or give two axes such as {EXAMPLE}")
    return cells


def _axes(grid: Any, place: str) -> dict[str, dict[str, Mapping[str, Any]]]:
    """The entries of every axis. Raises ExperimentError."""
    if not isinstance(grid, dict) or not all(isinstance(entries, dict) for entries in grid.values()):
        raise ExperimentError(f"{place} must map an axis to its entries, such as {EXAMPLE}")
    if len(grid) < 2:
        raise ExperimentError(f"{place} needs two axes or more; use across for one")
    axes: dict[str, dict[str, Mapping[str, Any]]] = {}
    for axis, entries in grid.items():
        labels = [str(label) for label in entries]
        if not all(isinstance(s or {}, dict) for s in entries.values()):
            raise ExperimentError(f"{place}: {axis} must map a label to settings, such as {EXAMPLE}")
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise ExperimentError(f"{place}: {axis} needs two entries or more, each with a label of its own")
        axes[str(axis)] = {str(label): settings or {} for label, settings in entries.items()}
    return axes


def _product(axes: Mapping[str, Mapping[str, Mapping[str, Any]]], place: str) -> Sequence[Cell]:
    """Every combination. Raises ExperimentError for two axes that give one setting: the second would hide the first."""
    given = {
        axis: {
            name: None
            for label, settings in entries.items()
            for name in places(layer(settings.items(), f"{place}: {axis}: {label}"))
        }
        for axis, entries in axes.items()
    }
    for (first, ones), (second, others) in combinations(given.items(), 2):
        for one, other in product(ones, others):
            if one == other or one.startswith(f"{other}.") or other.startswith(f"{one}."):
                named = one if one == other else f"{one} and {other}"
                raise ExperimentError(
                    f"{place}: the axes {first} and {second} both set {named}; let one of them do it"
                )
    return [
        Cell(
            dict(zip(axes, labels, strict=True)),
            {f"{axis} {label}": axes[axis][label] for axis, label in zip(axes, labels, strict=True)},
        )
        for labels in product(*axes.values())
    ]
