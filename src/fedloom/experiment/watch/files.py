"""A run's folder as it is read again and again while the run writes into it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat

from fedloom.core.folder_lock import LOCK, is_locked
from fedloom.experiment.report.predictions import Prediction
from fedloom.experiment.report.read import (
    LAYER,
    RELIABILITY,
    LedgerEntry,
    Metric,
    Record,
    SampleRecord,
    Summary,
)
from fedloom.experiment.watch.growing import Document, Lines, of_kind, sealed, stamp
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.federation.run_events import DOING, EVENTS


class Held(Record):
    """A client's modalities and numbers of samples."""

    holds: tuple[str, ...] = ()
    train: int = 0
    test: int = 0


class Event(Record):
    """A line of `state/events.jsonl`."""

    event: str
    time: FiniteFloat
    after: int = -1
    round: int = 0
    rounds: int = 0
    why: str = ""
    clients: dict[str, Held] = Field(default_factory=dict)


class Doing(Record):
    """`state/doing.json`: what is being done since when."""

    text: str
    time: FiniteFloat


class RunFiles:
    """The files of one run; `read_on` reads what is new."""

    def __init__(self, folder: Path) -> None:
        self.folder, state = folder, folder / "state"
        self.metrics = Lines(folder / "metrics.jsonl", Metric, _is_shown)
        self.ledger = Lines(folder / "ledger.jsonl", LedgerEntry)
        self.events = Lines(state / EVENTS, Event)
        self.predictions = [Lines(folder / f"predictions-{moment}.jsonl", Prediction) for moment in MOMENTS]
        self.experiment = Document(folder / "experiment.yaml", read_yaml)
        self.summary = Document(folder / "summary.json", of_kind(Summary))
        self.doing = Document(state / DOING, of_kind(Doing))
        self.samples = Document(folder / "samples" / "samples.json", of_kind(tuple[SampleRecord, ...]))
        self.sites = Document(folder / "sites.json", of_kind(dict[str, Held]))
        self.provenance = Document(state / "provenance.json", sealed)
        self.locked = False
        self._resumes = 0
        self._series: dict[str, dict[int, float]] = {}
        self._placed, self._beginning = 0, 0

    def read_on(self) -> bool:
        """Read what is new; True if anything is."""
        locked, before = is_locked(self.folder), self.locked
        self.locked = locked
        changed = self.events.read_on()
        resumes = sum(event.event == "resumed" for event in self.events.records)
        if resumes != self._resumes:  # the histories were cut: lines that were read may be gone
            self._resumes = resumes
            self.metrics.forget()
            self.ledger.forget()
        documents: Sequence[Lines[Any] | Document[Any]] = (
            self.experiment,
            self.summary,
            self.metrics,
            self.ledger,
            self.doing,
            self.samples,
            self.sites,
            self.provenance,
            *self.predictions,
        )
        return any([changed, locked != before, *[one.read_on() for one in documents]])

    @property
    def begun(self) -> bool:
        """Whether the run has begun: its experiment is written once data and model are loaded."""
        return self.experiment.value is not None

    @property
    def lock_is_new(self) -> bool:
        """Whether the process that holds the lock has not yet said that it goes on with the run."""
        taken = stamp(self.folder / LOCK)
        events = self.events.records
        return self.locked and taken is not None and bool(events) and taken[2] > 1e9 * events[-1].time + 1e7

    def settings(self) -> dict[str, Any]:
        """The experiment's fields; empty where they are none."""
        fields = self.experiment.value
        return fields if isinstance(fields, dict) else {}

    def series(self) -> dict[str, dict[int, float]]:
        """Values by round of every figure, in order of first appearance; a repeated line overrides earlier ones."""
        if self._beginning != self.metrics.beginnings:
            self._series, self._placed, self._beginning = {}, 0, self.metrics.beginnings
        for metric in self.metrics.records[self._placed :]:
            self._series.setdefault(metric.name, {})[metric.round] = metric.value
        self._placed = len(self.metrics.records)
        return self._series

    def held(self) -> dict[str, Held]:
        """Every client's modalities and sample counts: from the run's end, its beginning, or the sites."""
        if self.summary.value is not None:
            return {
                c.client: Held(holds=c.holds, train=c.train, test=c.test) for c in self.summary.value.clients
            }
        begun = next((event.clients for event in reversed(self.events.records) if event.clients), {})
        return begun or self.sites.value or {}

    def accepted(self) -> list[str]:
        """The changes that were accepted on resume, a clause each."""
        accepted = (self.provenance.value or {}).get("accepted")
        return [str(change) for change in accepted] if isinstance(accepted, list) else []

    def unreadable(self) -> list[str]:
        """A sentence per file with lines of another form."""
        files: Sequence[Lines[Any]] = (self.metrics, self.ledger, self.events, *self.predictions)
        return [f"{f.bad} line{'s' * (f.bad > 1)} of {f.path.name} cannot be read." for f in files if f.bad]


MOMENTS = ("start", "end")


def _is_shown(metric: Metric) -> bool:
    """All but the hundreds of figures of single layers."""
    return not metric.name.startswith((LAYER, RELIABILITY))
