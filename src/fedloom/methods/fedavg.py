"""FedAvg: the weighted mean of all shared tensors, tensor by tensor.

Paper: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, Algorithm 1.

Deliberate differences: weights are uniform by default (`weights: examples` is the paper's n_k / n); each tensor is averaged over
the clients that trained it. On LoRA factors this is FedAvg-LoRA without its provisions for unequal ranks.
"""

from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import Ask, Combination, Method, State


class FedAvg(Method):
    """w' = sum p_k w_k."""

    name: ClassVar[str] = "fedavg"
    title: ClassVar[str] = "FedAvg"
    paper: ClassVar[str] = "McMahan et al., 2017"
    own_models: ClassVar[bool] = True
    shares: ClassVar[Scope] = Scope(shared=("*",))
    combination: ClassVar[Combination] = "mean"

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from w; average."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))
