"""MLflow: metrics by round, settings as parameters, the status as a tag. Its telemetry is off."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fedloom.experiment.tracking.settings import MLflowSettings
from fedloom.experiment.tracking.tracker import Ending, TrackedRun

T = TypeVar("T")
STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MOST_METRICS, MOST_PARAMETERS, LONGEST = 1000, 100, 500
"""Largest number of metrics and of parameters in a request, and of characters of a parameter."""


class MLflow:
    """One MLflow run, in a database or on a server."""

    def __init__(self, settings: MLflowSettings) -> None:
        self.settings = settings
        self._client: Any = None
        self._id = ""

    def open(self, run: TrackedRun, previous: str | None) -> str:
        """Create the run with its parameters, or go on with it."""
        _quiet()
        from mlflow.tracking import MlflowClient

        uri = self.settings.uri or f"sqlite:///{_absolute(run.folder) / 'mlflow.db'}"
        self._client = MlflowClient(uri, registry_uri=uri)
        if previous is not None and self._goes_on(previous):
            return previous
        name = self.settings.experiment or run.experiment
        known = self._client.get_experiment_by_name(name)
        place = None
        if self.settings.uri is None:
            place = (_absolute(run.folder) / "mlflow-artifacts").as_uri()
        experiment = (
            self._client.create_experiment(name, artifact_location=place)
            if known is None
            else known.experiment_id
        )
        self._id = self._client.create_run(experiment, run_name=run.label).info.run_id
        self._write_settings(run.settings)
        return self._id

    def _goes_on(self, previous: str) -> bool:
        """Open a run that is there; False where the store does not know it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(previous)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        self._id = previous
        self._client.update_run(previous, status="RUNNING")
        return True

    def _write_settings(self, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        texts = {n: v if isinstance(v, str) else json.dumps(v) for n, v in settings.items()}
        parameters = [Param(_name(n), text[:LONGEST]) for n, text in texts.items()]
        for some in _parts(parameters, MOST_PARAMETERS):
            self._client.log_batch(self._id, params=some)

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Write the figures with the round as their step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_name(name), value, now, round) for name, value in figures.items()]
        for some in _parts(metrics, MOST_METRICS):
            self._client.log_batch(self._id, metrics=some)

    def log_end(self, round: int, figures: Mapping[str, float]) -> None:
        """The same."""
        self.log(round, figures)

    def close(self, ending: Ending, status: str) -> None:
        """End the run as finished, killed or failed."""
        self._client.set_tag(self._id, "status", status)
        self._client.set_terminated(self._id, STATUS[ending])


def _quiet() -> None:
    """No telemetry; a server that is gone costs seconds, not minutes, unless the environment says otherwise."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")


def _absolute(folder: Path | None) -> Path:
    assert folder is not None  # noqa: S101 - `Track.check` saw to it
    return folder.absolute()


def _name(name: str) -> str:
    """A name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _parts(items: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(items), most):
        yield items[begin : begin + most]
