"""The figures of plots and tables as CSV: plain numbers in full, one line per point."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence

from fedloom.experiment.report.units import Spread

SPREAD = ("mean", "sd", "seeds")
"""Columns of a mean over seeds; `sd` is empty for one seed."""


def of_curves(lines: Mapping[str, Mapping[int, Spread]], x_axis: str = "round") -> str:
    """A line per row and round."""
    records = [(row, x, *_spread(s)) for row, points in lines.items() for x, s in points.items()]
    return text(("row", x_axis, *SPREAD), records)


def of_bars(groups: Mapping[str, Mapping[str, Spread | None]]) -> str:
    """A line per label and series that has a bar."""
    records = [
        (label, name, *_spread(s))
        for label, bars in groups.items()
        for name, s in bars.items()
        if s is not None
    ]
    return text(("label", "series", *SPREAD), records)


def of_points(positions: Mapping[str, tuple[Spread, Spread]], x: str, y: str) -> str:
    """A line per row, with its figures in both directions."""
    header = ("row", *(f"{axis}: {field}" for axis in (x, y) for field in SPREAD))
    return text(header, [(row, *_spread(a), *_spread(b)) for row, (a, b) in positions.items()])


def of_heat(labels: Sequence[str], values: Sequence[Sequence[float]], columns: Sequence[str]) -> str:
    """A line per label and column."""
    records = [
        (label, column, value)
        for label, row in zip(labels, values, strict=True)
        for column, value in zip(columns, row, strict=True)
    ]
    return text(("label", "column", "value"), records)


def text(header: Sequence[object], records: Iterable[Sequence[object]]) -> str:
    """CSV with line breaks as RFC 4180 wants them; None and values that are not finite are empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([_cell(value) for value in record] for record in [header, *records])
    return buffer.getvalue()


def _spread(spread: Spread) -> tuple[float, float | None, int]:
    return spread.mean, spread.sd, spread.n


def _cell(value: object) -> object:
    """A value for the file; a name that a spreadsheet would take for a formula gets an apostrophe before it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return (
        f"'{value}"
        if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        else value
    )
