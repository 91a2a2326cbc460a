"""The pool protocol: some workers, each in a process of its own, reached by number."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedloom.core.errors import ExperimentError
from fedloom.core.tensor_messages import Packed, pack
from fedloom.federation.worker import CohortWork, Identity, Results, Worker
from fedloom.models.base import Trainable


@dataclass(frozen=True)
class Ready:
    """A worker has started."""

    worker: int


@dataclass(frozen=True)
class Answered:
    """A worker has served a cohort."""

    worker: int
    results: Results


@dataclass(frozen=True)
class Lost:
    """A worker has ended; `reason` completes "a worker"."""

    worker: int
    reason: str


Event = Ready | Answered | Lost
Make = Callable[[int], Worker]
"""Builds the worker of a number, in the worker's process."""


def packed(make: Make) -> Packed:
    """The message that builds a worker. Raises ExperimentError for one that cannot be sent to a process."""
    try:
        return pack(make)
    except Exception as error:  # whatever the objects of a user's experiment raise
        raise ExperimentError(
            f"engine.workers: the experiment cannot be sent to a process of its own ({type(error).__name__}: {error}); train in "
            "this one"
        ) from error


class Pool(Protocol):
    """Workers numbered from 0."""

    @property
    def count(self) -> int:
        """The number of workers."""

    def open(self, model: Trainable, expected: Identity) -> None:
        """Give the workers the run's frozen weights, and let them check what they have read; `events` tells who is ready."""

    def idle(self) -> Sequence[int]:
        """The workers that are ready and have no cohort."""

    def send(self, worker: int, cohort: CohortWork) -> None:
        """Send a cohort to an idle worker; one that has ended meanwhile is an event."""

    def events(self) -> Iterator[Event]:
        """What has happened since the last call; waits for something. Raises ExperimentError for a worker that refuses."""

    def renew(self, worker: int) -> None:
        """Start a lost worker anew."""

    def close(self) -> None:
        """End all workers."""
