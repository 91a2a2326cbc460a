"""Typed records of a run folder and of a folder of rows (methods, columns and seeds of one experiment file)."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from fedloom.errors import ExperimentError

# A figure that could not be computed is null on disk; it stays visible as "not finite".
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
T = TypeVar("T")

LAYER = "layer/"
"""How the name of a single layer's metric begins: there are hundreds, so that only `layers.py` shows them."""

NOT_THE_EXPERIMENT = ("seed", "versions", "commit", "out")
"""Keys of `experiment.yaml` that may differ between two runs of one and the same experiment."""


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
    task: str = "train"
    asked: tuple[str, ...] = ()
    answered: tuple[str, ...] = ()
    refused: dict[str, str] = {}
    bytes_up: int = 0
    bytes_down: int = 0
    groups_up: dict[str, int] = {}
    groups_down: dict[str, int] = {}
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def silent(self) -> tuple[str, ...]:
        """Clients that were asked and neither answered nor were refused."""
        return tuple(c for c in self.asked if c not in self.answered and c not in self.refused)


class ClientSummary(Record):
    """What one client holds (modalities, numbers of train and test samples) and how it stands at the end."""

    client: str
    holds: tuple[str, ...] = ()
    train: int = 0
    test: int = 0
    metrics: dict[str, Number] = {}


class Summary(Record):
    """`summary.json`. `metrics` maps a name to its last-round value, and "start" to the round-0 values."""

    name: str
    row: str = ""
    method: str = ""
    seed: int = 0
    rounds: int = 0
    seconds: float = 0.0
    status: str
    metrics: dict[str, Number | dict[str, Number]] = {}
    trainable_parameters: int | None = None
    shared_parameters: int | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    restoration_error: float | None = None
    clients: tuple[ClientSummary, ...] = ()


class SampleRecord(Record):
    """One test question with the model's answers before and after; media are files beside `samples.json`."""

    uid: str
    client: str = ""
    kind: str = "text"
    question: str
    reference: str
    before: str | None = None
    after: str | None = None
    spoken: str | None = None
    image: str | None = None
    audio: str | None = None
    depth: str | None = None
    thermal: str | None = None
    imu: str | None = None


class RowEntry(Record):
    """One entry of `rows.json`: the run folder of a row (a method), a column (a task) and a seed, relative to the file."""

    row: str
    across: str | None = None
    seed: int
    path: str


@dataclass(frozen=True)
class Run:
    """One run folder, read and checked."""

    folder: Path
    experiment: dict[str, Any]
    experiment_text: str
    metrics: tuple[Metric, ...]
    ledger: tuple[LedgerEntry, ...]
    summary: Summary
    samples: tuple[SampleRecord, ...]

    @property
    def across(self) -> str | None:
        """The column of the table that this run fills, such as a task; None where its study has no such axis."""
        across = self.experiment.get("across")
        return None if across is None else str(across)

    @cached_property
    def _by_name(self) -> dict[str, dict[int, float]]:
        found: dict[str, dict[int, float]] = {}
        for metric in self.metrics:
            found.setdefault(metric.name, {})[metric.round] = metric.value
        return {name: dict(sorted(series.items())) for name, series in found.items()}

    def series(self, name: str) -> dict[int, float]:
        """Value by round of the metric called `name`; of repeated lines the last one counts."""
        return dict(self._by_name.get(name, {}))

    def final(self, name: str) -> float | None:
        """The last round's value of a metric, from the summary or else the lines; None if absent."""
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
        """Every metric name of this run, in the order of first appearance."""
        told = [name for name, value in self.summary.metrics.items() if not isinstance(value, dict)]
        return list(dict.fromkeys([*self._by_name, *told]))

    @property
    def complete(self) -> bool:
        """Plainly complete: the status says so and the ledger knows of no refused and no silent client."""
        return self.summary.status == "complete" and not any(e.refused or e.silent for e in self.ledger)

    @property
    def fingerprint(self) -> str:
        """Equal for two runs of one experiment that differ in their seed only."""
        same = {k: v for k, v in self.experiment.items() if k not in NOT_THE_EXPERIMENT}
        return json.dumps(same, sort_keys=True, default=str)


@dataclass(frozen=True)
class Study:
    """What a report is about: rows (methods) in order, each with its runs (columns such as tasks, times seeds)."""

    name: str
    folder: Path
    rows: dict[str, tuple[Run, ...]]

    @property
    def runs(self) -> list[Run]:
        """Every run of every row."""
        return [run for runs in self.rows.values() for run in runs]

    def names(self) -> list[str]:
        """Every metric name of any run but those of single layers, in the order of first appearance."""
        told = dict.fromkeys(name for run in self.runs for name in run.names())
        return [name for name in told if not name.startswith(LAYER)]

    @property
    def across(self) -> tuple[str, ...]:
        """The columns that the runs are spread over, in order; empty for a study without that axis."""
        return tuple(dict.fromkeys(run.across for run in self.runs if run.across is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the experiment asks for; empty where it leaves the choice."""
        told = (run.experiment.get("columns") for run in self.runs)
        return tuple(next((map(str, c) for c in told if isinstance(c, list | tuple) and c), ()))

    def parts(self) -> "dict[str | None, Study]":
        """One study per column, all with the same rows, a row without runs there empty; itself under None if it has none."""
        if not self.across:
            return {None: self}
        found: dict[str | None, Study] = {}
        for across in self.across:
            kept = {row: tuple(r for r in runs if r.across == across) for row, runs in self.rows.items()}
            name = f"{self.name}, {across}"
            found[across] = Study(name, self.folder, kept)
        return found

    def flat(self) -> "Study":
        """The same runs with a row of its own for every row and column."""
        if not self.across:
            return self
        named: dict[str, list[Run]] = {}
        for row, runs in self.rows.items():
            for run in runs:
                named.setdefault(row if run.across is None else f"{row}, {run.across}", []).append(run)
        return Study(self.name, self.folder, {row: tuple(runs) for row, runs in named.items()})


def read_run(folder: Path) -> Run:
    """Read one run folder; a missing or broken file raises ExperimentError."""
    if not (folder / "summary.json").is_file():
        if (folder / "metrics.jsonl").is_file():
            raise ExperimentError(
                f"{folder} holds a run that has not ended (no summary.json): "
                f"finish it with `fedloom run --resume {folder}`."
            )
        raise ExperimentError(f"{folder} is no run folder: it holds neither summary.json nor rows.json.")
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
        samples = _parse(folder / "samples" / "samples.json", tuple[SampleRecord, ...])
    return Run(
        folder=folder,
        experiment=experiment,
        experiment_text=text,
        metrics=lines(folder / "metrics.jsonl", Metric),
        ledger=lines(folder / "ledger.jsonl", LedgerEntry),
        summary=_parse(folder / "summary.json", Summary),
        samples=samples,
    )


def read(folder: Path) -> Study:
    """Read a single run folder or a folder of rows.

    A broken or missing file, a row's path that leads out of the folder, and a row and seed named twice raise
    ExperimentError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExperimentError(f"{folder} is no folder: name the folder that a run was written to.")
    if not (folder / "rows.json").is_file():
        run = read_run(folder)
        return Study(run.summary.name, folder, {run.summary.row or run.summary.method or "run": (run,)})
    entries = _parse(folder / "rows.json", tuple[RowEntry, ...])
    if not entries:
        raise ExperimentError(f"{folder / 'rows.json'} names no run: it must list at least one row.")
    rows: dict[str, list[Run]] = {}
    seen: set[tuple[str, str | None, int]] = set()
    for entry in entries:
        key = (entry.row, entry.across, entry.seed)
        if key in seen:
            raise ExperimentError(
                f"{folder / 'rows.json'} names row {entry.row!r} with seed {entry.seed} twice: once is right."
            )
        seen.add(key)
        rows.setdefault(entry.row, []).append(read_run(inside(folder, entry.path, folder / "rows.json")))
    name = next(iter(rows.values()))[0].summary.name
    return Study(name, folder, {row: tuple(runs) for row, runs in rows.items()})


def gather(folders: Path | Sequence[Path]) -> Study:
    """Read one or several folders into one study.

    Runs of different folders are pooled as seeds of one row only if their experiments are equal but for the
    seed; otherwise equal row names are told apart by their folder.
    """
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(f) for f in folders]
    if not paths:
        raise ExperimentError("There is nothing to compare: name at least one run folder.")
    studies = [read(path) for path in paths]
    if len(studies) == 1:
        return studies[0]
    groups: dict[tuple[str, object], list[tuple[Study, Run]]] = {}
    for study in studies:
        for row, runs in study.rows.items():
            key: tuple[str, object] = (row, tuple(sorted({run.fingerprint for run in runs})))
            taken = {(run.across, run.summary.seed) for _, run in groups.get(key, [])}
            # the same seed again is no further evidence
            if taken & {(run.across, run.summary.seed) for run in runs}:
                key = (row, str(study.folder))
            groups.setdefault(key, []).extend((study, run) for run in runs)
    labels = [row for row, _ in groups]
    rows: dict[str, tuple[Run, ...]] = {}
    for (row, _), members in groups.items():
        label = row if labels.count(row) == 1 else f"{row} ({members[0][0].folder})"
        if label in rows:
            raise ExperimentError(f"{members[0][0].folder} is named twice: name every folder once.")
        rows[label] = tuple(run for _, run in members)
    return Study(" / ".join(dict.fromkeys(s.name for s in studies)), paths[0], rows)


def inside(folder: Path, name: str, told_by: Path) -> Path:
    """`folder / name`, refused with ExperimentError if it leads out of `folder`."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ExperimentError(
            f"{told_by} names {name!r}, which leads out of {folder}: name a file inside it."
        )
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


def _parse(path: Path, kind: type[T]) -> T:
    return _check(path, _text(path), TypeAdapter(kind))


def lines(path: Path, kind: type[T]) -> tuple[T, ...]:
    """The records of a JSON lines file. Raises ExperimentError with the line that is not as a run writes it."""
    adapter = TypeAdapter(kind)
    numbered = enumerate(_text(path).split("\n"), start=1)
    return tuple(_check(f"{path}, line {n}", line, adapter) for n, line in numbered if line.strip())


def _check(where: object, text: str, adapter: TypeAdapter[T]) -> T:
    try:
        return adapter.validate_python(json.loads(text))
    except json.JSONDecodeError as error:
        raise ExperimentError(
            f"{where} is not valid JSON ({error.msg}): the file is torn or was edited."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"]) or "the record"
        raise ExperimentError(f"{where} is not as a run writes it: {at}: {first['msg']}.") from error
