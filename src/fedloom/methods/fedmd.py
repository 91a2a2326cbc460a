"""FedMD: clients of any architecture distil the mean of their predictions on public items.

Paper: Li and Wang, "FedMD: Heterogenous Federated Learning via Model Distillation", NeurIPS 2019 workshop.

Deliberate differences: the public set is synthesised as in FedMMKT, unlabelled, and every client reads it in its own
modality; the consensus is a mean of probabilities by default (the paper's is one of class scores: `consensus: logits` takes the
mean of log-probabilities); distilling and private training share their steps instead of following each other.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from fedloom.core.payload import Reply
from fedloom.methods.base.distillation import KEPT, PROBABILITIES, DistillationMethod, Loss
from fedloom.methods.base.method import Ask, State
from fedloom.models.generation.public_set import Public
from fedloom.models.own.model_bank import KNOWLEDGE

CONSENSUS = f"{KNOWLEDGE}/consensus"


class FedMD(DistillationMethod):
    """u_i = mean_c p_ci; clients: CE(D_c) + lambda KL(u_i || p_ci)."""

    name: ClassVar[str] = "fedmd"
    title: ClassVar[str] = "FedMD"
    paper: ClassVar[str] = "Li and Wang, 2019"
    soft: ClassVar[bool] = True

    kd: float = Field(0.3, ge=0, description="lambda, weight of the divergence from the consensus")
    consensus: Literal["probabilities", "logits"] = Field(
        "probabilities",
        description="probabilities: their mean; logits: the mean of log-probabilities, normalised",
    )

    def learn(
        self, state: State, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[State, dict[str, Tensor]]:
        """The consensus: the clients' mean prediction on every item."""
        p = torch.stack([r.payload.tensors[PROBABILITIES] for r in replies])
        mean = (
            p.mean(0) if self.consensus == "probabilities" else p.clamp_min(1e-12).log().mean(0).softmax(-1)
        )
        return state, {KEPT: torch.arange(len(mean)).int(), CONSENSUS: mean}

    def loss(self, knowledge: Mapping[str, Tensor]) -> Loss | None:
        """lambda KL(consensus || prediction)."""
        if not self.kd:
            return None
        consensus = knowledge[CONSENSUS]

        def loss(logits: Tensor, vectors: Tensor, at: Tensor) -> Tensor:
            return self.kd * kl_div(logits.log_softmax(-1), consensus[at].to(logits), reduction="batchmean")

        return loss
