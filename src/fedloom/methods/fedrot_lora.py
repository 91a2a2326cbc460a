"""FedRot-LoRA: every client rotates its pair towards the common one before the server averages A and B.

Paper: "FedRot-LoRA: Mitigating Rotational Misalignment in Federated LoRA", 2026. (B R, Rᵀ A) is the same update for every
rotation R, so that clients may choose R: in odd rounds Rᵀ A_k is brought near the A that was sent, in even ones B_k R near
the B, each by the orthogonal Procrustes rotation with det R = 1, softened to a part of the way (λ = 0.5). Round 1 is not
rotated: all clients begin from one A there, and from B = 0.

Deliberate differences: softening is the rotation nearest (1 - λ) I + λ R. The reference is what the round sent down, so that
clients need no memory.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedloom.aggregation.rotation import rotate_a, rotate_b
from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.combine import mean_of
from fedloom.methods.base.method import FACTORS, PROJECTOR, Ask, Combination, Method, State, Trainer


class FedRotLoRA(Method):
    """A' = sum p_k R_kᵀ A_k, B' = sum p_k B_k R_k."""

    name: ClassVar[str] = "fedrot-lora"
    title: ClassVar[str] = "FedRot-LoRA"
    paper: ClassVar[str] = "FedRot-LoRA (2026)"
    shares: ClassVar[Scope] = Scope(shared=(*FACTORS, *PROJECTOR))
    combination: ClassVar[Combination] = "mean"
    one_start: ClassVar[bool] = True
    vera: ClassVar[bool] = False
    both: ClassVar[bool] = True

    strength: float = Field(
        0.5, ge=0, le=1, description="λ, part of the rotation that is made; 0 = FedAvg-LoRA"
    )

    def round(self, state: State, ask: Ask) -> State:
        """Ask the cohort to train from (A, B); average what comes back rotated."""
        replies = ask("train", Payload(state.shared))
        return state.with_shared(mean_of(replies, self.client_weights(replies)))

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train, then rotate every trained pair towards the pair that came."""
        trained, numbers = trainer.train({**payload.tensors, **trainer.personal})
        if trainer.round > 1 and self.strength:
            trained |= self._rotated(trained, payload.tensors, first=trainer.round % 2 == 1)
        return self.answer(trainer, trained, numbers)

    def _rotated(
        self, trained: Mapping[str, Tensor], sent: Mapping[str, Tensor], first: bool
    ) -> dict[str, Tensor]:
        """The pairs under their rotations; `first`: towards the sent A, else towards the sent B."""
        rotated: dict[str, Tensor] = {}
        for a in (n for n in trained if n.endswith("lora_A")):
            b = a.removesuffix("lora_A") + "lora_B"
            rotate, reference = (rotate_a, sent[a]) if first else (rotate_b, sent[b])
            rotated[a], rotated[b] = rotate(trained[a], trained[b], reference, self.strength)
        return rotated
