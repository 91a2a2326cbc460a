"""Zero-shot CLIP: nothing is trained and nothing travels. The baseline of every method on CLIP.

logit_c = s <f(x), E_T("a photo of a c.")>, on the same splits and with the same metrics (specification pfedmma, 3.1).
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from fedloom.core.payload import Payload, Scope
from fedloom.methods.base.clip import TEMPLATE, CLIPMethod
from fedloom.methods.base.method import Ask, Combination, State, Trainer
from fedloom.models.clip.zero_shot import ZeroShotCLIP


class ZeroShot(CLIPMethod):
    """The frozen foundation."""

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "zero-shot CLIP"
    paper: ClassVar[str] = "Radford et al. (ICML 2021)"
    shares: ClassVar[Scope] = Scope()
    ignores: ClassVar[tuple[str, ...]] = ("method.weights", "method.server", "method.personal")
    combination: ClassVar[Combination] = "nothing"

    template: str = TEMPLATE

    @property
    def clip_adapter(self) -> ZeroShotCLIP:
        """Nothing."""
        return ZeroShotCLIP(template=self.template)

    def start(self, tensors: Mapping[str, Tensor]) -> State:
        """The one tensor that names the foundation."""
        return State({}, dict(tensors))

    def round(self, state: State, ask: Ask) -> State:
        """Clients answer that they are there."""
        ask("train", Payload())
        return state

    def client(self, request: str, payload: Payload, trainer: Trainer) -> Payload:
        """Train nothing."""
        _, numbers = trainer.train({})
        return Payload({}, {"examples": numbers["examples"]})

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The foundation's tensors."""
        return state.tensors
