"""CoCoOp's context (Zhou et al., CVPR 2022): a small net shifts the learned context by the image features."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.utils.checkpoint import checkpoint

from fedloom.models.clip.adapter import Names, Part, Who
from fedloom.models.clip.prompt import Context, ContextPart

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers


class ConditionalContext(Context):
    """Tensors `prompt/context` (m, d_text), `meta/first.*` (d/16, d) and `meta/second.*` (d_text, d/16)."""

    chunk: int = Field(
        1024, ge=1, description="text sequences that pass the tower together; changes no figure"
    )

    def part(self, towers: Towers) -> Part:
        """The module."""
        return ConditionalPart(self, towers)


class ConditionalPart(ContextPart):
    """V_m(x) = V_m + pi(f(x)), pi(f) = W2 ReLU(W1 f + b1) + b2; every picture has text features of its own."""

    def __init__(self, spec: ConditionalContext, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.chunk = spec.chunk
        inner = max(1, towers.width // 16)
        self.meta = nn.ModuleDict(
            {"first": nn.Linear(towers.width, inner), "second": nn.Linear(inner, towers.text_width)}
        )

    def fresh(self, name: str, like: Tensor, stream: torch.Generator) -> Tensor:
        """The net's weights and biases as nn.Linear draws them: U(-1/sqrt(d_in), 1/sqrt(d_in))."""
        if not name.startswith("meta/"):
            return super().fresh(name, like, stream)
        layer = self.meta[name.removeprefix("meta/").split(".")[0]]
        assert isinstance(layer, nn.Linear)  # noqa: S101 - for the type checker
        bound = layer.in_features**-0.5
        value: Tensor = torch.rand(like.shape, generator=stream) * 2 * bound - bound
        return value

    def logits(self, features: Tensor, names: Names, who: Who) -> Tensor:
        """(B, C) from B C texts, `chunk` at a time; where there are more, training recomputes them in the backward pass."""
        self.rows = who.pictures
        shift = self.meta["second"](relu(self.meta["first"](features)))
        contexts = self.context(who)[list(who.of)] + shift[:, None]
        classes = min(self.chunk, len(names))
        pictures = max(1, self.chunk // classes)
        recompute = torch.is_grad_enabled() and (len(contexts) > pictures or len(names) > classes)
        rows = []
        for b in range(0, len(contexts), pictures):
            f, own = features[b : b + pictures], contexts[b : b + pictures]
            columns = []
            for c in range(0, len(names), classes):
                some = partial(self._products, names, slice(c, c + classes))
                columns.append(checkpoint(some, f, own, use_reentrant=False) if recompute else some(f, own))
            rows.append(torch.cat(columns, 1))
        return self.towers.scale * torch.cat(rows)

    def _products(self, names: Names, some: slice, f: Tensor, contexts: Tensor) -> Tensor:
        return torch.einsum("bd,bcd->bc", f, self.after(contexts, names, some))
