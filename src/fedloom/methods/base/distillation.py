"""Base of distillation on public items: clients have models of their own and exchange predictions, never parameters.

Round 1 is a warm-up on every client's own data. In every later round the server synthesises public items, clients send their
predictions on them, the server aggregates these to knowledge, and clients train on their own data and the knowledge
(specification fedmmkt 3).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Reply, Scope, group_of
from fedloom.methods.base.method import Ask, Method, State, Trainer
from fedloom.models.generation.public_set import DENOISER, Public, Synthesis
from fedloom.models.own.model_bank import ITEMS, KNOWLEDGE, PUBLIC, ModelBank
from fedloom.models.training.settings import Penalty

ENTROPY, LABELS, PROBABILITIES, VECTORS = (
    f"answer/{n}" for n in ("entropy", "label", "probability", "vector")
)
KEPT = f"{KNOWLEDGE}/item"
"""Indices of the public items that the knowledge covers, int32 (n,)."""
SUM_TOLERANCE = 1e-3
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (B, C), unit vectors (B, d) and positions among the kept items (B,) to a scalar loss."""


@dataclass(frozen=True)
class DistillationServer:
    """The server's own models: the clients' architectures, and a generator and captioner for public items."""

    bank: ModelBank
    synthesis: Synthesis

    @property
    def modalities(self) -> Mapping[str, str]:
        """Each client's modality."""
        return self.bank.modalities

    def save(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write the generator with the trained denoiser, in diffusers' format."""
        self.synthesis.save(tensors, folder / "generator")


def server_of(ask: Ask) -> DistillationServer:
    """The server's models behind `ask`. Raises TypeError in a run without them."""
    if not isinstance(ask.tools, DistillationServer):
        raise TypeError("the method needs a generator and clients with models of their own")
    return ask.tools


READ_WITH_GENERATOR = ("model.synthesis.*", "model.clip")
"""Settings of a method's public items, and of the CLIP that judges them."""


class DistillationMethod(Method):
    """Subclasses define the server's aggregation of predictions (`learn`) and the clients' distillation loss (`loss`)."""

    shares: ClassVar[Scope] = Scope(personal=("*",))
    ignores: ClassVar[tuple[str, ...]] = ("method.weights", "method.server", "method.personal")
    reads: ClassVar[tuple[str, ...]] = READ_WITH_GENERATOR
    public_items: ClassVar[bool] = True
    own_models: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    requests: ClassVar[tuple[str, ...]] = ("train", "infer", "distil")
    soft: ClassVar[bool] = False
    """Whether clients send probabilities; else the likeliest class."""

    public_batch: int = Field(
        32, ge=1, description="public items beside every batch of the client's own data"
    )

    def round(self, state: State, ask: Ask) -> State:
        """Synthesise, infer, aggregate, distil: M0 to M5 of specification fedmmkt 3; round 1 is the warm-up."""
        if ask.round == 1:
            ask("train", Payload())
            return state
        state, public = self.items(state, ask)
        replies = ask(
            "infer",
            {c: self._items_payload(state, public, c, ask) for c in ask.cohort},
            expect={c: self._reply_template(public, ask) for c in ask.cohort},
            check=lambda reply: self._fault(reply, self._item_set(state), ask),
        )
        holders = {**state.values["knows"], **{r.client: self._item_set(state) for r in replies}}
        state = State(state.shared, state.tensors, {**state.values, "knows": holders})
        state, knowledge = self.learn(state, public, replies, ask)
        if not len(knowledge[KEPT]):
            ask.note("nothing was kept of the public items: clients trained on their own data alone")
        ask("distil", Payload(knowledge, {"set": self._item_set(state)}), cohort=[r.client for r in replies])
        return state

    @property
    def leaving(self) -> str:
        """Predictions; no tensor of a model."""
        kind = "probabilities" if self.soft else "likeliest class"
        return f"of each public item the {kind}, the entropy and the representation"

    @abstractmethod
    def learn(
        self, state: State, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[State, dict[str, Tensor]]:
        """Aggregate the predictions to the new state and the clients' knowledge: KEPT and more tensors of group `knowledge`."""

    @abstractmethod
    def loss(self, knowledge: Mapping[str, Tensor]) -> Loss | None:
        """The distillation loss on public items, added to a client's own loss; None adds nothing."""

    def items(self, state: State, ask: Ask) -> tuple[State, Public]:
        """M0: the public items of this round; new ones every `synthesis.every` rounds."""
        synthesised = state.values.get("made")
        if synthesised is not None and ask.round - synthesised < server_of(ask).synthesis.settings.every:
            kept = {n.partition("/")[2]: t for n, t in state.tensors.items() if group_of(n) == PUBLIC}
            return state, Public(kept, state.tensors["prompted/label"])
        public = server_of(ask).synthesis.public(self.denoiser(state), ask.seed, ask.round)
        tensors = {n: t for n, t in state.tensors.items() if n.startswith(DENOISER)}
        tensors |= {f"{PUBLIC}/{m}": t for m, t in public.items.items()} | {"prompted/label": public.prompted}
        values = {**state.values, "made": ask.round, "knows": {}, "masked": public.hits}
        return State(state.shared, tensors, values), public

    @staticmethod
    def denoiser(state: State) -> dict[str, Tensor]:
        """The generator's trained tensors; empty before its first training."""
        return {n: t for n, t in state.tensors.items() if n.startswith(DENOISER)}

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The client's model tensors, without the public items that it keeps."""
        return _own(personal)

    def measured(self, state: State) -> Mapping[str, float]:
        """Figures of the last aggregation."""
        metrics: Mapping[str, float] = state.values.get("measured", {})
        return metrics

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """`train` on own data; `infer`: predict public items; `distil`: train on own data and the knowledge."""
        own, bank = _own(trainer.personal), ModelBank.of(trainer.model)
        if request == "train":
            return self.answer(trainer, *trainer.train(own))
        if request == "infer":
            trainer.keep({ITEMS: payload.tensors.get(ITEMS, trainer.personal.get(ITEMS, torch.empty(0)))})
            logits, vectors = bank.inferred(own, bank.read_items(trainer.personal[ITEMS], trainer.client))
            return Payload(
                self._predictions(logits, vectors), {"examples": len(trainer.examples), **payload.numbers}
            )
        if request == "distil":
            return self.answer(trainer, *trainer.train(own, penalty=self._penalty(payload, trainer, own)))
        raise ValueError(f"{self.name} clients know the requests train, infer and distil, not {request}")

    def _predictions(self, logits: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """M1: predictions, their entropy in nats, and representations."""
        p = logits.float().softmax(-1)
        H = -(p * p.clamp_min(1e-30).log()).sum(-1)
        predictions = {PROBABILITIES: p} if self.soft else {LABELS: p.argmax(-1).int()}
        return {ENTROPY: H, VECTORS: vectors.float(), **predictions}

    def _penalty(self, payload: Payload, trainer: Trainer, own: Mapping[str, Tensor]) -> Penalty | None:
        """The loss on batches of public items; drawn from their own stream, so that batches of own data do not depend on it."""
        knowledge = payload.tensors
        loss = self.loss(knowledge)
        if loss is None or not len(knowledge[KEPT]):
            return None
        bank = ModelBank.of(trainer.model)
        examples = bank.read_items(trainer.personal[ITEMS][knowledge[KEPT].long()], trainer.client)
        batches = _batches(len(examples), self.public_batch, trainer.stream("public"))

        def penalty(tensors: Mapping[str, Tensor]) -> Tensor:
            at = next(batches)
            return loss(*bank.outputs([examples[i] for i in at.tolist()]), at)

        return penalty

    def _item_set(self, state: State) -> int:
        """The number of the current item set: the round in which it was synthesised."""
        return int(state.values["made"])

    def _items_payload(self, state: State, public: Public, client: str, ask: Ask) -> Payload:
        """The public items in the client's modality; empty where the client has them already."""
        has = state.values["knows"].get(client) == self._item_set(state)
        items = {} if has else {ITEMS: public.items[server_of(ask).modalities[client]]}
        return Payload(items, {"set": self._item_set(state)})

    def _reply_template(self, public: Public, ask: Ask) -> dict[str, Tensor]:
        """Zeros in the shapes and dtypes of a valid reply."""
        n, classes, width = (
            len(public.prompted),
            len(server_of(ask).synthesis.names),
            server_of(ask).bank.width,
        )
        template = {PROBABILITIES: torch.zeros(n, classes)} if self.soft else {LABELS: torch.zeros(n).int()}
        return {ENTROPY: torch.zeros(n), VECTORS: torch.zeros(n, width), **template}

    def _fault(self, reply: Reply, item_set: int, ask: Ask) -> str | None:
        """The fault in a reply with valid names, shapes and numbers, in one sentence, or None."""
        tensors, classes = reply.payload.tensors, len(server_of(ask).synthesis.names)
        if reply.payload.numbers.get("set") != item_set:
            return f"items: answers about set {reply.payload.numbers.get('set')}, set {item_set} was sent"
        if self.soft:
            p = tensors[PROBABILITIES]
            error = float((p.sum(-1) - 1).abs().max()) if len(p) else 0.0
            if error > SUM_TOLERANCE or bool((p < 0).any()):
                return f"predictions: they must be probabilities that sum to 1, and are off by {error:.3g}"
        elif not bool(((tensors[LABELS] >= 0) & (tensors[LABELS] < classes)).all()):
            return f"predictions: a class lies outside 0 to {classes - 1}"
        H = tensors[ENTROPY]
        if bool(((H < -1e-4) | (math.log(classes) + 1e-4 < H)).any()):
            return f"entropy: must lie between 0 and log {classes}, in nats"
        norms = tensors[VECTORS].norm(dim=-1)
        if bool(((norms - 1).abs() > 1e-3).any()):
            return "representation: its rows must have norm 1"
        return None


def _own(personal: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n: t for n, t in personal.items() if group_of(n) != PUBLIC}


def _batches(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of positions, one seeded shuffle after another."""
    while True:
        order = torch.randperm(count, generator=rng)
        yield from (order[i : i + size] for i in range(0, count, size))
