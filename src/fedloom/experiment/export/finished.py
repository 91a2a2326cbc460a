"""A finished run, as a model card describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.experiment.finished_run import read_experiment, read_summary
from fedloom.experiment.report.read import read_run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.experiment.settings import Experiment
from fedloom.tasks.metrics.bootstrap import Interval, bootstrap_interval


@dataclass(frozen=True)
class Finished:
    """The experiment, the summary, the versions and the intervals of a run."""

    experiment: Experiment
    summary: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """Bootstrap intervals over test samples by figure, where the run kept the samples that give it."""


def read_finished(folder: Path) -> Finished:
    """Read a run's folder. Raises ExperimentError for a run that has not ended, DiskError for a damaged one."""
    run, values = read_run(folder), SampleValues()
    intervals = {}
    for name in (n for n, value in run.summary.metrics.items() if isinstance(value, float)):
        own = values.of_run(run, name)
        if own is not None and len(own) > 1:
            intervals[name] = bootstrap_interval(list(own.values()))
    versions = {n: str(v) for n, v in run.experiment.get("versions", {}).items()}
    return Finished(read_experiment(folder), read_summary(folder), versions, intervals)
