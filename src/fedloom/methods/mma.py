"""MMA, centralised: multimodal adapters in the last blocks of CLIP's towers, on all data in one place. pFedMMA's upper bound.

Paper: Yang et al., "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024; equations in
models/clip/multimodal_adapter.py. The preset `released` is its YAML: blocks 5 to 12 of 12, biases.

Deliberate differences: blocks are counted from the top, so that towers of unequal depth are adapted at their end. The default
preset `paper` is pFedMMA's setting, so that the two compare.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from fedloom.core.payload import Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.methods.base.clip import TEMPLATE, CLIPMethod
from fedloom.methods.base.method import Combination, State
from fedloom.models.clip.multimodal_adapter import MultimodalAdapter
from fedloom.models.training.settings import Training

BASE_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {"blocks": 3, "rank": 32, "bias": False},
    "released": {"blocks": 8, "rank": 32, "bias": True},
}


class WithAdapters(CLIPMethod):
    """The fields of the multimodal adapter, for MMA and pFedMMA."""

    blocks: int = Field(3, ge=1, description="number of last blocks of both towers that are adapted")
    rank: int = Field(32, ge=1, description="r, the adapters' inner width")
    bias: bool = Field(False, description="whether D, S and U have biases")
    scale: float = Field(1e-3, ge=0, description="alpha, the weight of the branch")
    grad_rescale: bool = Field(
        True, description="adapters see 1/alpha times their gradient: with sgd, the learning rate over alpha"
    )
    force: Annotated[bool, ReadWith(".grad_rescale", (True,))] = Field(
        False, description="allow grad_rescale with adamw or with clipping, which undo it"
    )
    activation: Literal["relu", "gelu"] = Field("relu", description="activation function after D and after S")
    inner_activation: bool = Field(True, description="whether there is an activation after D")
    branch_input: Literal["ln1", "x"] = Field("ln1", description="input of D: LN1(x), or x")
    init_up: Literal["kaiming", "zero"] = Field("kaiming", description="start values of U")
    template: str = TEMPLATE

    @property
    def clip_adapter(self) -> MultimodalAdapter:
        """D, S and U."""
        return MultimodalAdapter(**{name: getattr(self, name) for name in MultimodalAdapter.model_fields})

    def check_training(self, training: Training) -> str | None:
        """Gradients that are enlarged by 1/alpha mean nothing to an optimiser that divides by them."""
        if not self.grad_rescale or self.force:
            return None
        if training.optimizer == "adamw":
            return (
                "method.grad_rescale enlarges gradients, which adamw divides by their size again; set training.optimizer: sgd, "
                "or method.grad_rescale: false"
            )
        if training.clip is not None:
            return (
                "method.grad_rescale enlarges gradients by 1/alpha, and training.clip cuts them down; set training.clip: null, "
                "or method.grad_rescale: false"
            )
        return None


class MMA(WithAdapters):
    """One client holds everything; its adapters are the model."""

    name: ClassVar[str] = "mma"
    title: ClassVar[str] = "MMA, centralised"
    paper: ClassVar[str] = "Yang et al. (CVPR 2024); upper bound"
    shares: ClassVar[Scope] = Scope(shared=("adapter",))
    combination: ClassVar[Combination] = "mean"
    pooled: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = BASE_PRESETS

    preset: Literal["paper", "released"] = Field(
        "paper", description="paper: as pFedMMA's (3 blocks); released: the released YAML (8 blocks, biases)"
    )

    def global_model(
        self, state: State, personal: Mapping[str, Mapping[str, Tensor]]
    ) -> Mapping[str, Tensor]:
        """The one client's."""
        return state.shared
