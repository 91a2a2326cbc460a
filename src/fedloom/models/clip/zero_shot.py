"""Zero-shot CLIP: no trained tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedloom.models.clip.adapter import CLIPAdapter, Names, Part, Single, Who

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers


class ZeroShotCLIP(CLIPAdapter):
    """The unchanged foundation. Its one named tensor, `clip/logit_scale` (1,), is frozen at the checkpoint's value."""

    def part(self, towers: Towers) -> Part:
        """The module."""
        return ZeroShotPart(self, towers)


class ZeroShotPart(Part):
    """logit_c = s <f(x), g_c>, g_c from the fixed template."""

    def __init__(self, spec: CLIPAdapter, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.clip = nn.ModuleDict({"logit_scale": Single(1)})

    def fresh(self, name: str, like: Tensor, stream: torch.Generator) -> Tensor:
        """The checkpoint's own."""
        return self.towers.scale.log().reshape(1)

    def read(self, names: Names, who: Who) -> Tensor:
        """(P, C, d), one and the same for all."""
        return self.fixed_text(names).expand(who.clients, -1, -1)
