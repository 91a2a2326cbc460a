"""FedAvg-LoRA, also called FedIT: average A and B separately.

Paper: Zhang et al., "Towards Building the Federated GPT: Federated Instruction Tuning", 2023; UniFLoW Eq. 8.
The average of products is not the product of averages: U - B'A' = sum p_k (B_k - B')(A_k - A') is lost
(specification fedlora, identity 2) and stands in the metrics as `restoration_error`.

Deliberate differences: weights are uniform by default (the paper's code: n_k / n, one word away); each tensor is averaged
over the clients that trained it, so that clients without a modality change nothing of its encoder.
"""

from typing import ClassVar

from fedloom.aggregation import lora
from fedloom.exchange import Payload, Scope
from fedloom.methods.base import Ask, Method, State, combine_pairs


class FedAvgLoRA(Method):
    """A' = sum p_k A_k, B' = sum p_k B_k."""

    name: ClassVar[str] = "fedavg-lora"
    title: ClassVar[str] = "FedAvg-LoRA"
    paper: ClassVar[str] = "FedIT (Zhang et al., 2023)"
    scope: ClassVar[Scope] = Scope(shared=("encoder.*", "llm", "projector*"))

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from (A, B); average."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(combine_pairs(replies, self.client_weights(replies), lora.fedavg))
