"""The method interface: typed fields, a scope, explicit state, a pure server function and a client function.

Local training, traffic, checkpoints, privacy and deployment follow from the scope.
"""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor

from fedloom.core.payload import EVERYTHING, Check, Payload, Reply, Scope
from fedloom.methods.base.measure import Measure
from fedloom.methods.base.server_optimizer import ServerStep
from fedloom.models.base import Trainable
from fedloom.models.clip.adapter import CLIPAdapter
from fedloom.models.training.settings import Penalty, Training

FIRST: tuple[str, ...] = ("*.lora_A", "*.lambda_d")
"""Patterns of the factors on the layer's input: A, or VeRA's λ_d."""
SECOND: tuple[str, ...] = ("*.lora_B", "*.lambda_b")
"""Patterns of the factors on the layer's output: B, or VeRA's λ_b."""
Combination = Literal["mean", "solve", "products", "individual", "nothing"]
"""The server's input from the clients.

mean: weighted means of the clients' tensors; solve: such means in two asks; products: every client's B_k A_k; individual: every
client's tensors; nothing: no exchange. Secure aggregation and differential privacy provide means only.
"""
LayerShape = tuple[int, int, int]
"""(r, d_in, d_out) of one adapted layer."""
FACTORS = (*FIRST, *SECOND)
PROJECTOR: tuple[str, ...] = ("projector*",)


@dataclass(frozen=True)
class State:
    """A method's state on the server: the shared tensors, its own tensors, and JSON values. Sufficient to resume."""

    shared: Mapping[str, Tensor]
    """The shared tensors, by name."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """The server's own tensors, such as a momentum; no client receives them."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of the server."""

    def with_shared(self, tensors: Mapping[str, Tensor]) -> "State":
        """The state with these shared tensors replaced; all others stay bit for bit."""
        return replace(self, shared={**self.shared, **tensors})

    def copied(self, device: torch.device | str) -> "State":
        """A copy on a device that shares no memory with this state."""
        shared, own = (
            {n: t.to(device, copy=True) for n, t in part.items()} for part in (self.shared, self.tensors)
        )
        return State(shared, own, self.values)


class Ask(Protocol):
    """The interface to the clients: asks the round's cohort and returns the replies that passed the firewall."""

    @property
    def round(self) -> int:
        """The round's number, from 1."""

    @property
    def cohort(self) -> Sequence[str]:
        """The clients of this round."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def frozen(self) -> Mapping[str, Tensor]:
        """Frozen tensors, derived from the seed by server and clients: VeRA's pairs, and factors that a scope freezes."""

    @property
    def unequal(self) -> bool:
        """Whether clients' ranks or scales differ."""

    @property
    def sums(self) -> bool:
        """Whether every ask returns one reply only, the mean over the clients."""

    def __call__(
        self,
        request: str,
        payload: Payload | Mapping[str, Payload],
        cohort: Sequence[str] | None = None,
        expect: Scope | Mapping[str, Mapping[str, Tensor]] = EVERYTHING,
        check: Check | None = None,
    ) -> list[Reply]:
        """Replies ordered by client name.

        `cohort` defaults to the round's; a mapping as `payload` gives each client its own. `expect`: a scope whose shared part
        names the shared tensors that a reply must hold, or, for replies that do not update shared tensors, template tensors
        per client. `check` returns a further fault of a reply, or None.
        """

    @property
    def tools(self) -> object | None:
        """The server's own models, for distillation methods (`methods.base.distillation`)."""

    def note(self, text: str) -> None:
        """Add a note to the last ledger entry of the round."""


class Trainer(Protocol):
    """One client in one round, as a method's client function sees it."""

    @property
    def round(self) -> int:
        """The round's number, from 1."""

    @property
    def seed(self) -> int:
        """The run's seed."""

    @property
    def client(self) -> str:
        """The client's name."""

    @property
    def model(self) -> Trainable:
        """The model, shared by all clients and usable while the client function runs."""

    @property
    def examples(self) -> Sequence[Any]:
        """The client's prepared training samples."""

    def load(self, tensors: Mapping[str, Tensor], *, local: float | None = 0.0) -> None:
        """Load these tensors with the client's own scales; `local` is the weight of the second adapter, if there is one."""

    @property
    def personal(self) -> Mapping[str, Tensor]:
        """The client's personal tensors."""

    @property
    def memory(self) -> dict[str, Any]:
        """Values kept between the asks of one round; empty in the next round, never on disk."""

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
        """Train from these tensors; returns the trained tensors of the client's scope and numbers (examples, loss, steps).

        `only` restricts training to the tensors that it names as shared; `local` is the weight of the second adapter where there
        is one (None: both have weight 1); `penalty` is added to the loss of every step; `rates` sets a constant learning rate
        per group; `gradients` adds `<name>.gradient`, the mean over the steps of the gradient before clipping, the
        penalty's included.
        """

    def fresh(self, *stream: str | int) -> dict[str, Tensor]:
        """Fresh adapters: A drawn from the run's seed and `stream`, B = 0. The same at every client."""

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Update the client's personal tensors; tensors not named are unchanged."""

    def stream(self, name: str) -> Generator:
        """The client's own random stream of this name in this round."""


class WarmStart(BaseModel):
    """Another method for the first rounds. Paper: UniFLoW Table 4 (200 rounds of FedAvg-LoRA, then FedA²-LoRA)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str = Field(description="method of the first rounds; it must share the same tensors")
    rounds: int = Field(ge=1, description="number of rounds that it runs")


class Method(BaseModel):
    """Base of every method. A subclass declares `shares` and implements `round`; most need no other code."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    TAG: ClassVar[str] = "name"
    """The key that names the method."""
    name: ClassVar[str]
    """Name in experiment files."""
    title: ClassVar[str]
    """Name in tables and reports."""
    paper: ClassVar[str]
    """Authors or venue, and year."""
    shares: ClassVar[Scope]
    """Roles of the adapter tensors; `scope` adds the head and the experiment's personal patterns."""
    public_items: ClassVar[bool] = False
    """Whether the server synthesises public items, which needs a generator and a captioner."""
    own_models: ClassVar[bool] = False
    """Whether the method supports clients with models of their own (data.source labelled)."""
    pooled: ClassVar[bool] = False
    """True for the centralised upper bound: all clients' data in one place."""
    requests: ClassVar[tuple[str, ...]] = ("train",)
    """Requests to its clients; a silo agrees to these before it joins."""
    second: ClassVar[bool] = False
    """Whether every layer has a second, personal adapter."""
    square: ClassVar[bool] = False
    """Whether LoRA adapters are square (`models.lora.square`): R alone is trained."""
    unequal_ranks: ClassVar[bool] = False
    """Whether clients may have adapters of different ranks and scales."""
    vera: ClassVar[bool] = True
    """Whether the method is defined for VeRA's vectors."""
    combination: ClassVar[Combination] = "individual"
    """The server's input from the clients; it decides the compatible privacy mechanisms."""
    alternates: ClassVar[bool] = False
    """Whether the clients' answers hold other tensors in other rounds."""
    both: ClassVar[bool] = False
    """Whether the server needs both factors of every client."""
    one_start: ClassVar[bool] = False
    """Whether the server's step is right only if all clients begin from the A that it holds."""
    ignores: ClassVar[tuple[str, ...]] = ()
    """Patterns of settings that others read and this method does not, such as method.weights."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Patterns of settings outside `method` that this method has read, beside those of its task, such as model.synthesis.*."""
    linear: ClassVar[bool] = True
    """Whether the server function is linear in the weighted replies, so that a robust stage may precede it."""
    measures: ClassVar[tuple[Measure, ...]] = ()
    """Names and units of the figures that `measured` returns; undeclared ones are shown under their own names, as numbers."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Field values by preset name, for a method with a field `preset`; explicit values take precedence."""

    weights: Literal["uniform", "examples"] = Field(
        "uniform", description="clients' weights: equal (the paper's 1/K), or by their number of examples"
    )
    head: Literal["shared", "personal", "frozen"] = Field(
        "shared",
        description="a classifier's head: shared (averaged), personal, or frozen at its initial values",
    )
    personal: tuple[str, ...] = Field(
        (), description="patterns of further tensors that stay with each client, such as 'encoder.*'"
    )
    warm_start: WarmStart | None = Field(None, description="another method for the first rounds")
    server: ServerStep | None = Field(
        None,
        description="server optimiser on the round's change of the shared tensors: {name: avgm} or {name: adam}",
    )

    @classmethod
    def registered(cls, fields: Mapping[str, Any]) -> "type[Method]":
        """The registered method that a mapping names. Raises ValueError."""
        from fedloom.methods import METHODS  # the registry imports this file

        name = fields.get("name")
        if not isinstance(name, str) or name not in METHODS:
            raise ValueError(f"unknown method {name!r}; known are {', '.join(sorted(METHODS))}")
        return METHODS[name]

    @classmethod
    def carries(cls, name: str) -> bool:
        """Whether a field of this name means the same in another method: those of every method do."""
        return name in Method.model_fields

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, values: Any) -> Any:
        """Complete the explicit values by the preset's."""
        if not cls.presets or not isinstance(values, Mapping):
            return values
        name = values.get("preset", cls.model_fields["preset"].default)
        return {**cls.presets.get(name, {}), **values}  # the field itself refuses an unknown name

    @property
    def clip_adapter(self) -> CLIPAdapter | None:
        """The CLIP adapter or prompt that is trained; None for a method for other models."""
        return None

    @property
    def scope(self) -> Scope:
        """The shared, personal and frozen tensors of this run."""
        base = self.shares
        base = replace(base, **{self.head: (*getattr(base, self.head), "head")})
        return replace(base, personal=(*base.personal, *self.personal))

    @property
    def leaving(self) -> str:
        """The tensors of a client's answers in words, for the terms of a site. Default: the shared patterns."""
        return _in_words(self.scope.shared) or "no tensors"

    @property
    def staying(self) -> str:
        """The tensors that stay with each client in words, for the terms of a site."""
        return _in_words(self.scope.personal) or "no personal tensors"

    def check(self, kinds: Collection[str], unequal: bool, start: Literal["common", "own"]) -> str | None:
        """The first incompatible setting of the experiment, in one sentence, or None.

        `kinds`: kinds of the adapters (lora, vera). `unequal`: whether clients' ranks or scales differ. `start`: whether
        clients begin from a common A or draw their own.
        """
        from fedloom.methods import lora_methods  # the registry imports this file

        if unequal and not self.unequal_ranks:
            return (
                f"method {self.name} combines adapters of one rank and scale; leave cohort.ranks out, "
                f"or take {lora_methods(lambda m: m.unequal_ranks)}"
            )
        if "vera" in kinds and not self.vera:
            return f"method {self.name} is not defined for VeRA; take {lora_methods(lambda m: m.vera)}, or set kind: lora"
        if start == "own" and (self.one_start or self.server is not None):
            needs = f"method {self.name} needs" if self.one_start else "the step of method.server needs"
            return f"{needs} one A at every client, but cohort.start is own; set cohort.start: common"
        if start == "own" and "vera" in kinds:
            return "VeRA's frozen pair must come from one seed at every client; set cohort.start: common"
        kept = [n for n in ("lora_A", "lora_B") if self.scope.role(f"llm/layer.{n}") != "shared"]
        if self.both and kept:
            return (
                f"method {self.name} needs both factors of every client, but {kept[0]} is personal here; "
                "leave method.personal out, or take fedsa-lora"
            )
        return None

    def check_training(self, training: Training) -> str | None:
        """The first incompatible setting of the clients' training, in one sentence, or None."""
        return None

    def start(self, tensors: Mapping[str, Tensor]) -> State:
        """The state before round 1, from the model's start values."""
        return State(self.scope.pick(tensors, "shared"))

    @abstractmethod
    def round(self, state: State, ask: Ask) -> State:
        """One round: a pure function of the state and the clients' replies."""

    def moved(self, before: State, after: State) -> State:
        """The state after the server optimizer's step, which replaces the round's change of the shared tensors."""
        if self.server is None:
            return after
        new = {n: t for n, t in after.shared.items() if t is not before.shared.get(n, t)}
        shared, kept = self.server.move(before.shared, new, before.tensors)
        return replace(after, shared={**after.shared, **shared}, tensors={**after.tensors, **kept})

    def without(self, state: State, client: str) -> State:
        """The state without what it holds of a client that has left; should it join again, it is as one never drawn before."""
        return state

    def measured(self, state: State) -> Mapping[str, float]:
        """The method's own metrics of the last round, by name."""
        return {}

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """The client function. Default: train on shared and personal tensors, keep the personal part, return the shared part."""
        if request != "train":
            raise ValueError(f"{self.name} clients know the request train, not {request}")
        return self.answer(trainer, *trainer.train({**payload.tensors, **trainer.personal}))

    def answer(self, trainer: Trainer, trained: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> Payload:
        """The end of a client function: keep the personal part of the trained tensors, return the shared part."""
        trainer.keep(self.scope.pick(trained, "personal"))
        return Payload(self.scope.pick(trained, "shared"), numbers)

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The global model's tensors; empty where the method has none.

        `personal`: the clients' personal tensors by client, in name order, read lazily; only a method that documents it may
        read them.
        """
        return state.shared

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors that a client's personal model adds to or replaces in the shared ones; empty where it has no own model."""
        return personal

    def product(self, after: State) -> Mapping[str, Tensor]:
        """Factors `<place>.lora_A`, `.lora_B` whose products represent the mean update on the server after a round."""
        return after.shared

    def began(self, before: State) -> Mapping[str, Tensor]:
        """The tensors that the clients began a round from, as far as the server holds them."""
        return before.shared

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Numbers up, down, and down in dense form, for one client and round in which all `clients` take part.

        `shared`: number of shared parameters. `pairs`: (r, d_in, d_out) of every adapted layer. For cost tables; the ledger
        counts the actual traffic.
        """
        return shared, shared, shared

    def client_weights(self, replies: Sequence[Reply]) -> list[float]:
        """p_k of these replies, summing to 1."""
        raw = [1.0 if self.weights == "uniform" else float(reply.examples) for reply in replies]
        return [w / sum(raw) for w in raw]


def _in_words(patterns: Collection[str]) -> str:
    return "every tensor of the model" if "*" in patterns else ", ".join(patterns)
