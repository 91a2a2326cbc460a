"""The multimodal adapter in the last blocks of both towers (Yang et al., MMA, CVPR 2024; pFedMMA, ICLR 2026).

    out = block(x) + alpha U_o d(S d(D_o LN1(x)))        o in {text, vision}, d = ReLU

D_o (r, d_o) and U_o (d_o, r) are a tower's own; S (r, r) is one object for each block index, used by both towers. The branch is
parallel to the whole block and works on every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from fedloom.core.errors import ExperimentError
from fedloom.models.clip.adapter import CLIPAdapter, Names, Part, Who, products

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Tower, Towers

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"relu": relu, "gelu": gelu}


class MultimodalAdapter(CLIPAdapter):
    """Tensors `adapter/text.<n>.down.weight`, `.up.weight`, `adapter/vision.<n>...`, `adapter/shared.<n>.weight`.

    n counts blocks from the top: 1 is the last block of each tower.
    """

    blocks: int = Field(3, ge=1, description="number of adapted blocks, the last ones of both towers")
    rank: int = Field(32, ge=1, description="r, the inner width")
    bias: bool = Field(False, description="whether D, S and U have biases")
    activation: Literal["relu", "gelu"] = Field("relu", description="activation function after D and after S")
    inner_activation: bool = Field(
        True, description="the activation after D; without it only that after S is left"
    )
    branch_input: Literal["ln1", "x"] = Field(
        "ln1", description="input of D: the block's input after its first LayerNorm, or without it"
    )
    scale: float = Field(1e-3, ge=0, description="alpha, the weight of the branch")
    grad_rescale: bool = Field(
        True, description="let adapters see 1/alpha times their gradient; others see theirs"
    )
    init_up: Literal["kaiming", "zero"] = Field("kaiming", description="start values of U")

    def part(self, towers: Towers) -> Part:
        """The module. Raises ExperimentError for more blocks than the towers have."""
        if not towers.in_blocks:
            raise ExperimentError(
                "the method adapts blocks inside both towers, and a model of this model.clip runs as a whole; take a method with "
                "a learned prompt, such as promptfl, or a pair of a ViT, DINOv2 or CLIP vision model and a BERT or RoBERTa"
            )
        most = min(towers.text_depth, towers.vision_depth)
        if self.blocks > most:
            raise ExperimentError(
                f"method.blocks is {self.blocks}, but the shorter tower of model.clip has {most} blocks; at most {most} is right"
            )
        return MultimodalPart(self, towers)


class MultimodalPart(Part):
    """D, S, U of every adapted block."""

    def __init__(self, spec: MultimodalAdapter, towers: Towers) -> None:
        super().__init__(spec, towers)
        self.spec = spec
        r, bias = spec.rank, spec.bias
        widths = {"text": towers.text_width, "vision": towers.vision_width}
        numbers = [str(n) for n in range(1, spec.blocks + 1)]

        def own(d: int) -> nn.ModuleDict:
            return nn.ModuleDict({"down": nn.Linear(d, r, bias=bias), "up": nn.Linear(r, d, bias=bias)})

        parts = {o: nn.ModuleDict({n: own(d) for n in numbers}) for o, d in widths.items()}
        shared = nn.ModuleDict({n: nn.Linear(r, r, bias=bias) for n in numbers})
        self.adapter = nn.ModuleDict({**parts, "shared": shared})
        self._depth = {"text": towers.text_depth, "vision": towers.vision_depth}

    def fresh(self, name: str, like: Tensor, stream: torch.Generator) -> Tensor:
        """Kaiming by fan-out: N(0, 2 / d_out), biases 0; U = 0 with init_up zero."""
        if name.endswith("bias") or (".up." in name and self.spec.init_up == "zero"):
            return torch.zeros(like.shape)
        std: float = (2 / like.shape[0]) ** 0.5
        return std * torch.randn(like.shape, generator=stream)

    def branch(self, tower: Tower, number: int, block: Any, x: Tensor) -> Tensor:
        """alpha U d(S d(D LN1(x))) of the block with this number."""
        spec, place = self.spec, str(self._depth[tower] - number)
        modules: Any = self.adapter
        own, shared = modules[tower][place], modules["shared"][place]
        act = _ACTIVATIONS[spec.activation]
        rescale = spec.grad_rescale and spec.scale > 0
        h = backward_times(x, spec.scale) if rescale else x
        h = own["down"](self.towers.first_norm(tower, block, h) if spec.branch_input == "ln1" else h)
        h = own["up"](act(shared(act(h) if spec.inner_activation else h)))
        out: Tensor = spec.scale * (backward_times(h, 1 / spec.scale) if rescale else h)
        return out

    def features(self, pixels: Tensor) -> Tensor:
        """(B, 2, L, d_vision) of the first adapted block, whose frozen part is the same for everybody: see `_entered`."""
        first = self._first("vision")
        return self._entered("vision", self.towers.run("vision", self.towers.vision_in(pixels), stop=first))

    @property
    def prefix_settings(self) -> object:
        """The number of adapted blocks."""
        return type(self).__module__, type(self).__qualname__, self.spec.blocks

    def logits(self, features: Tensor, names: Names, who: Who) -> Tensor:
        """(B, C)."""
        text = self.text(names, who)
        self.rows = who.pictures
        return self.towers.scale * products(self._rest("vision", features), text, who)

    def read(self, names: Names, who: Who) -> Tensor:
        """(P, C, d); the frozen blocks, that of the first adapted one too, encode each class list once."""
        towers = self.towers

        def below() -> tuple[Tensor, Tensor]:
            tokens = self.template_tokens(names)
            below = towers.run(
                "text", towers.text_in(towers.embed(tokens.ids)), stop=self._first("text"), end=tokens.end
            )
            return self._entered("text", below, tokens.end), tokens.end

        entered, end = self.fixed(("below", names), below)
        self.rows = who.texts(len(names))
        entered, end = entered.repeat(who.clients, 1, 1, 1), end.repeat(who.clients)
        return self._rest("text", entered, end).view(who.clients, len(names), -1)

    def _first(self, tower: Tower) -> int:
        """Number of the first adapted block."""
        return self._depth[tower] - self.spec.blocks

    def _entered(self, tower: Tower, x: Tensor, end: Tensor | None = None) -> Tensor:
        """The input x (R, L, d) of the first adapted block and its frozen output: (R, 2, L, d), L = 1 if only that is read."""
        first = self._first(tower)
        out = self.towers.run(tower, x, first, first + 1, end=end)
        if self.spec.blocks == 1 and self.towers.one_place:
            x, out = self.towers.read_place(x, end), self.towers.read_place(out, end)
        return torch.stack((x, out), 1)

    def _rest(self, tower: Tower, entered: Tensor, end: Tensor | None = None) -> Tensor:
        """What `_entered` gave (R, 2, L, d), through all branches and the blocks above, to unit features (R, d)."""
        towers, first = self.towers, self._first(tower)
        x, hidden = entered.unbind(1)
        hidden = hidden + self.branch(tower, first, towers.block(tower, first), x)
        if self.spec.blocks == 1:
            return towers.out(tower, hidden, end)
        hidden = towers.run(tower, hidden, first + 1, self._depth[tower] - 1, self.branch, end)
        return towers.top(tower, hidden, self.branch, end)


class _BackwardTimes(torch.autograd.Function):
    """The identity, whose backward signal is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.factor, None


def backward_times(x: Tensor, factor: float) -> Tensor:
    """The identity on x; its gradient is `factor` times the incoming one."""
    same: Tensor = _BackwardTimes.apply(x, factor)  # type: ignore[no-untyped-call]
    return same
