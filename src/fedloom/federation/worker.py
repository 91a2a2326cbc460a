"""A worker: a process that trains cohorts for the run, with the foundation and the clients' data, and no state of any client."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from fedloom.core.errors import DiskError, ExperimentError
from fedloom.core.tensor_files import digest_of
from fedloom.federation.client import Call, Client, Served
from fedloom.federation.local_engine import LocalEngine, in_words, pause
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable
from fedloom.models.training.settings import Training


@dataclass(frozen=True)
class CohortWork:
    """The calls of a cohort's clients, which train together. All that a worker needs to know beside data and model."""

    method: Method
    at: Round
    calls: Mapping[str, Call]


@dataclass(frozen=True)
class Failed:
    """An error of a client's function, in words."""

    reason: str


Results = Mapping[str, Served | Failed]
"""By client: the result of its call."""


@dataclass(frozen=True)
class Identity:
    """What a worker must have in common with the run: the start tensors' digest, and the number of training samples by client."""

    start: str
    samples: Mapping[str, int]


def identity(model: Trainable, clients: Mapping[str, Client]) -> Identity:
    """The identity of a model and its clients."""
    tensors: dict[str, Tensor] = {**model.start, **model.frozen}
    return Identity(digest_of(tensors), {name: len(client.data.train) for name, client in clients.items()})


@dataclass
class Worker:
    """Serves calls of a cohort's clients as the local engine would. `keep`: objects that live as long as the worker."""

    model: Trainable
    clients: Mapping[str, Client]
    training: Training
    keep: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engine = LocalEngine(self.model, self.clients, self.training)

    def check(self, expected: Identity) -> None:
        """Raise ExperimentError where model or data are not those of the run."""
        own = identity(self.model, self.clients)
        if own.samples != expected.samples:
            names = own.samples.keys() | expected.samples.keys()
            name = min(n for n in names if own.samples.get(n) != expected.samples.get(n))
            raise ExperimentError(
                f"a worker finds {own.samples.get(name, 0)} training samples of client {name} and the run "
                f"{expected.samples.get(name, 0)}; do all machines read the same files?"
            )
        if own.start != expected.start:
            raise ExperimentError(
                "a worker begins with other adapters than the run; do all machines have the same versions?"
            )

    def work(self, cohort: CohortWork) -> Results:
        """The result of every call. Raises DiskError where this machine's own disk fails."""
        results: dict[str, Served | Failed] = {}

        def arrive(result: tuple[str, Served | Failed]) -> None:
            results[result[0]] = result[1]

        calls = {name: partial(self._serve, cohort, name) for name in cohort.calls}
        self._engine.together(calls, arrive)
        self.model.rest()
        return results

    def _serve(self, cohort: CohortWork, name: str) -> tuple[str, Served | Failed]:
        call, client = cohort.calls[name], self.clients[name]
        try:
            own = Call(call.request, call.payload.detached(), call.personal, call.memory)
            return name, client.serve(cohort.method, own, self.model, self.training, cohort.at, pause)
        except DiskError:  # this machine's disk, not the client
            raise
        except Exception as error:  # any error at a client counts as its refusal
            return name, Failed(in_words(error))
