"""The committed summary of a finished study, `runs/<experiment>.json`, validated whenever it is read."""

import json
import math
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.experiment.report.columns import Column
from fedloom.experiment.report.differences import Difference, difference_of
from fedloom.experiment.report.units import Spread
from fedloom.tasks.metrics.bootstrap import Interval
from fedloom.tasks.metrics.metric import Unit, metric_of

Seed = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Accuracy = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
Text = Annotated[str, Field(min_length=1, max_length=2000)]


class Strict(BaseModel):
    """A part of a summary: no other keys, finite numbers, no number in quotes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Ends(Strict):
    """The two ends of an interval."""

    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> "Ends":
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}")
        return self


class Gap(Strict):
    """The paired difference from another row."""

    mean: float
    seeds: int = Field(ge=1)
    interval: Ends | None
    p: Share | None
    p_seeds: Share | None


class Figure(Strict):
    """A figure of the last round by seed (null: not finite), its interval over `samples` test samples, and its differences.

    `differences`: by the row that the figure is compared with.
    """

    values: dict[Seed, float | None] = Field(min_length=1)
    interval: Ends | None = None
    samples: int | None = Field(None, ge=1)
    differences: dict[Text, Gap] = Field(default_factory=dict)

    @property
    def spread(self) -> Spread:
        """Mean and standard deviation over the seeds."""
        return Spread.of([math.nan if value is None else value for value in self.values.values()])


class EntryColumn(Strict):
    """A column of the study's table."""

    key: Text
    title: Text
    unit: Unit
    across: Text | None = None


class Row(Strict):
    """A row: its figures by column name, and the remark of a row that is not plainly complete."""

    figures: dict[Text, Figure]
    remark: str | None = None


class Trace(Strict):
    """A row's mean accuracies over its seeds by evaluated round, for a study whose report draws their paths."""

    row: Text
    across: Text | None = None
    rounds: dict[Annotated[int, Field(ge=0)], dict[Text, Accuracy]] = Field(min_length=1)


class Entry(Strict):
    """A finished study: rows by seeds by columns, and what they were made with.

    `settings`: a digest of each setting's values; `devices`: GPUs, or the processor's vector instructions, as runs record them.
    """

    format: Literal[1] = 1
    experiment: Text
    file: Text
    command: Text
    size: Literal["tiny", "small", "paper"]
    fedloom: Text
    commit: str | None = Field(None, pattern=r"^[0-9a-f]{7,64}(-dirty)?$")
    settings: dict[Text, Digest] = Field(default_factory=dict)
    threads: tuple[Annotated[int, Field(ge=1)], ...] = ()
    devices: tuple[Text, ...] = ()
    runs: int = Field(ge=1)
    minutes: float = Field(ge=0)
    against: tuple[Text, ...] = ()
    columns: tuple[EntryColumn, ...] = Field(min_length=1)
    rows: dict[Text, Row] = Field(min_length=1)
    traces: tuple[Trace, ...] = ()

    @cached_property
    def shown(self) -> dict[str, Column]:
        """The columns of the table by name."""
        columns = [Column(c.key, c.title, c.unit, c.across) for c in self.columns]
        return {column.name: column for column in columns}

    @cached_property
    def seeds(self) -> list[int]:
        """All seeds of any figure."""
        return sorted({s for row in self.rows.values() for f in row.figures.values() for s in f.values})

    def difference(self, row: str, base: str, name: str) -> Difference | None:
        """A row's difference from another in a column; without an interval where the summary does not compare the two.

        None without a common seed, for a figure that is not finite, and for one of which neither more nor less is better.
        """
        figures = [self.rows[label].figures.get(name) for label in (row, base) if label in self.rows]
        metric = metric_of(self.shown[name].key)
        if len(figures) < 2 or figures[0] is None or figures[1] is None or metric is None:
            return None
        first, second = figures[0].values, figures[1].values
        pairs = {seed: (value, second[seed]) for seed, value in first.items() if seed in second}
        gaps = {seed: a - b for seed, (a, b) in pairs.items() if a is not None and b is not None}
        if not gaps or len(gaps) < len(pairs):
            return None
        kept = figures[0].differences.get(base)
        inside = None
        if kept is not None and kept.interval is not None:
            inside = Interval(kept.mean, kept.interval.low, kept.interval.high, kept.p)
        return difference_of(gaps, inside, metric)

    @model_validator(mode="after")
    def _fits(self) -> "Entry":
        if missing := [base for base in self.against if base not in self.rows]:
            raise ValueError(f"against names {missing[0]!r}, which is no row")
        for label, row in self.rows.items():
            for name, figure in row.figures.items():
                if other := set(figure.differences) - set(self.against):
                    raise ValueError(
                        f"row {label!r} has a difference from {min(other)!r}, which against does not name"
                    )
                if name not in self.shown:
                    raise ValueError(f"row {label!r} has a figure {name!r}, which is no column")
                low, high = RANGES.get(self.shown[name].unit, (-math.inf, math.inf))
                for value in figure.values.values():
                    if value is not None and not low <= value <= high:
                        raise ValueError(f"row {label!r}, {name!r}: {value} lies outside {low:g} to {high:g}")
        return self


RANGES = {
    "percent": (0.0, 1.0),
    "bytes": (0.0, math.inf),
    "seconds": (0.0, math.inf),
    "count": (0.0, math.inf),
}
"""The values that a unit allows."""


def read_entry(path: Path) -> Entry:
    """A summary. Raises ExperimentError, one sentence, for one that is not as `fedloom ledger add` writes it."""
    advice = "add the run again with `fedloom ledger add`"
    try:
        entry = Entry.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        fault = f"{place}: {first['msg']}" if place else first["msg"]
        raise ExperimentError(f"{path} is no summary of a study ({fault}); {advice}") from error
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from error
    if entry.experiment != path.stem:
        raise ExperimentError(
            f"{path} holds the experiment {entry.experiment!r}, not {path.stem!r}; {advice}"
        )
    return entry


def write_entry(entry: Entry, folder: Path) -> Path:
    """Write `<folder>/<experiment>.json` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.experiment}.json"
    text = json.dumps(entry.model_dump(mode="json"), indent=1, ensure_ascii=False)
    write_atomic(path, (text + "\n").encode())
    return path


def read_entries(folder: Path) -> dict[str, Entry]:
    """Every summary in a folder, by experiment. Raises ExperimentError."""
    entries = [read_entry(path) for path in sorted(folder.glob("*.json"))]
    return {entry.experiment: entry for entry in entries}
