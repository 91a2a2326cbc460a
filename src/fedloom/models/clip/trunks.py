"""The picture and text models of a VisionTextDualEncoderModel, cut into what enters their blocks, the blocks, and the pooling.

A family that is not listed here runs as a whole: it has no blocks that an adapter could enter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trunk:
    """One model. `first_norm` names a block's LayerNorm before its attention; None where blocks normalise their output."""

    enter: Callable[[Tensor], Tensor]
    """Pixels (B, 3, S, S) or token embeddings (R, L, d) to the first block's input."""
    blocks: Sequence[Any]
    pool: Callable[[Tensor, Tensor | None], Tensor]
    """The last block's output (R, L, d), and a text's mask (R, L), to the pooled state (R, d), read at the first position."""
    first_norm: str | None = None


def vision_trunk(model: Any) -> Trunk:
    """Of a picture model."""
    kind = model.config.model_type
    if kind == "clip_vision_model":

        def prepared(pixels: Tensor) -> Tensor:
            hidden: Tensor = model.pre_layrnorm(model.embeddings(pixels))
            return hidden

        layers = model.encoder.layers
        return Trunk(prepared, layers, lambda hidden, mask: model.post_layernorm(hidden[:, 0]), "layer_norm1")
    if kind == "dinov2":
        layers = model.encoder.layer
        return Trunk(model.embeddings, layers, lambda hidden, mask: model.layernorm(hidden[:, 0]), "norm1")
    if kind == "vit" and model.pooler is not None:

        def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
            state: Tensor = model.pooler(model.layernorm(hidden[:, :1]))
            return state

        return Trunk(model.embeddings, model.layers, pooled, "layernorm_before")
    return Trunk(_same, (), lambda pixels, mask: model(pixel_values=pixels).pooler_output)


def text_trunk(model: Any) -> Trunk:
    """Of a text model that takes `inputs_embeds`."""
    if model.config.model_type in ("bert", "roberta", "xlm-roberta", "camembert") and not (
        model.config.is_decoder or model.pooler is None
    ):

        def positioned(embeds: Tensor) -> Tensor:
            hidden: Tensor = model.embeddings(inputs_embeds=embeds)
            return hidden

        return Trunk(positioned, model.encoder.layer, lambda hidden, mask: model.pooler(hidden))

    def whole(embeds: Tensor, mask: Tensor | None) -> Tensor:
        state: Tensor = model(inputs_embeds=embeds, attention_mask=mask).pooler_output
        return state

    return Trunk(_same, (), whole)


def padding_mask(end: Tensor, length: int) -> Tensor:
    """int64 (R, L): 1 up to and with each text's `end` (R,), 0 behind it."""
    return (torch.arange(length, device=end.device) <= end[:, None]).long()


def _same(x: Tensor) -> Tensor:
    return x
