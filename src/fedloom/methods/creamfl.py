"""CreamFL's exchange of representations, on items that FedMMKT's server synthesises.

Paper: Yu et al., "Multimodal Federated Learning via Contrastive Representation Ensemble", ICLR 2023.

Deliberate differences: there is no server model to distil into, and no client with both modalities; the public set is
synthetic; the global vectors of a modality are the clients' vectors weighted by contrastive scores against the other modality's
anchors (the paper's own weights have no temperature; unit vectors need one).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloom.aggregation import fusion
from fedloom.core.payload import Payload, Reply
from fedloom.methods.base.distillation import KEPT, VECTORS, DistillationMethod, Loss, server_of
from fedloom.methods.base.method import Ask, State, Trainer
from fedloom.models.generation.public_set import Public
from fedloom.models.own.model_bank import ITEMS, KNOWLEDGE, ModelBank

GLOBAL = f"{KNOWLEDGE}/global."
"""Prefix of each modality's global vectors, (N, d)."""
SAME, BEFORE = "same", "before"


class CreamFL(DistillationMethod):
    """Clients: CE(D_c) + gamma (inter + intra) against the global vectors of the public items."""

    name: ClassVar[str] = "creamfl"
    title: ClassVar[str] = "CreamFL"
    paper: ClassVar[str] = "Yu et al., 2023"

    gamma: float = Field(0.5, ge=0, description="weight of the two contrastive losses")
    temperature: float = Field(0.5, gt=0, description="temperature of the contrastive losses")
    tau: float = Field(0.07, gt=0, description="temperature of the scores in the client weights")

    def learn(
        self, state: State, public: Public, replies: Sequence[Reply], ask: Ask
    ) -> tuple[State, dict[str, Tensor]]:
        """Each modality's global vectors: its clients' mean, weighted by scores against the other modalities' anchors."""
        server = server_of(ask)
        anchors = server.synthesis.anchors(public, server.bank.width)
        vectors = {}
        for m in sorted(anchors):
            own = [r.payload.tensors[VECTORS] for r in replies if server.modalities[r.client] == m]
            if not own:
                vectors[f"{GLOBAL}{m}"] = anchors[m]
                continue
            others = [g for n, g in anchors.items() if n != m]
            Z = torch.stack(own)
            s = torch.stack([fusion.scores(Z, g, self.tau) for g in others]).mean(0)
            mean = torch.einsum("kn,knd->nd", s.softmax(0), Z)
            vectors[f"{GLOBAL}{m}"] = torch.nn.functional.normalize(mean, dim=-1)
        every = torch.arange(len(public.prompted)).int()
        return state, {KEPT: every, **vectors}

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """See DistillationMethod; `distil` adds the vectors of the model before this round's training, for the losses."""
        if request == "distil":
            own = self.client_model(State({}), trainer.personal)
            bank = ModelBank.of(trainer.model)
            items = bank.read_items(trainer.personal[ITEMS], trainer.client)
            before, modality = bank.inferred(own, items)[1], bank.modalities[trainer.client]
            same = payload.tensors[f"{GLOBAL}{modality}"]
            others = [
                t for n, t in payload.tensors.items() if n.startswith(GLOBAL) and n != f"{GLOBAL}{modality}"
            ]
            knowledge = {KEPT: payload.tensors[KEPT], SAME: same, BEFORE: before}
            knowledge |= {f"other{i}": t for i, t in enumerate(others)}
            payload = Payload(knowledge, payload.numbers)
        return super().client(request, payload, trainer)

    def loss(self, knowledge: Mapping[str, Tensor]) -> Loss | None:
        """gamma (inter + intra): contrast with the other modalities' vectors, and of the global with the previous vector."""
        if not self.gamma:
            return None
        others = [t for n, t in knowledge.items() if n.startswith("other")]

        def loss(logits: Tensor, vectors: Tensor, at: Tensor) -> Tensor:
            T = self.temperature
            inter = [cross_entropy(vectors @ g.to(vectors).T / T, at.to(vectors.device)) for g in others]
            similarities = [(vectors * knowledge[n][at].to(vectors)).sum(-1) for n in (SAME, BEFORE)]
            pair = torch.stack(similarities, 1) / T
            intra = cross_entropy(pair, torch.zeros(len(at), dtype=torch.long, device=pair.device))
            return self.gamma * (torch.stack(inter).mean() + intra)

        return loss
