"""Fed-SB: the clients train one small square matrix per layer between two frozen factors, and the server averages it.

Paper: Singhal et al., "Fed-SB: A Silver Bullet for Extreme Communication Efficiency and Performance in (Private) Federated LoRA
Fine-Tuning", 2025. ΔW = s B R A with common, frozen B and A: sum p_k B R_k A = B (sum p_k R_k) A, exactly, with r² numbers per
layer and direction.

Deliberate differences: B and A are the leading singular directions of the frozen weight, as in LoRA-XS, and R begins at zero.
The paper takes B, A and the first R from an estimate of the first full-tuning gradient, which its code makes on the pooled
client data; ours needs no data, and nothing but R ever travels, but its directions do not know the task.
"""

from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import PROJECTOR, Ask, Combination, Method, State


class FedSB(Method):
    """R' = sum p_k R_k."""

    name: ClassVar[str] = "fed-sb"
    title: ClassVar[str] = "Fed-SB"
    paper: ClassVar[str] = "Singhal et al. (2025)"
    shares: ClassVar[Scope] = Scope(shared=("*.lora_R", *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    vera: ClassVar[bool] = False
    square: ClassVar[bool] = True
    one_start: ClassVar[bool] = True

    def round(self, state: State, ask: Ask) -> State:
        """Clients train R from the common one; the mean is exact."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))
