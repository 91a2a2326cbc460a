"""PromptFL: one learned context, averaged.

Paper: Guo et al., "PromptFL: Let Federated Participants Cooperatively Learn Prompts Instead of Models", IEEE TMC 2024; the
context is CoOp's (Zhou et al., IJCV 2022). Every client then answers with the global context.

Deliberate differences: weights are n_i / n (the released server divides by the number of clients: method.weights: uniform), and
uploads are copies (it stores live references, so that its mean is the last client's model). FedProx's term
(mu/2) |V - V_global|^2 is on the live parameters; the released one reads detached tensors, which changes the printed loss and
not the update.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.clip import LENGTH, CLIPMethod
from fedloom.methods.base.method import Combination, Trainer
from fedloom.models.clip.prompt import Context


class PromptFL(CLIPMethod):
    """V' = sum p_i V_i."""

    name: ClassVar[str] = "promptfl"
    title: ClassVar[str] = "PromptFL"
    paper: ClassVar[str] = "Guo et al. (TMC 2024)"
    shares: ClassVar[Scope] = Scope(shared=("prompt",))
    combination: ClassVar[Combination] = "mean"

    length: int = LENGTH
    prox: float = Field(0.0, ge=0, description="mu of FedProx's term; 0 = without it")

    @property
    def clip_adapter(self) -> Context:
        """One context."""
        return Context(length=self.length)

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train, held back by the term where there is one."""
        pull = partial(proximal, self.prox, payload.tensors) if self.prox else None
        return self.answer(trainer, *trainer.train(payload.tensors, penalty=pull))


def proximal(mu: float, centre: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """(mu / 2) sum |w - w_global|^2 (Li et al., FedProx, MLSys 2020)."""
    terms = [(t - centre[name].to(t)).square().sum() for name, t in tensors.items()]
    return mu / 2 * sum(terms[1:], terms[0])
