"""FedOTP: a shared and a personal context, matched with a picture's patches by optimal transport.

Paper: Li et al., "Global and Local Prompts Cooperation via Optimal Transport for Federated Learning", CVPR 2024.
logit_c = s sum_mn T_mn S_mn with the plan T of unbalanced entropic transport (models/clip/optimal_transport.py).

Deliberate differences from the released code: transport in float32, on logarithms below eps 0.05 (half precision underflows
there); every picture and class stops by its own convergence (released: by the batch's mean, so that results depend on what
else is in the batch), measured on the scaling of the columns (released, for balanced transport: of the rows, which takes a
few iterations more). Plans are reported to be nearly uniform: `ot: uniform` is the ablation.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from fedloom.core.payload import Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.methods.base.clip import LENGTH, CLIPMethod
from fedloom.methods.base.method import Combination
from fedloom.models.clip.optimal_transport import Kind
from fedloom.models.clip.two_prompts import TwoContexts


class FedOTP(CLIPMethod):
    """V_0' = sum p_i V_0,i; V_1 stays."""

    name: ClassVar[str] = "fedotp"
    title: ClassVar[str] = "FedOTP"
    paper: ClassVar[str] = "Li et al. (CVPR 2024)"
    shares: ClassVar[Scope] = Scope(shared=("prompt",), personal=("own",))
    combination: ClassVar[Combination] = "mean"

    length: int = LENGTH
    ot: Kind = Field("ot", description="ot: unbalanced; sinkhorn: balanced; uniform: no transport")
    ot_mass: Annotated[float, ReadWith(".ot", ("ot",))] = Field(
        0.8, gt=0, description="gamma, the mass that is moved; at most 1 counts"
    )
    ot_eps: Annotated[float, ReadWith(".ot", ("ot", "sinkhorn"))] = Field(
        0.1, gt=0, description="eps, the entropic regularisation"
    )
    ot_tolerance: Annotated[float | None, ReadWith(".ot", ("ot", "sinkhorn"))] = Field(
        1e-3,
        ge=0,
        description="change of v that ends the iterations of a picture and class; none = all of them",
    )
    ot_iterations: Annotated[int, ReadWith(".ot", ("ot", "sinkhorn"))] = Field(
        100, ge=1, description="largest number of iterations"
    )

    @property
    def clip_adapter(self) -> TwoContexts:
        """Both contexts."""
        return TwoContexts(
            length=self.length,
            ot=self.ot,
            ot_mass=self.ot_mass,
            ot_eps=self.ot_eps,
            ot_tolerance=self.ot_tolerance,
            ot_iterations=self.ot_iterations,
        )
