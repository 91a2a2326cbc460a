"""CoCoOp with federated averaging: a context shifted by a small net of the picture's features. A reconstruction.

Paper: Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022, which is not federated. No
federated release exists: its form here (context and net both shared, averaged with n_i / n) is our reconstruction of a baseline
that papers name.

Deliberate differences: 16 vectors drawn at random, the budget of the other prompt methods (the original: 4, from "a photo of a");
the texts of a batch pass the tower in pieces and are computed again in the backward pass.
"""

from typing import ClassVar

from pydantic import Field

from fedloom.core.payload import Scope
from fedloom.methods.base.clip import LENGTH, CLIPMethod
from fedloom.methods.base.method import Combination
from fedloom.models.clip.conditional_prompt import ConditionalContext


class CoCoOpFedAvg(CLIPMethod):
    """V' = sum p_i V_i and the same for the net."""

    name: ClassVar[str] = "cocoop-fedavg"
    title: ClassVar[str] = "CoCoOp + FedAvg"
    paper: ClassVar[str] = "Zhou et al. (CVPR 2022); a reconstruction"
    shares: ClassVar[Scope] = Scope(shared=("prompt", "meta"))
    combination: ClassVar[Combination] = "mean"

    length: int = LENGTH
    chunk: int = Field(1024, ge=1, description="texts that pass the tower together; changes no figure")

    @property
    def clip_adapter(self) -> ConditionalContext:
        """A context and the net."""
        return ConditionalContext(length=self.length, chunk=self.chunk)
