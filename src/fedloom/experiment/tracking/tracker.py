"""A tracker: one run in an experiment tracker's own store."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Ending = Literal["finished", "stopped", "failed"]
"""finished: all rounds are over; stopped: interrupted, to be resumed; failed: an error ended it."""


@dataclass(frozen=True)
class TrackedRun:
    """The run, as trackers name and describe it."""

    experiment: str
    """The experiment's name."""
    label: str
    """Experiment, row, column and seed."""
    settings: Mapping[str, Any]
    """Every setting by its dotted name, as JSON values."""
    folder: Path | None
    """The run's folder, if it has one."""

    @property
    def file_name(self) -> str:
        """The label as the name of a folder."""
        return re.sub(r"[^\w.-]+", "-", self.label).strip("-.")


class Tracker(Protocol):
    """One tracker. Every method may raise anything; the run then goes on without it."""

    def open(self, run: TrackedRun, previous: str | None) -> str:
        """Open the run whose id is `previous`, or a new one if that is None or gone; returns its id."""

    def log(self, round: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a round to disk, or send them."""

    def log_end(self, round: int, figures: Mapping[str, float]) -> None:
        """The same for further figures of the last round, which only the run's end gives."""

    def close(self, ending: Ending, status: str) -> None:
        """End the tracker's run, with the run's status in words."""
