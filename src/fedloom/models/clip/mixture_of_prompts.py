"""pFedMoAP's mixture of prompts (Luo et al., ICLR 2025): attention of a picture over own and other clients' text features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from fedloom.core.errors import ExperimentError
from fedloom.models.clip.adapter import Names, Part, Single, Who, products
from fedloom.models.clip.prompt import Context, ContextPart

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers

STRIDE = 4
"""R(.) keeps every fourth coordinate."""


class MixtureOfPrompts(Context):
    """Tensors `prompt/context` (m, d_text), `gate/query|key|value|out.*` (d/4, d/4), and `experts/contexts` (K-1, m, d_text).

    The last one is frozen and comes from the server. Rows of zeros are absent experts; without experts there is no gating.
    """

    experts: int = Field(9, ge=1, description="K-1, largest number of other clients' contexts")
    heads: int = Field(8, ge=1, description="attention heads of the gating")
    gate_scale: float = Field(10.0, gt=0, description="factor of the attention scores q.k")
    mix: float = Field(0.5, ge=0, description="lambda, weight of the own prompt's logits")

    def part(self, towers: Towers) -> Part:
        """The module. Raises ExperimentError where the heads do not divide the reduced width."""
        inner = len(range(0, towers.width, STRIDE))
        if inner % self.heads:
            raise ExperimentError(
                f"method.heads is {self.heads}, which does not divide the gating's width {inner} of model.clip"
            )
        return MixtureOfPromptsPart(self, towers)


class MixtureOfPromptsPart(ContextPart):
    """logit_c = lambda s <f, t_L(c)> + s <R(f), h(c)>; without experts: s <f, t_L(c)>."""

    def __init__(self, spec: MixtureOfPrompts, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.spec = spec
        inner = len(range(0, towers.width, STRIDE))
        self.gate = nn.ModuleDict({n: nn.Linear(inner, inner) for n in ("query", "key", "value", "out")})
        self.experts = nn.ModuleDict({"contexts": Single(spec.experts, spec.length, towers.text_width)})
        self._read: tuple[Names, Tensor, Tensor] | None = None

    def fresh(self, name: str, like: Tensor, stream: torch.Generator) -> Tensor:
        """No experts; the gating as nn.Linear draws it."""
        if name.startswith("experts/"):
            return torch.zeros(like.shape)
        if name.startswith("gate/"):
            bound: float = len(range(0, self.towers.width, STRIDE)) ** -0.5
            return torch.rand(like.shape, generator=stream) * 2 * bound - bound
        return super().fresh(name, like, stream)

    def logits(self, features: Tensor, names: Names, who: Who) -> Tensor:
        """(B, C)."""
        own = self.text(names, who)
        plain = self.towers.scale * products(features, own, who)
        experts = self.experts["contexts"]().expand(who.clients, -1, -1, -1)
        known = experts.flatten(2).any(-1)  # (P, K-1)
        if not bool(known.any()):
            return plain
        keep = known.any(0)
        others = self._others(experts[:, keep], names)
        mixed = self._mixed(features, own, others, known[:, keep], who)
        gated = self.spec.mix * plain + self.towers.scale * mixed
        return torch.where(known.any(1)[list(who.of), None], gated, plain)

    def _others(self, contexts: Tensor, names: Names) -> Tensor:
        """Experts' text features (P, J, C, d), cached for the last experts and names."""
        last = self._read
        if (
            last is None
            or last[0] != names
            or last[1].shape != contexts.shape
            or not torch.equal(last[1], contexts)
        ):
            with torch.no_grad():
                features = self.after(contexts.flatten(0, 1), names).view(*contexts.shape[:2], len(names), -1)
            last = self._read = names, contexts.detach().clone(), features
        return last[2]

    def _mixed(self, f: Tensor, own: Tensor, others: Tensor, known: Tensor, who: Who) -> Tensor:
        """<R(f), h(c)> (B, C), where h(c) is the gating's mixture for class c."""
        short = f[:, ::STRIDE]
        entries = torch.cat([own[:, None], others], 1)[..., ::STRIDE]  # (P, 1 + J, C, d/4)
        heads = (self.spec.heads, -1)
        self.rows = who.pictures
        query = self.gate["query"](short).view(len(f), *heads)
        self.rows = who.each
        shape = entries.shape[1:3]
        key, value = (
            self.gate[n](entries.flatten(1, 2)).unflatten(1, shape).unflatten(-1, heads)
            for n in ("key", "value")
        )
        seen = torch.cat([torch.ones_like(known[:, :1]), known], 1)
        mixed = []
        for p, part in enumerate(who.parts):
            scores = self.spec.gate_scale * torch.einsum("bhe,jche->bchj", query[part], key[p])
            weights = scores.masked_fill(~seen[p], float("-inf")).softmax(-1)
            mixed.append(torch.einsum("bchj,jche->bche", weights, value[p]).flatten(2))
        self.rows = who.pictures
        h = self.gate["out"](torch.cat(mixed))
        return torch.einsum("be,bce->bc", short, h)
