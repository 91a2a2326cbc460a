"""RoLoRA: odd rounds train and average B with A fixed, even rounds A with B fixed.

Paper: Chen et al., "Robust Federated Finetuning of LLMs via Alternating Optimization of LoRA", 2024. With one factor common to
all, averaging the other is exact in every round.

Deliberate differences: B comes first, because a round that trains A at B = 0 learns nothing. Both factors are sent down, so
that clients need no memory and absent ones cannot fall behind: one unit instead of the paper's half.
"""

from collections.abc import Sequence
from typing import ClassVar

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import (
    FACTORS,
    FIRST,
    PROJECTOR,
    SECOND,
    Ask,
    Combination,
    LayerShape,
    Method,
    State,
    Trainer,
)


class RoLoRA(Method):
    """Odd rounds: B' = sum p_k B_k at common A. Even rounds: A' = sum p_k A_k at common B."""

    name: ClassVar[str] = "rolora"
    title: ClassVar[str] = "RoLoRA"
    paper: ClassVar[str] = "Chen et al. (2024)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True
    both: ClassVar[bool] = True
    alternates: ClassVar[bool] = True

    def round(self, state: State, ask: Ask) -> State:
        """Ask for one half; the other is common."""
        replies = ask("train", Payload(state.shared), expect=_half(ask.round))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    @classmethod
    def traffic(cls, shared: int, pairs: Sequence[LayerShape], clients: int) -> tuple[int, int, int]:
        """Up goes one half; on average over both kinds of rounds."""
        one = sum(r * (d_in + d_out) for r, d_in, d_out in pairs)
        return shared - one + one // 2, shared, shared

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train this round's half from the common factors."""
        start = {**payload.tensors, **trainer.personal}
        return self.answer(trainer, *trainer.train(start, only=_half(trainer.round)))


def _half(round: int) -> Scope:
    """All but the factor that is idle in this round: A in odd ones, B in even ones."""
    return Scope(shared=("*",), frozen=FIRST if round % 2 else SECOND)
