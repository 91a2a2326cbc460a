"""HetLoRA: zero padding with weights by the size of each client's update, and a penalty on its last ranks.

Paper: Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024.
Weights p_k ∝ ||s_k B_k A_k||_F; clients add γ ||A[tail]||_F ||B[:, tail]||_F per layer to their loss, where the tail are the
rows from 0.99 r_k on. Where training shortened a tail, the client cuts it off for good: r_k becomes 0.99 r_k, rounded down.

Deliberate differences: each layer has a rank of its own. What is cut off is sent as zeros, as zero padding would make it, so
that the bytes stay those of the first rank. `||BA||_F = sqrt(tr((B^T B)(A A^T)))` is computed without the product. The norms
are the weights: `weights=examples` is refused.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Reply, Scope, group_of
from fedloom.core.shares import at_most
from fedloom.methods.base.combine import combine_pairs
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer

RANK = ".rank"
"""Suffix of the personal number beside an A: the rank that the client still trains."""


class HetLoRA(Method):
    """Pad, average with p_k ∝ ||s_k B_k A_k||, truncate."""

    name: ClassVar[str] = "hetlora"
    title: ClassVar[str] = "HetLoRA"
    paper: ClassVar[str] = "Cho et al. (EMNLP 2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "individual"
    unequal_ranks: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    gamma: float = Field(0.01, ge=0, description="γ, weight of the penalty on the last ranks")
    kept: float = Field(0.99, gt=0, lt=1, description="share of a client's ranks that is free of the penalty")
    prune: bool = Field(
        True, description="a client's rank falls to this share where training shortens its last ranks"
    )

    def check(self, kinds: Collection[str], unequal: bool, start: Literal["common", "own"]) -> str | None:
        """The updates' norms are the weights."""
        if self.weights != "uniform":
            return "method hetlora weighs clients by the size of their updates; leave method.weights out"
        return super().check(kinds, unequal, start)

    def round(self, state: State, ask: Ask) -> State:
        """Average the padded factors; each client takes its first r_k rows."""
        replies = ask("train", Payload(state.shared))
        mean = partial(lora.fedavg, tail="pad")
        return state.with_shared(
            combine_pairs(replies, self.client_weights(replies), mean, like=state.shared)
        )

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train with the penalty on this client's last ranks; cut off those that it shortened."""
        known = {n.removesuffix(RANK): int(t) for n, t in trainer.personal.items() if n.endswith(RANK)}
        ranks = {n: known.get(n, len(t)) for n, t in payload.tensors.items() if n.endswith("lora_A")}
        tails = {n: at_most(self.kept, r) for n, r in ranks.items()}
        start = _up_to(ranks, {**payload.tensors, **_without_ranks(trainer.personal)})
        trained, numbers = trainer.train(start, penalty=partial(_tail_norms, tails, self.gamma))
        if self.prune:
            ranks |= {n: t for n, t in tails.items() if t > 0 and _tail(n, t, trained) < _tail(n, t, start)}
            trained = _up_to(ranks, trained)
            trainer.keep({n + RANK: torch.tensor(r) for n, r in ranks.items()})
        return self.answer(trainer, trained, numbers)

    def client_model(self, state: State, personal: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The personal tensors without the ranks."""
        return _without_ranks(personal)

    def client_weights(self, replies: Sequence[Reply]) -> list[float]:
        """p_k ∝ ||s_k B_k A_k||_F over all layers; equal while every product is zero."""
        norms = [math.sqrt(_square(reply)) for reply in replies]
        total = sum(norms)
        return [n / total for n in norms] if total > 0 else [1 / len(norms)] * len(norms)


def _without_ranks(personal: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the model knows."""
    return {n: t for n, t in personal.items() if not n.endswith(RANK)}


def _square(reply: Reply) -> float:
    """Sum over layers of ||s_k B A||_F^2."""
    total, tensors = 0.0, reply.payload.tensors
    for name, A in tensors.items():
        B = tensors.get(_second(name)) if name.endswith("lora_A") else None
        if B is not None:
            A64, B64 = A.double(), B.double()
            group = group_of(name)
            scale = reply.scales.get(group, 1.0) * reply.ratios.get(group, 1.0)
            total += scale**2 * float(((B64.T @ B64) * (A64 @ A64.T)).sum())
    return max(total, 0.0)


def _second(name: str) -> str:
    """The name of B beside an A's."""
    return name.removesuffix("lora_A") + "lora_B"


def _up_to(ranks: Mapping[str, int], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with zeros beyond each layer's rank, where no gradient comes either."""
    out = dict(tensors)
    for name, rank in ranks.items():
        if name in out and _second(name) in out and rank < len(out[name]):
            out[name], out[_second(name)] = out[name].clone(), out[_second(name)].clone()
            out[name][rank:] = 0
            out[_second(name)][:, rank:] = 0
    return out


def _tail(name: str, start: int, tensors: Mapping[str, Tensor]) -> float:
    """||A[tail]|| ||B[:, tail]|| of one layer."""
    if name not in tensors or _second(name) not in tensors:
        return 0.0
    return float(tensors[name][start:].double().norm() * tensors[_second(name)][:, start:].double().norm())


def _tail_norms(tails: Mapping[str, int], gamma: float, tensors: Mapping[str, Tensor]) -> Tensor:
    """γ Σ ||A[tail]|| ||B[:, tail]||, differentiable also where a norm is zero."""
    total = torch.zeros(())
    for name, start in tails.items():
        if name in tensors and (second := _second(name)) in tensors:
            a = tensors[name][start:].square().sum()
            b = tensors[second][:, start:].square().sum()
            total = total.to(a) + gamma * (a * b + 1e-24).sqrt()
    return total
