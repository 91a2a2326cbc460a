"""FedDF: the mean of each architecture's clients, distilled on the server from all clients' predictions on public items.

Paper: Lin et al., "Ensemble Distillation for Robust Model Fusion in Federated Learning", NeurIPS 2020, Algorithm 1 and 3.

Deliberate differences: the public items are synthesised as in FedMMKT; every model reads an item in its own modality, so
that the teachers of an image student include text models; AdamW with the server's own learning rate.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import kl_div

from fedloom.core.payload import Payload, Scope, group_of
from fedloom.core.streams import torch_stream
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.distillation import READ_WITH_GENERATOR, server_of
from fedloom.methods.base.method import Ask, Method, State
from fedloom.models.own.model_bank import OwnExample


class FedDF(Method):
    """Students: group means. Teacher: softmax of the mean of all clients' logits."""

    name: ClassVar[str] = "feddf"
    title: ClassVar[str] = "FedDF"
    paper: ClassVar[str] = "Lin et al., 2020"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    own_models: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = READ_WITH_GENERATOR
    public_items: ClassVar[bool] = True
    linear: ClassVar[bool] = False

    steps: int = Field(20, ge=0, description="distillation steps on the server per architecture and round")
    batch_size: int = Field(32, ge=1, description="public items in one step")
    lr: float = Field(1e-3, gt=0, description="AdamW's learning rate on the server")

    def round(self, state: State, ask: Ask) -> State:
        """Average the clients of each architecture, then distil the ensemble into every average."""
        replies = ask("train", Payload(state.shared))
        students = {**state.shared, **mean_of(replies, self.client_weights(replies))}
        server = server_of(ask)
        public = server.synthesis.public({}, ask.seed, ask.round)
        examples = {
            r.client: server.bank.read_items(public.items[server.modalities[r.client]], r.client)
            for r in replies
        }
        teacher = torch.stack(
            [server.bank.inferred(r.payload.tensors, examples[r.client])[0] for r in replies]
        ).mean(0).softmax(-1)  # fmt: skip
        groups = {group_of(n) for r in replies for n in r.payload.tensors}
        for group in sorted(groups):
            client = next(r.client for r in replies if any(group_of(n) == group for n in r.payload.tensors))
            student = {n: t for n, t in students.items() if group_of(n) == group}
            students |= self._distil(student, examples[client], teacher, group, ask)
        return state.with_shared(students)

    def _distil(
        self, student: Mapping[str, Tensor], examples: list[OwnExample], teacher: Tensor, group: str, ask: Ask
    ) -> dict[str, Tensor]:
        """The student after `steps` of KL(teacher || student) on the items."""
        bank, rng = server_of(ask).bank, torch_stream(ask.seed, "feddf", group, ask.round)
        bank.load(student)
        optimiser = torch.optim.AdamW(bank.begin(student), lr=self.lr, weight_decay=0.0)
        for _ in range(self.steps):
            at = torch.randperm(len(examples), generator=rng)[: self.batch_size]
            logits, _ = bank.outputs([examples[i] for i in at.tolist()])
            loss = kl_div(logits.log_softmax(-1), teacher[at].to(logits), reduction="batchmean")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        tensors = {n: bank.tensors[n].detach().clone() for n in student}
        bank.rest()
        return tensors
