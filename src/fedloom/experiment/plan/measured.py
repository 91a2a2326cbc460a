"""A probe's measurements, and the evaluator that makes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedloom.experiment.plan.probe_engine import RoundTraining
from fedloom.experiment.plan.stopwatch import Stopwatch, Time
from fedloom.tasks.base import Evaluator, Snapshot
from fedloom.tasks.evaluation import Assessment, TestSet


@dataclass
class Measured:
    """A probe's measurements. Times of shortened evaluations are those of `tests` samples."""

    start: Time = field(default_factory=Time)
    rounds: dict[int, Time] = field(default_factory=dict)
    """Time of a round without its evaluation."""
    training: dict[int, RoundTraining] = field(default_factory=dict)
    evaluations: dict[tuple[int, bool], Time] = field(default_factory=dict)
    """Time by round and by whether answers are generated."""
    end: Time | None = None
    controls: Time = field(default_factory=Time)
    tests: int = 0
    all_tests: int = 0
    ledger: Sequence[Mapping[str, Any]] = field(default_factory=list)
    sent: dict[int, dict[str, tuple[int, int]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    rises: dict[str, int] = field(default_factory=dict)
    features: int = 0
    """Bytes of cached features."""
    shortened: bool = False
    stopped: bool = False
    """Whether the time was over before the probe was."""


@dataclass
class TimedEvaluator:
    """Measures an evaluator's time and memory."""

    inner: Evaluator
    watch: Stopwatch
    measured: Measured
    spent: Time = field(default_factory=Time)

    @property
    def tests(self) -> TestSet:
        """The evaluator's test samples."""
        return self.inner.tests

    def assess(self, snapshot: Snapshot) -> Assessment:
        """The evaluator's assessment; notes its time by round."""
        began = self.watch.now()
        with self.watch.phase("evaluation"):
            assessment = self.inner.assess(snapshot)
        took = self.watch.now() - began
        self.measured.evaluations[snapshot.number, snapshot.generate] = took
        self.spent += took
        return assessment

    def controls(self, common: Mapping[str, Any]) -> Mapping[str, float]:
        """The evaluator's controls; notes their time."""
        began = self.watch.now()
        with self.watch.phase("evaluation"):
            figures = self.inner.controls(common)
        self.measured.controls = self.watch.now() - began
        return figures


class NoEvaluator(TimedEvaluator):
    """Evaluates nothing."""

    def assess(self, snapshot: Snapshot) -> Assessment:
        """No figures."""
        return Assessment({}, {}, [])
