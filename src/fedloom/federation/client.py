"""One client: its data, its personal tensors, and its answers to the server's requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from fedloom.core.payload import EVERYTHING, Payload, Scope, group_of, lent, not_finite
from fedloom.core.streams import torch_stream
from fedloom.data.client_data import ClientData
from fedloom.federation.client_states import ClientStates, States
from fedloom.federation.settings import Round
from fedloom.methods import Method
from fedloom.models.base import Trainable
from fedloom.models.example_cache import ExampleCache
from fedloom.models.loading.examples import Examples, from_files, is_cut
from fedloom.models.loading.prepared import loaded
from fedloom.models.lora.layers import fresh_factor
from fedloom.models.lora.ranks import Shapes, cut, ratios, to_client
from fedloom.models.training.loop import LocalJob, Outcome
from fedloom.models.training.settings import Penalty, Training, proximal
from fedloom.privacy.settings import Privacy

if TYPE_CHECKING:
    from fedloom.privacy.secure.terms import Safeguards

SUM = "secure/"
"""Prefix of the requests that are phases of a secure sum; all others belong to the method."""


@dataclass(frozen=True)
class Call:
    """One call of a method's client function: the request, and all that the function reads of the client's past."""

    request: str
    payload: Payload
    personal: Mapping[str, Tensor]
    """The client's personal tensors."""
    memory: Mapping[str, Any]
    """The client function's memory between the asks of one round."""


@dataclass(frozen=True)
class Served:
    """Result of a call: the reply, the personal tensors if any were kept, and the memory for the round's next ask."""

    payload: Payload
    personal: Mapping[str, Tensor] | None
    memory: dict[str, Any]


@dataclass
class Client:
    """A data silo. The model is lent to it while it works; only its personal tensors stay with it, in a file.

    `groups`: the model's groups that the client instantiates. `shapes`: its ranks and scales where they differ from the model's.
    `start`: whether it begins from the common adapter or draws its own. `privacy`: the settings that the client itself insists
    on. `states` (the clients' personal tensors on disk) and `prepared` (an LRU cache of prepared samples) are shared by all
    clients of a federation. `begin`: the personal tensors' initial values.
    """

    data: ClientData
    groups: frozenset[str]
    shapes: Shapes = field(default_factory=dict)
    start: Literal["common", "own"] = "common"
    privacy: Privacy = field(default_factory=Privacy)
    states: States = field(default_factory=ClientStates)
    example_cache: ExampleCache = field(default_factory=lambda: ExampleCache(2**30))
    begin: Mapping[str, Tensor] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    """The client function's memory between the asks of one round; cleared when the next round begins."""
    loaded: Examples | None = None
    """The training samples from files, read as they are used."""
    sums: dict[str, Any] = field(default_factory=dict)
    """The client's secrets between the phases of a secure sum."""
    safeguards: "Safeguards | None" = None
    """Its safeguards in a secure sum against a server that does not follow the protocol."""

    @property
    def name(self) -> str:
        """The client's name."""
        return self.data.name

    def held(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the client's groups, cut to its ranks."""
        return cut({n: t for n, t in tensors.items() if group_of(n) in self.groups}, self.shapes)

    @property
    def personal(self) -> dict[str, Tensor]:
        """The client's personal tensors, read from its file at every access."""
        own = self.states.read(self.name)
        return {n: lent(t) for n, t in self.held(self.begin).items()} if own is None else own

    def view(self, payload: Payload) -> Payload:
        """This client's part of a payload for all clients: its groups, in its ranks."""
        own = {n: t for n, t in payload.tensors.items() if group_of(n) in self.groups}
        return Payload(to_client(own, self.shapes), payload.numbers)

    @cached_property
    def _from_files(self) -> bool:
        return from_files(self.data.train)

    def examples(self, model: Trainable) -> Sequence[Any]:
        """The prepared training samples, from the cache; prepared again after an eviction. Those from files as they are used."""
        if self._from_files:
            if self.loaded is None:
                self.loaded = loaded(model, self.data.train, self.name)
            if self.loaded is not None:
                return self.loaded
        examples: list[Any] = self.example_cache.of(
            self.name, lambda: [model.prepare(s, self.name) for s in self.data.train]
        )
        return examples

    def answer(
        self,
        method: Method,
        request: str,
        payload: Payload,
        model: Trainable,
        training: Training,
        at: Round,
        work: Callable[[LocalJob], Outcome],
    ) -> Payload:
        """Run the method's client function here; `work` executes its training jobs. See `answered` and `serve`."""

        def serve(call: Call) -> Served:
            return self.serve(method, call, model, training, at, work)

        return self.answered(method, request, payload, at, serve)

    def answered(
        self,
        method: Method,
        request: str,
        payload: Payload,
        at: Round,
        serve: Callable[[Call], Served],
    ) -> Payload:
        """The reply to a request, or to one phase of a secure sum; `serve` runs the method's client function, here or elsewhere.

        Personal tensors are written at the end, so that a client that raises is unchanged.
        """
        if self.memory.get("round") != at.number:
            self.memory = {"round": at.number}
        kept: list[Mapping[str, Tensor]] = []

        def do(request: str, payload: Payload) -> Payload:
            served = serve(Call(request, payload, self.personal, self.memory))
            self.memory = served.memory
            if served.personal is not None:
                kept.append(served.personal)
            return served.payload

        reply = (
            self._in_sum(method, request, payload, at, do)
            if request.startswith(SUM)
            else do(request, payload)
        )
        if kept:
            self.states.write(self.name, at.number, kept[-1])
        return Payload(reply.tensors, {**reply.numbers, "round": at.number})

    def serve(
        self,
        method: Method,
        call: Call,
        model: Trainable,
        training: Training,
        at: Round,
        work: Callable[[LocalJob], Outcome],
    ) -> Served:
        """The result of the method's client function; it shares no memory with the model.

        All that the function reads of this client is in the call, in the client's data and in what it was built with, so that any
        process with the same data can serve it. Raises FloatingPointError where a personal tensor is not finite.
        """
        session = _Session(
            self, model, training, method.scope, at, work, dict(call.personal), dict(call.memory)
        )
        reply = method.client(call.request, call.payload, session)
        if session.kept:
            _check_finite({n: session.personal[n] for n in session.kept})
        return Served(reply, session.personal if session.kept else None, session.memory)

    def _in_sum(
        self, method: Method, request: str, payload: Payload, at: Round, do: Callable[[str, Payload], Payload]
    ) -> Payload:
        """One phase of a secure sum; one of the phases runs the method's own request."""
        from fedloom.privacy.secure.client import answer  # needs the extra `privacy`
        from fedloom.privacy.secure.terms import Safeguards, Terms

        dp = self.privacy.dp
        stream = (at.seed, ("dp", at.number)) if dp is not None and dp.seeded else None
        safeguards = self.safeguards or Safeguards()
        terms = Terms(self.privacy, method.weights == "examples", stream, at.number, safeguards)
        return answer(self.name, self.sums, request, payload, do, terms)


def _check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise FloatingPointError for the first tensor that holds NaN or infinity."""
    if bad := not_finite(tensors):
        raise FloatingPointError(f"{bad} is not finite after training; a smaller training.lr may help")


@dataclass(frozen=True)
class _Session:
    """The Trainer passed to a method's client function: one client in one round."""

    owner: Client
    model: Trainable
    training: Training
    scope: Scope
    at: Round
    work: Callable[[LocalJob], Outcome]
    personal: dict[str, Tensor]
    memory: dict[str, Any]
    kept: set[str] = field(default_factory=set)

    @property
    def round(self) -> int:
        return self.at.number

    @property
    def seed(self) -> int:
        return self.at.seed

    @property
    def client(self) -> str:
        return self.owner.name

    @property
    def examples(self) -> Sequence[Any]:
        return self.owner.examples(self.model)

    def load(self, tensors: Mapping[str, Tensor], *, local: float | None = 0.0) -> None:
        """Load the tensors with the client's own scales. See Trainer."""
        self.model.load(tensors, ratios(self.owner.shapes))
        self.model.mix(local)

    def fresh(self, *stream: str | int) -> dict[str, Tensor]:
        """Fresh adapters: A drawn from the run's seed and `stream`, B = 0. The same at every client."""
        new: dict[str, Tensor] = {}
        for name, value in self.model.start.items():
            if name.endswith("lora_A"):
                new[name] = fresh_factor(value, self.at.seed, "fresh", *stream, name).to(value)
            elif name.endswith("lora_B"):
                new[name] = torch.zeros_like(value)
        return self.owner.held(new)

    def train(
        self,
        start: Mapping[str, Tensor],
        *,
        only: Scope = EVERYTHING,
        local: float | None = 0.0,
        penalty: Penalty | None = None,
        rates: Mapping[str, float] | None = None,
        gradients: bool = False,
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Train from `start`; missing tensors begin at the model's start values. See Trainer."""
        owner, model = self.owner, self.model
        if owner.start == "own" and self.at.number == 1:
            own = {
                n: fresh_factor(t, self.at.seed, "own", owner.name, n).to(t)
                for n, t in start.items()
                if n.endswith("lora_A")
            }
            start = {**start, **own}
        examples = owner.examples(model)
        names = frozenset(
            n
            for n in model.tensors
            if group_of(n) in owner.groups and self.scope.role(n) != "frozen" and only.role(n) == "shared"
        )
        at = self.at
        if self.training.prox:
            prox, extra = proximal(self.training.prox, start), penalty
            penalty = prox if extra is None else lambda tensors: prox(tensors) + extra(tensors)
        job = LocalJob(
            client=owner.name,
            examples=examples,
            start=start,
            names=names,
            training=self.training,
            seed=at.seed,
            round=at.number,
            rounds=at.rounds,
            ratios=ratios(owner.shapes),
            local=local,
            penalty=penalty,
            rates=rates or {},
            gradients=gradients,
        )
        outcome = self.work(job)
        numbers: dict[str, Any] = {"examples": len(job.chosen), "steps": outcome.steps}
        if outcome.loss is not None:
            numbers["loss"] = outcome.loss
        if truncated := sum(is_cut(examples, i) for i in job.chosen):
            numbers["truncated"] = truncated
        tensors = {**outcome.tensors, **{f"{n}.gradient": t for n, t in outcome.gradients.items()}}
        return cut(tensors, owner.shapes), numbers

    def stream(self, name: str) -> torch.Generator:
        """The client's own random stream of this name in this round."""
        return torch_stream(self.at.seed, name, self.owner.name, self.at.number)

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Update the client's personal tensors; tensors not named are unchanged."""
        self.personal.update({n: lent(t) for n, t in tensors.items()})
        self.kept.update(tensors)
