"""FFA-LoRA: A is drawn once, common and frozen; only B is trained and averaged.

Paper: Sun et al., "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024. With one frozen A the mean of
products is the product of means: U = (sum p_k B_k) A_0, exactly.

Deliberate differences: A comes from the run's seed at server and clients, so that it never travels (the paper's clients get
it once). With VeRA the vector next to A, lambda_d, is the frozen one.
"""

from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import PROJECTOR, SECOND, Ask, Combination, Method, State


class FFALoRA(Method):
    """A = A_0 frozen; B' = sum p_k B_k."""

    name: ClassVar[str] = "ffa-lora"
    title: ClassVar[str] = "FFA-LoRA"
    paper: ClassVar[str] = "Sun et al. (ICLR 2024)"
    shares: ClassVar[Scope] = Scope(shared=(*SECOND, *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True

    def round(self, state: State, ask: Ask) -> State:
        """Clients train B from the common B; the mean is exact."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))
