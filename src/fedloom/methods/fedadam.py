"""FedAdam: the clients' mean change is a gradient for Adam on the server.

Paper: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.

Deliberate differences: applied to all shared tensors; both moments begin at 0 (the paper: the second at tau^2 or more). As in the
paper no bias is corrected. `method.server: {name: adam}` gives any other method the same step.
"""

from typing import ClassVar

from pydantic import Field

from fedloom.aggregation import server
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class FedAdam(Method):
    """a' = b1 a + (1-b1) D; b' = b2 b + (1-b2) D^2; w' = w + lr a' / (sqrt b' + tau), D the clients' mean change."""

    name: ClassVar[str] = "fedadam"
    title: ClassVar[str] = "FedAdam"
    paper: ClassVar[str] = "Reddi et al. (ICLR 2021)"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True

    lr: float = Field(0.01, gt=0, description="the server's rate")
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the first moment that is kept")
    beta2: float = Field(0.99, ge=0, lt=1, description="share of the second moment that is kept")
    tau: float = Field(1e-3, gt=0, description="added to the root of the second moment")

    def round(self, state: State, ask: Ask) -> State:
        """One round: train from w, let Adam move."""
        replies = ask("train", Payload(state.shared))
        mean = mean_of(replies, self.client_weights(replies))
        moved, kept = server.adam(
            state.shared, mean, state.tensors, self.lr, self.beta1, self.beta2, self.tau
        )
        return State({**state.shared, **moved}, {**state.tensors, **kept}, state.values)
