"""FedSVD: clients train B; the server rewrites the common pair, so that A stays orthonormal and learns nonetheless.

Paper: Lee et al., "FedSVD: Adaptive Orthogonalization for Private Federated Learning with LoRA", NeurIPS 2025. With one A at
every client the mean of the B_k is exact, as in FFA-LoRA; then B̄ A = P S Qᵀ, A' = Qᵀ, B' = P S: the same product, A' A'ᵀ = I.

Deliberate differences: QR of both factors and the SVD of an r x r core instead of an SVD of the dense product. A direction
that B̄ A lacks keeps a unit row of A's own space and a zero column of B. An encoder that nobody trained keeps its pair. The
published code freezes the head at its random start (`method.head=frozen`); the default shares it, as every method here does.
"""

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of, sort_directions
from fedloom.methods.base.method import (
    FACTORS,
    FIRST,
    PROJECTOR,
    Ask,
    Combination,
    LayerShape,
    Method,
    State,
    Trainer,
)

ONLY_B = Scope(shared=("*",), frozen=FIRST)
"""All but A, which only the server changes."""


class FedSVD(Method):
    """B̄ = sum p_k B_k at common A; (A', B') = SVD of B̄ A."""

    name: ClassVar[str] = "fedsvd"
    title: ClassVar[str] = "FedSVD"
    paper: ClassVar[str] = "Lee et al. (NeurIPS 2025)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    period: int = Field(1, ge=1, description="rounds from one rewriting of the pair to the next")

    def round(self, state: State, ask: Ask) -> State:
        """Clients train B from the common pair; average, and rewrite what was trained."""
        replies = ask("train", Payload(state.shared), expect=ONLY_B)
        mean = mean_of(replies, self.client_weights(replies))
        if ask.round % self.period == 0:
            first = {n: n.removesuffix("lora_B") + "lora_A" for n in mean if n.endswith("lora_B")}
            mean |= {a: state.shared[a] for a in first.values()}
            mean = sort_directions(mean, split="b")
        return state.with_shared(mean)

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train B, and whatever else is shared, at the common A."""
        start = {**payload.tensors, **trainer.personal}
        return self.answer(trainer, *trainer.train(start, only=ONLY_B))

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Up goes B; down goes the pair."""
        return shared - sum(r * d_in for r, d_in, _ in pairs), shared, shared
