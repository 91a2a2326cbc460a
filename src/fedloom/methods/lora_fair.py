"""LoRA-FAIR: average A and B, then correct B towards the mean of the products.

Paper: Bian et al., "LoRA-FAIR: Federated LoRA Fine-Tuning with Aggregation and Initialization Refinement", ICCV 2025.
B'' = B' + dB with dB minimising ||(B' + dB) A' - U||^2 + λ ||dB||^2.

Deliberate differences: the paper finds dB by gradient steps on a similarity; here it is the closed form
dB = (N - B'G)(G + λI)^-1, FedA²-LoRA's centred ridge with an absolute λ (specification fedlora 3.11).
"""

from functools import partial
from typing import ClassVar

from pydantic import Field

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import combine_layers
from fedloom.methods.base.feda2_by_sums import client_by_sums, solved_by_sums
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer


class LoRAFAIR(Method):
    """A' = sum p_k A_k, B'' = sum p_k B_k + dB."""

    name: ClassVar[str] = "lora-fair"
    title: ClassVar[str] = "LoRA-FAIR"
    paper: ClassVar[str] = "Bian et al. (ICCV 2025)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "solve"
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    ridge: float = Field(0.01, ge=0, description="λ, ridge on the correction dB; absolute")

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from (A, B); average, then correct."""
        if ask.sums:
            from_sums = partial(lora.feda2_solve, mode="centred", ridge=self.ridge, ridge_scale="absolute")
            return solved_by_sums(state, ask, from_sums, mean_of_b=True)
        replies = ask("train", Payload(state.shared))
        fair = partial(lora.feda2_layers, mode="centred", ridge=self.ridge, ridge_scale="absolute")
        return state.with_shared(
            combine_layers(replies, self.client_weights(replies), fair, like=state.shared)
        )

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train and answer; or, where the server sees sums alone, answer its two asks."""
        return client_by_sums(self, request, payload, trainer) or super().client(request, payload, trainer)
