"""What a method is: typed fields, a scope, explicit state, a pure server function and a client function.

Local training, bytes, checkpoints, privacy and deployment are not here: they follow from the scope.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fedloom.aggregation.mean import weighted_mean
from fedloom.exchange import Payload, Scope
from fedloom.firewall import Reply


@dataclass(frozen=True)
class State:
    """A method's state on the server: the shared tensors, its own tensors, and JSON values. Resume needs nothing else."""

    shared: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def with_shared(self, tensors: Mapping[str, Tensor]) -> "State":
        """The state with these shared tensors replaced; tensors that nobody trained stay bit for bit."""
        return replace(self, shared={**self.shared, **tensors})


class Ask(Protocol):
    """The one door to the clients: asks the round's cohort and returns the replies that passed the firewall."""

    def __call__(self, task: str, payload: Payload, cohort: Sequence[str] | None = None) -> list[Reply]:
        """Replies ordered by client name. `cohort` defaults to the round's."""


class Trainer(Protocol):
    """What a client offers to a method's client function."""

    @property
    def personal(self) -> Mapping[str, Tensor]:
        """The client's own tensors."""

    def train(self, start: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train from these tensors; returns the trained tensors of the client's scope and numbers (examples, loss, steps)."""

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Put these personal tensors into the client's own state."""


class Method(BaseModel):
    """Base of every method. A subclass declares its scope and writes `round`; most need no other code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    scope: ClassVar[Scope]
    pooled: ClassVar[bool] = False
    """True for the upper bound: all clients' data lie in one place."""

    weights: Literal["uniform", "examples"] = Field(
        "uniform", description="clients' weights: equal (the paper's 1/K), or by their number of examples"
    )

    def start(self, tensors: Mapping[str, Tensor]) -> State:
        """The state before round 1, from the model's start values."""
        return State(self.scope.pick(tensors, "shared"))

    def round(self, state: State, ask: Ask) -> State:
        """One round: a pure function of the state and of what the clients answer."""
        raise NotImplementedError

    def client(self, task: str, payload: Payload, trainer: Trainer) -> Payload:
        """What a client does when asked: train from the shared and its personal tensors, keep the one, return the other."""
        if task != "train":
            raise ValueError(f"{self.name} clients know the task train, not {task}")
        trained, numbers = trainer.train({**payload.tensors, **trainer.personal})
        trainer.keep(self.scope.pick(trained, "personal"))
        return Payload(self.scope.pick(trained, "shared"), numbers)

    def client_weights(self, replies: Sequence[Reply]) -> list[float]:
        """p_k of these replies, summing to 1."""
        raw = [1.0 if self.weights == "uniform" else float(reply.examples) for reply in replies]
        return [w / sum(raw) for w in raw]


Combine = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(A (K, r, d_in), B (K, d_out, r), weights (K,)) to the combined pair (A, B)."""


def combine_pairs(replies: Sequence[Reply], weights: Sequence[float], combine: Combine) -> dict[str, Tensor]:
    """Every LoRA pair through `combine`, every other tensor by its mean, each over the clients that trained it.

    Weights are renormalised over a tensor's holders (UniFLoW: an encoder's adapter is combined over the modality's holders).
    """
    held = [reply.payload.tensors for reply in replies]
    names = sorted({name for tensors in held for name in tensors})
    pairs = {n.removesuffix("lora_A") for n in names if n.endswith("lora_A")}
    combined: dict[str, Tensor] = {}
    for place in sorted(pairs):
        holders = [k for k, tensors in enumerate(held) if place + "lora_A" in tensors]
        A, B, p = stack_pair(held, weights, place, holders)
        combined[place + "lora_A"], combined[place + "lora_B"] = combine(A, B, p)
    single = {n for n in names if not n.endswith(("lora_A", "lora_B"))}
    rest = [{n: t for n, t in tensors.items() if n in single} for tensors in held]
    return combined | weighted_mean(rest, weights)


def stack_pair(
    held: Sequence[Mapping[str, Tensor]], weights: Sequence[float], place: str, holders: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The holders' factors of one layer, stacked, with their weights renormalised to 1 (float64)."""
    p = torch.tensor([weights[k] for k in holders], dtype=torch.float64)
    A = torch.stack([held[k][place + "lora_A"] for k in holders])
    B = torch.stack([held[k][place + "lora_B"] for k in holders])
    return A, B, p / p.sum()
