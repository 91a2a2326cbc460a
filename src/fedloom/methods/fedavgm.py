"""FedAvgM: the server keeps a momentum of the clients' mean change.

Paper: Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification",
2019, section 4.

Deliberate differences: applied to all shared tensors (adapters, a projector), where the paper trains whole models; on LoRA
factors, A and B move separately; weights are uniform by default (`weights: examples` is the paper's n_k / n).
`method.server: {name: avgm}` gives any other method the same step.
"""

from typing import ClassVar

from pydantic import Field

from fedloom.aggregation import server
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class FedAvgM(Method):
    """v' = beta v + (mean of the clients' w_k - w); w' = w + v'."""

    name: ClassVar[str] = "fedavgm"
    title: ClassVar[str] = "FedAvgM"
    paper: ClassVar[str] = "Hsu et al., 2019"
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True

    beta: float = Field(0.9, ge=0, lt=1, description="share of the last change that is kept")

    def round(self, state: State, ask: Ask) -> State:
        """One round: train from w, move by the momentum."""
        replies = ask("train", Payload(state.shared))
        mean = mean_of(replies, self.client_weights(replies))
        moved, kept = server.momentum(state.shared, mean, state.tensors, self.beta)
        return State({**state.shared, **moved}, {**state.tensors, **kept}, state.values)
