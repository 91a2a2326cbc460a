"""Typed records of a run folder, and their validated reading."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import check_files
from fedloom.core.unit import Unit

# A value that could not be computed is null on disk; it stays visible as "not finite".
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
T = TypeVar("T")

LAYER = "layer/"
"""Prefix of a single layer's metrics; there are hundreds, shown by `layers.py` alone."""

RELIABILITY = "reliability/"
"""Prefix of Fed-CMP's reliability weights, one per client and group of directions; shown as a heat map."""

READ = ("experiment.yaml", "metrics.jsonl", "ledger.jsonl", "summary.json", "samples/")
"""Files of a run that are read with it; a trailing slash means all below."""

NOT_THE_EXPERIMENT = ("seed", "versions", "commit", "out", "track")
"""Keys of `experiment.yaml` that may differ between two runs of the same experiment."""


class Record(BaseModel):
    """A line or file of a run folder. Unknown keys are ignored: a newer writer may add some."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Metric(Record):
    """One line of `metrics.jsonl`; round 0 is before training."""

    round: int
    name: str
    value: Number


class LedgerEntry(Record):
    """One line of `ledger.jsonl`: who was asked in a round, who answered, who was refused and why; bytes."""

    round: int
    request: str = Field("train", validation_alias=AliasChoices("request", "task"))  # task: until 0.1
    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    left_out: dict[str, str] = {}
    capped: dict[str, str] = {}
    bytes_up: int = 0
    bytes_down: int = 0
    groups_up: dict[str, int] = {}
    groups_down: dict[str, int] = {}
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    epsilon: float | None = None
    """The privacy budget spent up to this round."""
    joined: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Sites that take part in a deployment from this round on, and those that do no more."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Clients that were asked and neither answered nor were refused."""
        return tuple(c for c in self.asked if c not in self.answered and c not in self.refused)


class ClientSummary(Record):
    """One client's modalities, numbers of train and test samples, by kind and by label too, and final metrics."""

    client: str
    holds: tuple[str, ...] = ()
    train: int = 0
    test: int = 0
    metrics: dict[str, Number] = {}
    kinds: dict[str, int] = {}
    labels: dict[str, int] = {}


class MeasureRecord(Record):
    """Name, unit and direction of a figure that the method measured itself, as it declared them."""

    name: str
    title: str
    unit: Unit = "number"
    better: Literal["higher", "lower"] | None = None


class Summary(Record):
    """`summary.json`. `metrics` maps a name to its last-round value, and "start" to the round-0 values."""

    name: str
    row: str = ""
    method: str = ""
    seed: int = 0
    rounds: int = 0
    seconds: float = 0.0
    status: str
    notes: tuple[str, ...] = ()
    metrics: dict[str, Number | dict[str, Number]] = {}
    trainable_parameters: int | None = None
    shared_parameters: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    restoration_error: float | None = None
    clients: tuple[ClientSummary, ...] = ()
    measures: tuple[MeasureRecord, ...] = ()


class SampleRecord(Record):
    """One test question with the model's answers before and after; media are files beside `samples.json`.

    `counts`: inputs of the modalities of which the first is shown alone; `exchanges`: answers of its conversation.
    """

    uid: str
    client: str = ""
    kind: str = "text"
    question: str
    reference: str
    before: str | None = None
    after: str | None = None
    spoken: str | None = None
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    depth: str | None = None
    thermal: str | None = None
    imu: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    exchanges: int = 1


@dataclass(frozen=True)
class Run:
    """One validated run folder."""

    folder: Path
    experiment: dict[str, Any]
    experiment_text: str
    metrics: tuple[Metric, ...]
    ledger: tuple[LedgerEntry, ...]
    summary: Summary
    samples: tuple[SampleRecord, ...]

    @property
    def across(self) -> str | None:
        """The run's column in the table, such as a task; None if its study has no such axis."""
        across = self.experiment.get("across")
        return None if across is None else str(across)

    @cached_property
    def _by_name(self) -> dict[str, dict[int, float]]:
        by_name: dict[str, dict[int, float]] = {}
        for metric in self.metrics:
            by_name.setdefault(metric.name, {})[metric.round] = metric.value
        return {name: dict(sorted(series.items())) for name, series in by_name.items()}

    def series(self, name: str) -> dict[int, float]:
        """Value by round of the metric `name`; a repeated line overrides earlier ones."""
        return dict(self._by_name.get(name, {}))

    def final(self, name: str) -> float | None:
        """The last round's value of a metric, from the summary or else from the lines; None if absent."""
        value = self.summary.metrics.get(name)
        if isinstance(value, float):
            return value
        series = self.series(name)
        return series[max(series)] if series else None

    def start(self, name: str) -> float | None:
        """The round-0 value of a metric; None if absent."""
        start = self.summary.metrics.get("start")
        if isinstance(start, dict) and name in start:
            return start[name]
        return self.series(name).get(0)

    def names(self) -> list[str]:
        """All metric names of this run, in order of first appearance."""
        in_summary = [name for name, value in self.summary.metrics.items() if not isinstance(value, dict)]
        return list(dict.fromkeys([*self._by_name, *in_summary]))

    @property
    def complete(self) -> bool:
        """Whether the status is complete and the ledger has no refused, omitted or silent client."""
        return self.summary.status == "complete" and not any(
            e.refused or e.left_out or e.silent for e in self.ledger
        )

    @property
    def fingerprint(self) -> str:
        """The experiment without its seed and environment, as JSON: equal for runs of one experiment."""
        same = {k: v for k, v in self.experiment.items() if k not in NOT_THE_EXPERIMENT}
        return json.dumps(same, sort_keys=True, default=str)


def read_run(folder: Path) -> Run:
    """Read one run folder; a missing or broken file raises ExperimentError."""
    if not (folder / "summary.json").is_file():
        if (folder / "metrics.jsonl").is_file():
            raise ExperimentError(
                f"{folder} holds a run that has not ended (no summary.json): "
                f"finish it with `fedloom run --resume {folder}`."
            )
        raise ExperimentError(f"{folder} is no run folder: it holds neither summary.json nor rows.json.")
    check_files(folder, *READ)
    text = _text(folder / "experiment.yaml")
    try:
        experiment = yaml.safe_load(text)
    except yaml.YAMLError as error:
        why = " ".join(str(error).split())
        raise ExperimentError(f"{folder / 'experiment.yaml'} is not valid YAML: {why}.") from error
    if not isinstance(experiment, dict):
        raise ExperimentError(f"{folder / 'experiment.yaml'} must hold a mapping of settings.")
    samples: tuple[SampleRecord, ...] = ()
    if (folder / "samples" / "samples.json").is_file():
        samples = parse(folder / "samples" / "samples.json", tuple[SampleRecord, ...])
    return Run(
        folder=folder,
        experiment=experiment,
        experiment_text=text,
        metrics=lines(folder / "metrics.jsonl", Metric),
        ledger=lines(folder / "ledger.jsonl", LedgerEntry),
        summary=parse(folder / "summary.json", Summary),
        samples=samples,
    )


def inside(folder: Path, name: str, source: Path) -> Path:
    """`folder / name`, as named in the file `source`; ExperimentError if it leads out of `folder`."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ExperimentError(f"{source} names {name!r}, which leads out of {folder}: name a file inside it.")
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ExperimentError(
            f"{path} is missing: every run writes it, so run the experiment again."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path} cannot be read: {error}.") from error


def parse(path: Path, kind: type[T]) -> T:
    """A JSON file validated as `kind`. Raises ExperimentError."""
    return _check(path, _text(path), TypeAdapter(kind))


def lines(path: Path, kind: type[T]) -> tuple[T, ...]:
    """The records of a JSON lines file. Raises ExperimentError that names the first invalid line."""
    adapter = TypeAdapter(kind)
    numbered = enumerate(_text(path).split("\n"), start=1)
    return tuple(_check(f"{path}, line {n}", line, adapter) for n, line in numbered if line.strip())


def _check(where: object, text: str, adapter: TypeAdapter[T]) -> T:
    try:
        value = json.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # JSON's own, a number of 5,000 digits, or a thousand brackets
        why = getattr(error, "msg", error)
        raise ExperimentError(
            f"{where} is not valid JSON ({why}): the file is torn or was edited."
        ) from error
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the record"
        raise ExperimentError(f"{where} is not as a run writes it: {at}: {first['msg']}.") from error
