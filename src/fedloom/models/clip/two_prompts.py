"""FedOTP's two contexts, one shared and one of the client's own, whose features are matched with a picture's patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from fedloom.core.dtypes import at_least_float32
from fedloom.core.errors import ExperimentError
from fedloom.models.clip.adapter import Names, Part, Single, Who
from fedloom.models.clip.optimal_transport import Kind, plan
from fedloom.models.clip.prompt import Context, ContextPart

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers


class TwoContexts(Context):
    """Tensors `prompt/context` and `own/context`, each (m, d_text)."""

    ot: Kind = Field(
        "ot", description="the plan: ot (unbalanced), sinkhorn (balanced), uniform (none: an ablation)"
    )
    ot_mass: float = Field(0.8, gt=0, description="gamma, the transported mass, clipped to 1")
    ot_eps: float = Field(0.1, gt=0, description="eps, the entropic regularisation")
    ot_tolerance: float | None = Field(
        1e-3, ge=0, description="mean change of v that ends an item's iterations; none = never"
    )
    ot_iterations: int = Field(100, ge=1, description="largest number of iterations")

    def part(self, towers: Towers) -> Part:
        """The module."""
        if not towers.has_patches:
            raise ExperimentError(
                "the method compares texts with patches, which have no features of their own in this model.clip; "
                "name a CLIPModel, or take a method such as promptfl"
            )
        return TwoContextsPart(self, towers)


class TwoContextsPart(ContextPart):
    """logit_c = s sum_mn T_mn S_mn, S_mn = <patch m, text feature of class c behind context n>."""

    def __init__(self, spec: TwoContexts, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.spec = spec
        self.own = nn.ModuleDict({"context": Single(spec.length, towers.text_width)})

    def features(self, pixels: Tensor) -> Tensor:
        """Unit features (B, M, d) of all patches; the class token is left out."""
        hidden = self.towers.run("vision", self.towers.vision_in(pixels))
        return self.towers.vision_out(hidden, patches=True)

    @property
    def prefix_settings(self) -> object:
        """None: those of all patches."""
        return type(self).__module__, type(self).__qualname__

    def read(self, names: Names, who: Who) -> Tensor:
        """(P, 2, C, d)."""
        both = [self.context(who), self.own["context"]().expand(who.clients, -1, -1)]
        features = self.after(torch.stack(both, 1).flatten(0, 1), names)
        return features.view(who.clients, 2, len(names), -1)

    def logits(self, features: Tensor, names: Names, who: Who) -> Tensor:
        """(B, C); transport and sums in float32."""
        text = self.text(names, who)
        logits = []
        for part, own in zip(who.parts, text, strict=True):
            S = torch.einsum("bmd,ncd->bcmn", features[part], own)
            S = at_least_float32(S)
            logits.append((self.transport(S) * S).sum((-2, -1)))
        return self.towers.scale * torch.cat(logits)

    def transport(self, S: Tensor) -> Tensor:
        """T for similarities (B, C, M, 2)."""
        spec = self.spec
        return plan(
            S,
            kind=spec.ot,
            mass=spec.ot_mass,
            eps=spec.ot_eps,
            tolerance=spec.ot_tolerance,
            iterations=spec.ot_iterations,
        )
