"""The deal of a report: a picture of every client's samples by kind and by label, and the counts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedloom.data.deal_counts import ordered_labels
from fedloom.experiment.report import csv_text, plots
from fedloom.experiment.report.figures import Grid, Plot
from fedloom.experiment.report.load_study import Study

CLIENTS, LABELS = 60, 24
"""The most clients and labels of a picture and its table."""


@dataclass(frozen=True)
class Deal:
    """One deal and the rows of the study that have it."""

    rows: str
    plots: Sequence[Plot]
    grids: Sequence[Grid]


def deals(study: Study) -> list[Deal]:
    """The different deals of the study, each drawn once; runs of earlier versions did not record theirs."""
    members: dict[str, tuple[list[str], dict[str, dict[str, Mapping[str, int]]]]] = {}
    for row, runs in study.rows.items():
        clients = runs[0].summary.clients
        counts: dict[str, dict[str, Mapping[str, int]]] = {
            "kind": {c.client: c.kinds for c in clients},
            "label": {c.client: c.labels for c in clients},
        }
        members.setdefault(repr(counts), ([], counts))[0].append(row)
    found = []
    for number, (rows, counts) in enumerate(members.values()):
        parts = [
            _part(what, own, f"deal{number}{what}")
            for what, own in counts.items()
            if len(ordered_labels(own)) > 1
        ]
        if parts:
            found.append(Deal(", ".join(rows), [plot for plot, _ in parts], [grid for _, grid in parts]))
    return found


def _part(what: str, counts: Mapping[str, Mapping[str, int]], key: str) -> tuple[Plot, Grid]:
    labels, names = ordered_labels(counts)[:LABELS], list(counts)[:CLIENTS]
    most = max(n for own in counts.values() for n in own.values())
    values = [[2 * counts[name].get(label, 0) / most for label in labels] for name in names]
    left_out = (len(counts) > CLIENTS) or (len(ordered_labels(counts)) > LABELS)
    title = f"samples by {what}, darkest: {most}" + ("; the first clients and labels" if left_out else "")
    lines = [[name, *(str(counts[name].get(label, 0)) for label in labels)] for name in names]
    grid = Grid(f"Samples by {what}, training and test", ["client", *labels], lines)
    counted = [[float(counts[name].get(label, 0)) for label in labels] for name in names]
    figures = csv_text.of_heat(names, counted, labels)
    return Plot(title, plots.heat(title, names, values, key), figures), grid
