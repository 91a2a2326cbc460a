"""Learned contexts: m trained vectors after the start of text and before every class name (Zhou et al., CoOp, 2022).

Alone this is PromptFL's prompt; FedPGP adds a personal low-rank part to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import softplus

from fedloom.models.clip.adapter import CLIPAdapter, Names, Part, Single, Who, products, spaced
from fedloom.models.clip.causal_texts import features_after

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Tokens, Towers


class Context(CLIPAdapter):
    """Tensor `prompt/context` (m, d_text), N(0, 0.02^2)."""

    length: int = Field(16, ge=1, description="m, vectors of the learned context")

    def part(self, towers: Towers) -> Part:
        """The module."""
        return ContextPart(self, towers)


class ContextPart(Part):
    """logit_c = s <f(x), g(V, c)>."""

    def __init__(self, spec: Context, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.length = spec.length
        self.prompt = nn.ModuleDict({"context": Single(spec.length, towers.text_width)})

    def context(self, who: Who) -> Tensor:
        """(P, m, d_text): the context for prediction."""
        context: Tensor = self.prompt["context"]()
        return context.expand(who.clients, -1, -1)

    def texts(self, names: Names) -> Tokens:
        """Tokens of every name, with room for the context before it."""
        return self.towers.tokens([f"{spaced(name)}." for name in names], gap=self.length)

    def read(self, names: Names, who: Who) -> Tensor:
        """(P, C, d)."""
        return self.after(self.context(who), names)

    def after(self, contexts: Tensor, names: Names, some: slice = slice(None)) -> Tensor:
        """Unit features (N, C, d) of "<context> <name>." for contexts (N, m, d_text), of all names or `some`."""

        def make() -> tuple[Tokens, Tensor]:
            tokens = self.texts(names)
            return tokens, self.towers.embed(tokens.ids)

        tokens, embeds = self.fixed(("names", names, self.length), make)
        return features_after(self.towers, contexts, embeds[some], tokens.end[some])


class LowRankContext(Context):
    """FedPGP (Cui et al., ICML 2024): P = P_G + U V; tensors `prompt/context`, `lowrank/u` (m, b), `lowrank/v` (b, d_text)."""

    rank: int = Field(8, ge=1, description="b, rank of the personal part")
    con_weight: float = Field(0.5, ge=0, description="mu, weight of the contrastive loss")
    con_tau: float = Field(0.5, gt=0, description="tau, its temperature")
    z0: Literal["template", "placeholder"] = Field(
        "template",
        description="the fixed text: the template, or as the released code has it, X X ... X and the name",
    )

    def part(self, towers: Towers) -> Part:
        """The module."""
        return LowRankPart(self, towers)


class LowRankPart(ContextPart):
    """Cross entropy with P_i, plus mu L_con, which pulls P_G to the fixed text and pushes P_i from P_G."""

    def __init__(self, spec: LowRankContext, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.spec = spec
        pair = {"u": Single(spec.length, spec.rank), "v": Single(spec.rank, towers.text_width)}
        self.lowrank = nn.ModuleDict(pair)

    def context(self, who: Who) -> Tensor:
        """P_G + U V."""
        return super().context(who) + self.lowrank["u"]() @ self.lowrank["v"]()  # type: ignore[no-any-return]

    def learn(self, features: Tensor, names: Names, who: Who) -> tuple[Tensor, Tensor | None]:
        """Logits, and mu L_con of every client (P,)."""
        both = self.after(torch.cat([self.context(who), super().context(who)]), names)
        own, common = both[: who.clients], both[who.clients :]
        loss = self.spec.con_weight * contrast(self.start_text(names), common, own, self.spec.con_tau)
        return self.towers.scale * products(features, own, who), loss

    def start_text(self, names: Names) -> Tensor:
        """z0 (C, d): the fixed, hand-written prompt's features."""
        if self.spec.z0 == "template":
            return self.fixed_text(names)
        frame = " ".join(["X"] * self.length)

        def make() -> Tensor:
            tokens = self.towers.tokens([f"{frame} {spaced(name)}." for name in names])
            return self.towers.text_features(self.towers.embed(tokens.ids), tokens.end)

        return self.fixed(("placeholder", names), make)  # type: ignore[no-any-return]


def contrast(z0: Tensor, common: Tensor, own: Tensor, tau: float) -> Tensor:
    """L_con (P,): the mean over classes of -log(e^(a/tau) / (e^(a/tau) + e^(b/tau))), a = <z0, z_G>, b = <z_G, z>.

    z0 (C, d), common and own (P, C, d), all unit vectors.
    """
    a, b = (z0 * common).sum(-1), (common * own).sum(-1)
    return softplus((b - a) / tau).mean(-1)
