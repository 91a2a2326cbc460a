"""FedProx: a proximal term in the clients' loss; the server averages.

Paper: Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020, Algorithm 2:
h_k(w) = F_k(w) + mu/2 ||w - w^t||^2.

Deliberate differences: the local solver is the experiment's AdamW; clients do the same number of epochs (no inexactness). With
one local step a round the term has no gradient, and FedProx is FedAvg. `training.prox` gives any method the same term.
"""

from typing import ClassVar

from pydantic import Field

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State, Trainer
from fedloom.models.training.settings import proximal


class FedProx(Method):
    """w' = sum p_k w_k, with w_k near w."""

    name: ClassVar[str] = "fedprox"
    title: ClassVar[str] = "FedProx"
    paper: ClassVar[str] = "Li et al. (MLSys 2020)"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"

    mu: float = Field(
        0.1, ge=0, description="FedProx mu: weight of half the squared distance to the round's shared tensors"
    )

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train near w; average."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train with the proximal term on what travels."""
        start = {**payload.tensors, **trainer.personal}
        near = proximal(self.mu, payload.tensors)
        return self.answer(trainer, *trainer.train(start, penalty=near))
