"""HetLoRA: zero padding with weights by the size of each client's update, and a penalty on its last ranks.

Paper: Cho et al., "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models", EMNLP 2024.
Weights p_k ∝ ||B_k A_k||_F; clients add γ ||A[tail]||_F ||B[:, tail]||_F per layer to their loss, where the tail are the rows
from 0.99 r_k on.

Deliberate differences: a client's rank stays as the experiment gives it (the paper lets it shrink where the tail's norm decays);
`||BA||_F = sqrt(tr((B^T B)(A A^T)))` is computed without the product. The norms are the weights: `weights=examples` is
refused.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Reply, Scope
from fedloom.methods.base.combine import combine_pairs
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer


class HetLoRA(Method):
    """Pad, average with p_k ∝ ||B_k A_k||, truncate."""

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
        """Train with the penalty on this client's last ranks."""
        ranks = {n: t.shape[0] for n, t in payload.tensors.items() if n.endswith("lora_A")}
        tails = {n: math.floor(self.kept * r) for n, r in ranks.items()}
        start = {**payload.tensors, **trainer.personal}
        return self.answer(trainer, *trainer.train(start, penalty=partial(_tail_norms, tails, self.gamma)))

    def client_weights(self, replies: Sequence[Reply]) -> list[float]:
        """p_k ∝ ||B_k A_k||_F over all layers; equal while every product is zero."""
        norms = [math.sqrt(_square(reply.payload.tensors)) for reply in replies]
        total = sum(norms)
        return [n / total for n in norms] if total > 0 else [1 / len(norms)] * len(norms)


def _square(tensors: Mapping[str, Tensor]) -> float:
    """Sum over layers of ||B A||_F^2."""
    total = 0.0
    for name, A in tensors.items():
        B = tensors.get(name.removesuffix("lora_A") + "lora_B") if name.endswith("lora_A") else None
        if B is not None:
            A64, B64 = A.double(), B.double()
            total += float(((B64.T @ B64) * (A64 @ A64.T)).sum())
    return max(total, 0.0)


def _tail_norms(tails: Mapping[str, int], gamma: float, tensors: Mapping[str, Tensor]) -> Tensor:
    """γ Σ ||A[tail]|| ||B[:, tail]||, differentiable also where a norm is zero."""
    total = torch.zeros(())
    for name, start in tails.items():
        if name in tensors and (second := name.removesuffix("lora_A") + "lora_B") in tensors:
            a = tensors[name][start:].square().sum()
            b = tensors[second][:, start:].square().sum()
            total = total.to(a) + gamma * (a * b + 1e-24).sqrt()
    return total
