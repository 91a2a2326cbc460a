"""What methods share in which clients have models of their own and nothing travels but public items and what is said about them.

Round 1 is every client's warm-up on its own data. In every later round the server makes items, asks for answers, and sends
knowledge; clients then train on their own data and the knowledge (specification fedmmkt 3).
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
"""Numbers of the items that knowledge is about, int32 (n,)."""
SUM_TOLERANCE = 1e-3
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Logits (B, C) and unit vectors (B, d) of some items, and their places among the kept ones (B,), to a scalar."""


@dataclass(frozen=True)
class KnowledgeServer:
    """The server's own models in this family: the clients' architectures, a generator and a captioner."""

    bank: ModelBank
    synthesis: Synthesis

    @property
    def modalities(self) -> Mapping[str, str]:
        """The modality of each client."""
        return self.bank.modalities

    def save(self, tensors: Mapping[str, Tensor], folder: Path) -> None:
        """Write the generator with the trained denoiser, as diffusers loads it."""
        self.synthesis.save(tensors, folder / "generator")


def server_of(ask: Ask) -> KnowledgeServer:
    """The server's models in this round. Raises TypeError in a run that has none."""
    if not isinstance(ask.tools, KnowledgeServer):
        raise TypeError("the method needs a generator and clients with models of their own")
    return ask.tools


def bank_of(trainer: Trainer) -> ModelBank:
    """The architectures, of which the client has one. Raises TypeError for another model."""
    if not isinstance(trainer.model, ModelBank):
        raise TypeError("the method needs clients with models of their own")
    return trainer.model


class DistillationMethod(Method):
    """A subclass says what it makes of the answers, and what a client learns from it."""

    shares: ClassVar[Scope] = Scope(personal=("*",))
    public_items: ClassVar[bool] = True
    own_models: ClassVar[bool] = True
    linear: ClassVar[bool] = False
    requests: ClassVar[tuple[str, ...]] = ("train", "infer", "distil")
    soft: ClassVar[bool] = False
    """Whether clients answer with probabilities; else with their likeliest class."""

    public_batch: int = Field(
        32, ge=1, description="public items beside every batch of the client's own data"
    )

    def round(self, state: State, ask: Ask) -> State:
        """M0 to M5 of specification fedmmkt 3."""
        if ask.round == 1:
            ask("train", Payload())
            return state
        state, public = self.items(state, ask)
        replies = ask(
            "infer",
            {c: self._sent(state, public, c, ask) for c in ask.cohort},
            expect={c: self._expected(public, ask) for c in ask.cohort},
            check=lambda reply: self._fault(reply, self._key(state), ask),
        )
        knew = {**state.values["knows"], **{r.client: self._key(state) for r in replies}}
        state = State(state.shared, state.tensors, {**state.values, "knows": knew})
        state, knowledge = self.learn(state, public, replies, ask)
        if not len(knowledge[KEPT]):
            ask.note("nothing was kept of the public items: clients trained on their own data alone")
        ask("distil", Payload(knowledge, {"set": self._key(state)}), cohort=[r.client for r in replies])
        return state

    @abstractmethod
    def learn(
        self, state: State, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[State, dict[str, Tensor]]:
        """The server's state after the answers, and what clients are told: KEPT and further tensors of group `knowledge`."""

    @abstractmethod
    def loss(self, told: Mapping[str, Tensor]) -> Loss | None:
        """What a client adds to its own loss for what it was told of public items; None adds nothing."""

    def items(self, state: State, ask: Ask) -> tuple[State, Public]:
        """M0: the items of this round, new ones every `synthesis.every` rounds."""
        made = state.values.get("made")
        if made is not None and ask.round - made < server_of(ask).synthesis.settings.every:
            kept = {n.partition("/")[2]: t for n, t in state.tensors.items() if group_of(n) == PUBLIC}
            return state, Public(kept, state.tensors["prompted/label"])
        public = server_of(ask).synthesis.public(self.denoiser(state), ask.seed, ask.round)
        tensors = {n: t for n, t in state.tensors.items() if n.startswith(DENOISER)}
        tensors |= {f"{PUBLIC}/{m}": t for m, t in public.items.items()} | {"prompted/label": public.prompted}
        values = {**state.values, "made": ask.round, "knows": {}, "masked": public.hits}
        return State(state.shared, tensors, values), public

    @staticmethod
    def denoiser(state: State) -> dict[str, Tensor]:
        """The generator's trained tensors; empty before it was ever trained."""
        return {n: t for n, t in state.tensors.items() if n.startswith(DENOISER)}

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The client's own tensors, without the public items that it keeps."""
        return _own(personal)

    def measured(self, state: State) -> Mapping[str, float]:
        """What the last round's answers came to."""
        found: Mapping[str, float] = state.values.get("measured", {})
        return found

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """`train`: on its own data. `infer`: answer about items. `distil`: on its own data and what it is told."""
        own, bank = _own(trainer.personal), bank_of(trainer)
        if request == "train":
            return self.answer(trainer, *trainer.train(own))
        if request == "infer":
            trainer.keep({ITEMS: payload.tensors.get(ITEMS, trainer.personal.get(ITEMS, torch.empty(0)))})
            logits, vectors = bank.inferred(own, bank.read_items(trainer.personal[ITEMS], trainer.client))
            return Payload(
                self._answers(logits, vectors), {"examples": len(trainer.examples), **payload.numbers}
            )
        if request == "distil":
            return self.answer(trainer, *trainer.train(own, penalty=self._beside(payload, trainer, own)))
        raise ValueError(f"{self.name} clients know the requests train, infer and distil, not {request}")

    def _answers(self, logits: Tensor, vectors: Tensor) -> dict[str, Tensor]:
        """M1: prediction, entropy in nats, representation."""
        p = logits.float().softmax(-1)
        H = -(p * p.clamp_min(1e-30).log()).sum(-1)
        said = {PROBABILITIES: p} if self.soft else {LABELS: p.argmax(-1).int()}
        return {ENTROPY: H, VECTORS: vectors.float(), **said}

    def _beside(self, payload: Payload, trainer: Trainer, own: Mapping[str, Tensor]) -> Penalty | None:
        """The loss on batches of public items, which have their own stream: own data meet the same batches with and without."""
        told = payload.tensors
        loss = self.loss(told)
        if loss is None or not len(told[KEPT]):
            return None
        bank = bank_of(trainer)
        examples = bank.read_items(trainer.personal[ITEMS][told[KEPT].long()], trainer.client)
        batches = _endless(len(examples), self.public_batch, trainer.stream("public"))

        def penalty(tensors: Mapping[str, Tensor]) -> Tensor:
            at = next(batches)
            return loss(*bank.outputs([examples[i] for i in at.tolist()]), at)

        return penalty

    def _key(self, state: State) -> int:
        """Which items are meant: the round in which they were made."""
        return int(state.values["made"])

    def _sent(self, state: State, public: Public, client: str, ask: Ask) -> Payload:
        """The items in the client's modality, unless it has them already."""
        has = state.values["knows"].get(client) == self._key(state)
        items = {} if has else {ITEMS: public.items[server_of(ask).modalities[client]]}
        return Payload(items, {"set": self._key(state)})

    def _expected(self, public: Public, ask: Ask) -> dict[str, Tensor]:
        """Tensors like those of a right answer."""
        n, classes, width = (
            len(public.prompted),
            len(server_of(ask).synthesis.names),
            server_of(ask).bank.width,
        )
        said = {PROBABILITIES: torch.zeros(n, classes)} if self.soft else {LABELS: torch.zeros(n).int()}
        return {ENTROPY: torch.zeros(n), VECTORS: torch.zeros(n, width), **said}

    def _fault(self, reply: Reply, key: int, ask: Ask) -> str | None:
        """What is wrong with an answer whose names, shapes and numbers are right."""
        tensors, classes = reply.payload.tensors, len(server_of(ask).synthesis.names)
        if reply.payload.numbers.get("set") != key:
            return f"items: answers about set {reply.payload.numbers.get('set')}, set {key} was sent"
        if self.soft:
            p = tensors[PROBABILITIES]
            off = float((p.sum(-1) - 1).abs().max()) if len(p) else 0.0
            if off > SUM_TOLERANCE or bool((p < 0).any()):
                return f"predictions: they must be probabilities that sum to 1, and are off by {off:.3g}"
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


def _endless(count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches of places, one seeded shuffle after another."""
    while True:
        order = torch.randperm(count, generator=rng)
        yield from (order[i : i + size] for i in range(0, count, size))
