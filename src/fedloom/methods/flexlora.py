"""FlexLoRA: the best pair of each client's rank for the mean update.

Paper: Bai et al., "Federated Fine-tuning of Large Language Models under Heterogeneous Tasks and Client Resources", NeurIPS
2024. U = sum p_k s_k B_k A_k is decomposed, and client k gets its r_k strongest directions.

Deliberate differences: QR of the stacked factors and the SVD of their small core instead of an SVD of the dense U; the singular
values go to both factors in equal parts (`split=b`: all to B). Directions change from round to round, so that optimiser
moments must not be kept; here they never are.
"""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field

from fedloom.aggregation import lora
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import combine_pairs
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State


class FlexLoRA(Method):
    """(A', B') = best rank-r pair of U; a client takes its first r_k directions."""

    name: ClassVar[str] = "flexlora"
    title: ClassVar[str] = "FlexLoRA"
    paper: ClassVar[str] = "Bai et al. (NeurIPS 2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "products"
    unequal_ranks: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    split: Literal["sqrt", "b"] = Field(
        "sqrt", description="where the singular values go: both factors, or B"
    )

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from its directions of (A, B); decompose the mean update."""
        replies = ask("train", Payload(state.shared))
        best = partial(lora.flexlora, split=self.split)
        return state.with_shared(
            combine_pairs(replies, self.client_weights(replies), best, like=state.shared)
        )
