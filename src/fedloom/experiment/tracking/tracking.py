"""The trackers of one run, as one callback: each round goes to each tracker once, and no fault of theirs ends the run.

A tracker's id and last round stand in `state/tracking.json`, written before the round is sent. So a resume goes on with the
same tracker's run, adds the rounds that it lacks, and sends none twice; a kill between the two costs the tracker one round.
"""

import json
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fedloom.core.activity import tell
from fedloom.core.files import write_atomic
from fedloom.core.plain_text import plain
from fedloom.experiment.tracking.figures import of_end, of_round
from fedloom.experiment.tracking.mlflow import MLflow
from fedloom.experiment.tracking.settings import Track
from fedloom.experiment.tracking.tensorboard import TensorBoard
from fedloom.experiment.tracking.tracker import Ending, TrackedRun, Tracker
from fedloom.experiment.tracking.wandb import WandB
from fedloom.federation.progress import Progress, Stopped, Totals
from fedloom.federation.run_folder import RunFolder

TRACKERS: Mapping[str, Callable[[Any], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
BEFORE, OVER = -1, 2**31
"""The last round of a tracker without any, and of one that has the figures of the run's end."""


@dataclass
class _Open:
    """A tracker at work: its name, its id, and the last round that it was sent."""

    name: str
    tracker: Tracker
    most_clients: int
    id: str | None = None
    round: int = BEFORE


class Tracking:
    """The callback. It does nothing without trackers, and before `begin`."""

    def __init__(self, track: Track, folder: RunFolder | None) -> None:
        """Raises ExperimentError for a tracker whose package is missing, or that has no place to write to."""
        track.check(has_folder=folder is not None)
        self.folder = folder
        self._open = [
            _Open(name, TRACKERS[name](settings), settings.most_clients)
            for name, settings in track.chosen().items()
        ]
        self.status = ""
        """The run's status in words, once it is finished."""
        self._totals = Totals()
        self._clients: Sequence[str] = ()
        self._last = 0
        self._said: list[str] = []

    def begin(self, run: TrackedRun, clients: Sequence[str], totals: Totals, finished: int | None) -> None:
        """Open the trackers, and send them the rounds up to `finished` that they lack; None: none is finished.

        `clients`: the names of all clients. `totals` takes note of faults.
        """
        self._totals, self._clients = totals, clients
        if not self._open:
            return
        tell("opening the trackers")
        known = self._record()
        for one in list(self._open):
            previous = known.get(one.name, {})
            with self._safe(one, "before the first round" if finished is None else f"after round {finished}"):
                one.id = one.tracker.open(run, previous.get("id"))
                self._mark(one, previous.get("round", BEFORE) if one.id == previous.get("id") else BEFORE)
        self._last = max(finished or 0, 0)
        if finished is not None and self.folder is not None and self._open:
            self._catch_up(finished, self.folder)

    def __call__(self, progress: Progress) -> Progress:
        """Send a finished round to the trackers; returns the report with a note on each tracker that stopped."""
        if progress.client is None:
            self._last = progress.round
            self._send(progress.round, progress.metrics, progress.ledger, progress.client_metrics)
            if self._said:
                progress = replace(progress, notes=(*progress.notes, *self._said))
                self._said = []
        return progress

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Close the trackers when what is inside is over, interrupted or broken."""
        try:
            yield
        except BaseException as error:
            wanted = isinstance(error, Stopped) or not isinstance(error, Exception)
            ending: Ending = "stopped" if wanted else "failed"
            self._close(ending, f"{ending} after round {self._last}")
            raise
        self._close("finished", self.status)

    def finish(self, round: int, metrics: Mapping[str, float], privacy: Mapping[str, Any] | None) -> None:
        """Send what the last round's figures lack: the controls, and the privacy spent."""
        for one in list(self._open):
            if one.round < OVER:
                with self._safe(one, "at the end"):
                    self._mark(one, OVER)
                    one.tracker.log_end(round, of_end(metrics, privacy))

    def _send(
        self,
        round: int,
        metrics: Mapping[str, float],
        entries: Iterable[Mapping[str, Any]],
        own: Mapping[str, Mapping[str, float]],
    ) -> None:
        listed = list(entries)
        for one in list(self._open):
            if one.round < round:
                hidden = self._hidden(one)
                with self._safe(one, f"in round {round}"):
                    self._mark(one, round)
                    one.tracker.log(round, of_round(metrics, listed, {} if hidden else own, hidden))

    def _catch_up(self, finished: int, folder: RunFolder) -> None:
        """Send what the run's files hold and a tracker lacks."""
        metrics: defaultdict[int, dict[str, float]] = defaultdict(dict)
        entries: defaultdict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for line in folder.history("metrics.jsonl"):
            metrics[line["round"]][line["name"]] = line["value"]
        for entry in folder.history("ledger.jsonl"):
            entries[entry["round"]].append(entry)
        for round in range(finished + 1):
            self._send(round, metrics[round], entries[round], {})

    def _hidden(self, one: _Open) -> Sequence[str]:
        """The clients whose figures a tracker does not get."""
        return self._clients if len(self._clients) > one.most_clients else ()

    def _close(self, ending: Ending, status: str) -> None:
        for one in list(self._open):
            with self._safe(one, "at the end"):
                one.tracker.close(ending, status)
        self._open = []
        for sentence in self._said:  # no round is left to say it with
            warnings.warn(sentence, RuntimeWarning, stacklevel=2)
        self._said = []

    @contextmanager
    def _safe(self, one: _Open, moment: str) -> Iterator[None]:
        """Let a tracker that fails go, with a sentence; the run goes on."""
        try:
            yield
        except Exception as error:  # whatever its library raises
            self._open.remove(one)
            why = plain(f"{type(error).__name__}: {error}", 200)
            self._said.append(f"the tracker {one.name} stopped {moment} ({why}); the run goes on without it")
            self._totals.untracked.append(f"the tracker {one.name} stopped {moment}")

    def _record(self) -> dict[str, dict[str, Any]]:
        """The trackers' ids and last rounds as they were written; nothing where there are none, or they cannot be read."""
        file = None if self.folder is None else self.folder.tracking
        try:
            known = {} if file is None else json.loads(file.read_bytes())
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}

    def _mark(self, one: _Open, round: int) -> None:
        """Write a tracker's last round down before it is sent."""
        one.round = round
        if self.folder is not None:
            known = self._record() | {one.name: {"id": one.id, "round": round}}
            write_atomic(self.folder.tracking, json.dumps(known).encode())
