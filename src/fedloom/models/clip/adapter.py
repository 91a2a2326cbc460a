"""CLIP adapters: a description with typed fields (`CLIPAdapter`), and its module on the two towers (`Part`).

Everything has a client axis: a batch holds the examples of P clients, client by client, and text features are per client; P is 1
outside cohorts. Frozen texts are encoded once per class list. Text features of trained parts are cached only while gradients are
off and no parameter changes: never across clients, rounds or class lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fedloom.core.activity import tell
from fedloom.core.streams import torch_stream
from fedloom.models.batch_rows import RowMap

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Tokens, Towers

Names = tuple[str, ...]
"""Class names in the order of their labels."""


@dataclass(frozen=True)
class Who:
    """Clients of a batch's examples: `of[i]` in 0..P-1 is that of example i, among those present; not decreasing."""

    of: tuple[int, ...]
    stacked: bool = False
    """Whether the clients' tensors are in a stack, whose text features nobody keeps."""

    @classmethod
    def owned(cls, owners: Sequence[int], *, stacked: bool = False) -> Who:
        """From client numbers, not decreasing; some may be absent."""
        present = {k: p for p, k in enumerate(sorted(set(owners)))}
        return cls(tuple(present[k] for k in owners), stacked)

    @property
    def clients(self) -> int:
        """P."""
        return self.of[-1] + 1

    @cached_property
    def parts(self) -> list[slice]:
        """Slice of each client's examples."""
        first = [self.of.index(p) for p in range(self.clients)]
        return [slice(a, b) for a, b in zip(first, [*first[1:], len(self.of)], strict=True)]

    @cached_property
    def pictures(self) -> RowMap:
        """A row for each example."""
        return RowMap(range(len(self.of)))

    @cached_property
    def each(self) -> RowMap:
        """A row for each client."""
        return RowMap([part.start for part in self.parts])

    def texts(self, classes: int) -> RowMap:
        """A row for each client and class."""
        return RowMap([part.start for part in self.parts for _ in range(classes)])


class Single(nn.Module):
    """A trained tensor outside any layer; its forward adds a client axis: (1, ...) alone, (P, ...) in a cohort."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(shape))

    def forward(self) -> Tensor:
        """(1, ...)."""
        return self.value[None]


class CLIPAdapter(BaseModel, ABC):
    """Base of the descriptions; a method's property `clip_adapter` makes one from its fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field("a photo of a {}.", description="the fixed text of a class")

    @abstractmethod
    def part(self, towers: Towers) -> Part:
        """The module, before `draw`. Raises ExperimentError where it does not fit the towers."""


class Part(nn.Module):
    """Module of a CLIPAdapter. Submodules are groups: the tensor `prompt/context` is `self.prompt["context"]`.

    `rows` maps rows of the current trained layer's input to examples.
    """

    def __init__(self, spec: CLIPAdapter, towers: Towers) -> None:
        super().__init__()
        self.described, self.template, self.towers = spec, spec.template, towers
        self.rows = RowMap([])
        self._fixed: dict[Any, Any] = {}
        self._texts: dict[Names, tuple[Any, Tensor]] = {}

    def named(self) -> dict[str, nn.Parameter]:
        """Travelling names `<group>/<place>`; a tensor that two places use has one."""
        return {n.replace(".", "/", 1).removesuffix(".value"): p for n, p in self.named_parameters()}

    @torch.no_grad()
    def draw(self, seed: int) -> None:
        """Start values, each tensor from a stream of its own."""
        for name, parameter in self.named().items():
            parameter.copy_(self.fresh(name, parameter, torch_stream(seed, "clip", name)))

    def fresh(self, name: str, like: Tensor, stream: torch.Generator) -> Tensor:
        """A tensor's start value: N(0, 0.02^2), as learned contexts begin."""
        return 0.02 * torch.randn(like.shape, generator=stream)

    def features(self, pixels: Tensor) -> Tensor:
        """Output of the frozen part for pictures (B, 3, S, S): here the unit image features (B, d)."""
        return self.towers.vision_out(self.towers.run("vision", self.towers.vision_in(pixels)))

    @property
    def prefix_settings(self) -> object:
        """All settings of which `features` depends: none of the unit image features, else the whole description."""
        kind = type(self)
        if kind.features is Part.features:
            return "class token"
        return kind.__module__, kind.__qualname__, repr(self.described)

    def logits(self, features: Tensor, names: Names, who: Who) -> Tensor:
        """(B, C): s <f_b, g_c> with the text features of the example's own client."""
        return self.towers.scale * products(features, self.text(names, who), who)

    def learn(self, features: Tensor, names: Names, who: Who) -> tuple[Tensor, Tensor | None]:
        """Logits (B, C), and a term (P,) for each client's loss, or None."""
        return self.logits(features, names, who), None

    def text(self, names: Names, who: Who) -> Tensor:
        """Unit text features (P, C, d) of every client; cached while no parameter changes and gradients are off."""
        if torch.is_grad_enabled() or who.stacked:  # a stack leaves the parameters as they are
            return self.read(names, who)
        state = tuple((id(p), p._version, p.dtype) for p in self.parameters())
        if names not in self._texts or self._texts[names][0] != state:
            tell(f"reading {len(names)} class texts")
            self._texts[names] = state, self.read(names, who)
        return self._texts[names][1]

    def read(self, names: Names, who: Who) -> Tensor:
        """Text features (P, C, d), computed anew."""
        raise NotImplementedError

    def fixed(self, key: Any, make: Callable[[], Any]) -> Any:
        """Cached result of `make`, which depends on frozen weights and `key` only; computed without gradients."""
        full = key, self.towers.like.dtype, self.towers.like.device
        if full not in self._fixed:
            with torch.no_grad():
                self._fixed[full] = make()
        return self._fixed[full]

    def fixed_text(self, names: Names) -> Tensor:
        """(C, d): unit features of the fixed template, by the frozen text tower."""

        def make() -> Tensor:
            tokens = self.template_tokens(names)
            return self.towers.text_features(self.towers.embed(tokens.ids), tokens.end)

        return self.fixed(("template", names), make)  # type: ignore[no-any-return]

    def texts(self, names: Names) -> Tokens:
        """Tokens of every class. Raises ExperimentError for a name that is too long."""
        return self.template_tokens(names)

    def template_tokens(self, names: Names) -> Tokens:
        """Tokens of the fixed template with every name."""
        return self.towers.tokens([self.template.format(spaced(name)) for name in names])


def spaced(name: str) -> str:
    """A class name with spaces for underscores."""
    return name.replace("_", " ")


def products(f: Tensor, g: Tensor, who: Who) -> Tensor:
    """(B, C): <f_b, g_c> of image features (B, d) with the text features (P, C, d) of the example's client."""
    return torch.cat(
        [f[part] @ own.T for part, own in zip(who.parts, g.expand(who.clients, -1, -1), strict=True)]
    )
