"""pFedMoAP: a client's own context and other clients' contexts, mixed by a gating of its own.

Paper: Luo et al., "Mixture of Experts Made Personalized: Federated Prompt Learning for Vision-Language Models", ICLR 2025.
From its second participation on a client begins from the global mean, gets the K-1 contexts nearest to its own last one, frozen,
and trains context and gating: logit_c = lambda s <f, t_L(c)> + s <R(f), h(c)>. The first time it trains its context alone.

Deliberate differences from the released code: experts are those that stood before the round, so that nothing depends on the order
of clients; "nearest" takes as many as there are (released: an error where more clients have trained than K); the gating is the
client's own from its first use (released: the second participation inherits the last client's); a late client begins from the
current mean, not from the first draw, which is the same where all take part in round 1.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.core.streams import numpy_stream
from fedloom.methods.base.clip import CONTEXT, LENGTH, CLIPMethod
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, LayerShape, State, Trainer
from fedloom.models.clip.mixture_of_prompts import MixtureOfPrompts

EXPERTS = "experts/contexts"
MINE = "mine/context"
"""A client's own context after its last training, with which it answers."""
_WITHOUT_GATE = Scope(shared=("*",), frozen=("gate",))


class PFedMoAP(CLIPMethod):
    """V' = sum p_i V_i; the gating stays; clients' last contexts are others' experts."""

    name: ClassVar[str] = "pfedmoap"
    title: ClassVar[str] = "pFedMoAP"
    paper: ClassVar[str] = "Luo et al. (ICLR 2025)"
    linear: ClassVar[bool] = False
    shares: ClassVar[Scope] = Scope(shared=("prompt",), personal=("gate", "mine"))
    combination: ClassVar[Combination] = "individual"

    length: int = LENGTH
    contexts: int = Field(10, ge=2, description="K, contexts that are mixed: one's own and K-1 experts")
    experts: Literal["nearest", "random"] = Field(
        "nearest", description="which other clients' contexts are sent"
    )
    heads: int = Field(8, ge=1, description="attention heads of the gating")
    mix: float = Field(0.5, ge=0, description="lambda, weight of the own context's logits")
    gate_lr: float = Field(0.01, gt=0, description="learning rate of the gating, constant")

    @property
    def clip_adapter(self) -> MixtureOfPrompts:
        """Context, gating, and room for K-1 experts."""
        return MixtureOfPrompts(length=self.length, experts=self.contexts - 1, heads=self.heads, mix=self.mix)

    def check(self, kinds: Collection[str], unequal: bool, start: Literal["common", "own"]) -> str | None:
        """The context has to be shared: it makes the other clients' experts."""
        if self.scope.role(CONTEXT) != "shared":
            return "pfedmoap sends clients' contexts to others, but prompt is personal here; leave method.personal out"
        return super().check(kinds, unequal, start)

    def round(self, state: State, ask: Ask) -> State:
        """Send each client the mean and its experts from before the round; average, and keep each client's context."""
        last = {n.removeprefix("last/"): t for n, t in state.tensors.items()}
        sent = {c: Payload({**state.shared, **self.chosen(c, last, ask)}) for c in ask.cohort}
        replies = ask("train", sent)
        new = {f"last/{r.client}": r.payload.tensors[CONTEXT].clone() for r in replies}
        shared = {**state.shared, **mean_of(replies, self.client_weights(replies))}
        return State(shared, {**state.tensors, **new}, state.values)

    def chosen(self, client: str, last: Mapping[str, Tensor], ask: Ask) -> dict[str, Tensor]:
        """The client's experts (at most K-1, m, d); none for a client that has not trained yet."""
        others = sorted(set(last) - {client})
        if client not in last or not others:
            return {}
        count = min(self.contexts - 1, len(others))
        stack = torch.stack([last[c] for c in others])
        if self.experts == "random":
            rng = numpy_stream(ask.seed, "experts", ask.round, client)
            picked = torch.from_numpy(rng.permutation(len(others))[:count])
        else:
            far = (stack - last[client]).flatten(1).norm(dim=1)
            picked = far.argsort(stable=True)[:count]
        return {EXPERTS: stack[picked.to(stack.device)]}

    def without(self, state: State, client: str) -> State:
        """The context of a client that has left goes to no other client any more."""
        return replace(state, tensors={n: t for n, t in state.tensors.items() if n != f"last/{client}"})

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train context and gating, the first time the context alone."""
        own = {n: t for n, t in trainer.personal.items() if n.startswith("gate/")}
        experts = {n: t for n, t in payload.tensors.items() if n == EXPERTS}
        only = Scope(shared=("*",)) if experts else _WITHOUT_GATE
        trained, numbers = trainer.train({**payload.tensors, **own}, only=only, rates={"gate": self.gate_lr})
        trainer.keep({MINE: trained[CONTEXT], **experts})
        return self.answer(trainer, trained, numbers)

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """None: the mean context is a starting point, and no client answers with it."""
        return {}

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Own context, gating and experts after the client's last training; before that, the common start."""
        own = {n: t for n, t in personal.items() if n != MINE}
        return {**own, CONTEXT: personal.get(MINE, state.shared[CONTEXT])}

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Up one context, down the mean and K-1 experts."""
        down = min(int(cls.model_fields["contexts"].default), clients) * shared
        return shared, down, down
