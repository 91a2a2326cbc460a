"""FedPGP: a shared context plus a personal one of low rank.

Paper: Cui et al., "Harmonizing Generalization and Personalization in Federated Prompt Learning", ICML 2024. P_i = P_G + U_i V_i
answers; the loss is cross entropy plus mu L_con, which pulls P_G to CLIP's own text and pushes P_i from P_G.

Deliberate differences from the released code: the fixed text of L_con is "a photo of a <name>." (released: a row of X before the
name, here z0: placeholder); one prompt only (released scripts set two and then classify among 2 C columns, half of them wrong);
the pass over U V alone, whose result is unused, is left out.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from fedloom.core.payload import Scope
from fedloom.core.settings_tree import ReadWith
from fedloom.methods.base.clip import LENGTH, TEMPLATE, CLIPMethod
from fedloom.methods.base.method import Combination
from fedloom.models.clip.prompt import LowRankContext


class FedPGP(CLIPMethod):
    """P_G' = sum p_i P_G,i; U_i and V_i stay."""

    name: ClassVar[str] = "fedpgp"
    title: ClassVar[str] = "FedPGP"
    paper: ClassVar[str] = "Cui et al. (ICML 2024)"
    shares: ClassVar[Scope] = Scope(shared=("prompt",), personal=("lowrank",))
    combination: ClassVar[Combination] = "mean"

    length: int = LENGTH
    rank: int = Field(8, ge=1, description="b, rank of U_i V_i")
    con_weight: float = Field(0.5, ge=0, description="mu, weight of L_con")
    con_tau: float = Field(0.5, gt=0, description="tau of L_con")
    z0: Literal["template", "placeholder"] = Field(
        "template", description="the fixed text of L_con: the template, or the released code's row of X"
    )
    template: Annotated[str, ReadWith(".z0", ("template",))] = TEMPLATE

    @property
    def clip_adapter(self) -> LowRankContext:
        """Context, U and V."""
        return LowRankContext(
            template=self.template,
            length=self.length,
            rank=self.rank,
            con_weight=self.con_weight,
            con_tau=self.con_tau,
            z0=self.z0,
        )
