"""FedSA-LoRA: A is shared, B stays with its client.

Paper: Guo et al., "Selective Aggregation for Low-Rank Adaptation in Federated Learning", ICLR 2025. A learns what is common,
B what is the client's own; client k's model is W0 + s B_k A'. There is no global model.

Deliberate differences: the published code passes one module from client to client, so that B and head are not personal at all;
here they live in the client's own state. `method.head=personal` keeps the head with the client, as their code means to; the
default shares it, as every method here does. For data of no client, `unseen` selects the model: the clients' own models on
all data (their mean), or one model with the mean of the B_k; the latter reads personal tensors and costs half a unit
of traffic that the ledger does not hold.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.mean import weighted_mean
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import FIRST, PROJECTOR, SECOND, Ask, Combination, Method, State


class FedSALoRA(Method):
    """A' = sum p_k A_k; B_k personal."""

    name: ClassVar[str] = "fedsa-lora"
    title: ClassVar[str] = "FedSA-LoRA"
    paper: ClassVar[str] = "Guo et al. (ICLR 2025)"
    shares: ClassVar[Scope] = Scope(shared=(*FIRST, *PROJECTOR), personal=SECOND)
    combination: ClassVar[Combination] = "mean"

    unseen: Literal["clients", "mean_b"] = Field(
        "clients",
        description="`global` figures: mean over the clients' own models, or one model with the mean of B",
    )

    def round(self, state: State, ask: Ask) -> State:
        """Clients train from (A, B_k), keep B_k and send A."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """None, or by explicit choice the shared A with the mean of the clients' B."""
        if self.unseen == "clients" or not any(personal.values()):
            return {}
        return {**state.shared, **weighted_mean(personal.values())}
