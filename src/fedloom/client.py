"""One client: its data, its personal state, and what it does when the server asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedloom.data.source import ClientData
from fedloom.exchange import Payload, group_of
from fedloom.methods import Method
from fedloom.model import AdaptedModel
from fedloom.training import Training, train


@dataclass(frozen=True)
class Round:
    """Where in the run a client is asked: round 1..rounds of the run with this seed."""

    number: int
    rounds: int
    seed: int


class Client:
    """A data silo. The model is lent to it while it works; only its personal tensors stay with it."""

    def __init__(self, data: ClientData, groups: frozenset[str]) -> None:
        """`groups` are those of the model that the client instantiates; `changed` is the last round that touched `personal`."""
        self.name = data.name
        self.data = data
        self.groups = groups
        self.personal: dict[str, Tensor] = {}
        self.changed = 0
        self._examples: list[Any] | None = None

    def examples(self, model: AdaptedModel) -> list[Any]:
        """The training samples as the model reads them; prepared once."""
        if self._examples is None:
            self._examples = [model.prepare(sample) for sample in self.data.train]
        return self._examples

    def answer(
        self, method: Method, task: str, payload: Payload, model: AdaptedModel, training: Training, at: Round
    ) -> Payload:
        """Do `task` as the method's client function says. The reply shares no memory with the model."""
        session = _Session(self, model, training, at)
        reply = method.client(task, payload, session)
        return Payload(reply.tensors, {**reply.numbers, "round": at.number}).detached()


@dataclass(frozen=True)
class _Session:
    """The Trainer that a method's client function gets: one client, one round."""

    of: Client
    model: AdaptedModel
    training: Training
    at: Round

    @property
    def personal(self) -> Mapping[str, Tensor]:
        return self.of.personal

    def train(self, start: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train all groups that the client holds from `start`; what `start` lacks begins at the model's start values."""
        self.model.load(start)
        examples = self.of.examples(self.model)
        report = train(
            self.model,
            examples,
            self.training,
            held=self.of.groups,
            seed=self.at.seed,
            client=self.of.name,
            round=self.at.number,
            rounds=self.at.rounds,
        )
        trained = {n: p for n, p in self.model.tensors.items() if group_of(n) in report.groups}
        numbers = {"examples": len(examples), "loss": report.loss, "steps": report.steps}
        if cut := sum(bool(getattr(example, "truncated", False)) for example in examples):
            numbers["truncated"] = cut
        return dict(trained), numbers

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """The client's personal tensors from now on; those not named stay as they are."""
        if tensors:
            self.of.personal.update({n: t.detach().clone() for n, t in tensors.items()})
            self.of.changed = self.at.number
