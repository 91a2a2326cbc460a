"""The towers of SigLIP, and of transformers' VisionTextDualEncoderModel, behind the interface of `Towers`."""

import inspect
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.models.clip.towers import Tokens, Tower, Towers
from fedloom.models.clip.trunks import Trunk, padding_mask, text_trunk, vision_trunk


class SiglipTowers(Towers):
    """SigLIP (Zhai et al., 2023): texts of one length without a start, read at their last place; pictures pooled by attention.

    Its bias adds the same number to all logits of a picture, which a softmax over classes does not see.
    """

    lead = 0
    has_patches = False
    one_place = False
    causal = False

    def _read_sizes(self) -> None:
        self.width = self.clip.text_model.head.out_features
        self.patches = self.clip.vision_model.embeddings.num_patches

    @property
    def like(self) -> Tensor:
        """A weight, for its dtype and device."""
        weight: Tensor = self.clip.text_model.head.weight
        return weight

    def tokens(self, texts: Sequence[str], gap: int = 0) -> Tokens:
        """Texts with an end, filled up with padding to the tower's length, as SigLIP was trained."""
        short = super().tokens(texts, gap)
        ids = torch.full((len(short.ids), self.longest), self.tokenizer.pad_token_id, device=short.ids.device)
        for row, text, end in zip(ids, short.ids, short.end.tolist(), strict=True):
            row[: end + 1] = text[: end + 1]
        return Tokens(ids, torch.full_like(short.end, self.longest - 1))

    def text_out(self, hidden: Tensor, end: Tensor) -> Tensor:
        """The last block's output (R, L, d_text) to unit text features (R, d)."""
        model = self.clip.text_model
        return normalize(model.head(model.final_layer_norm(hidden)[:, -1]), dim=-1)

    def vision_in(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to the first block's input (B, M, d_vision)."""
        hidden: Tensor = self.clip.vision_model.embeddings(pixels.to(self.like))
        return hidden

    def vision_out(self, hidden: Tensor, *, patches: bool = False) -> Tensor:
        """The last block's output to unit image features (B, d)."""
        model = self.clip.vision_model
        return normalize(model.head(model.post_layernorm(hidden)), dim=-1)

    def _mask(self, tower: Tower, hidden: Tensor, end: Tensor | None) -> Tensor | None:
        return None


class DualEncoderTowers(Towers):
    """Any picture model and any text model of transformers with a projection each; families with a `Trunk` run block by block."""

    one_place = False
    causal = False

    def _read_sizes(self) -> None:
        text, vision = self.clip.text_model, self.clip.vision_model.config
        self.in_blocks = bool(self._trunks["text"].blocks) and bool(self._trunks["vision"].blocks)
        self.has_patches = bool(self._trunks["vision"].blocks)
        self.width = self.clip.config.projection_dim
        side, patch = getattr(vision, "image_size", 0), getattr(vision, "patch_size", 0)
        self.patches = (
            (side // patch) ** 2 if isinstance(side, int) and isinstance(patch, int) and patch else 0
        )
        if self.tokenizer.model_max_length < self.longest:
            self.longest = self.tokenizer.model_max_length
        elif text.config.model_type in (
            "roberta",
            "xlm-roberta",
            "camembert",
        ):  # positions begin after the padding's
            self.longest -= text.config.pad_token_id + 1

    @cached_property
    def _trunks(self) -> dict[Tower, Trunk]:
        text = self.clip.text_model
        if "inputs_embeds" not in inspect.signature(text.forward).parameters:
            raise ExperimentError(
                f"model.clip: its text model is a {type(text).__name__}, which takes no inputs_embeds; name another model"
            )
        return {"text": text_trunk(text), "vision": vision_trunk(self.clip.vision_model)}

    def _ends(self) -> tuple[int, int]:
        tokenizer = self.tokenizer
        if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
            return tokenizer.cls_token_id, tokenizer.sep_token_id
        return super()._ends()

    def _blocks(self, tower: Tower) -> Any:
        return self._trunks[tower].blocks

    def first_norm(self, tower: Tower, block: Any, x: Tensor) -> Tensor:
        """A block's input after its first LayerNorm; x itself where the block before has normalised it."""
        name = self._trunks[tower].first_norm
        return x if name is None else getattr(block, name)(x)

    def embed(self, ids: Tensor) -> Tensor:
        """(C, L) to token embeddings (C, L, d_text), without positions."""
        embeds: Tensor = self.clip.text_model.get_input_embeddings()(ids)
        return embeds

    def text_in(self, embeds: Tensor) -> Tensor:
        """Token embeddings (R, L, d_text) to the first block's input; unchanged for a model that runs as a whole."""
        return self._trunks["text"].enter(embeds)

    def text_out(self, hidden: Tensor, end: Tensor) -> Tensor:
        """The last block's output (R, L, d_text) of texts that end at `end` (R,) to unit text features (R, d)."""
        pooled = self._trunks["text"].pool(hidden, padding_mask(end, hidden.shape[1]))
        return normalize(self.clip.text_projection(pooled), dim=-1)

    def vision_in(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to the first block's input (B, 1 + M, d_vision); unchanged for a model that runs as a whole."""
        return self._trunks["vision"].enter(pixels.to(self.like))

    def vision_out(self, hidden: Tensor, *, patches: bool = False) -> Tensor:
        """The last block's output to unit image features (B, d); with `patches` each patch is read as the class token is."""
        pool = self._trunks["vision"].pool
        if not patches:
            return normalize(self.clip.visual_projection(pool(hidden, None)), dim=-1)
        alone = hidden[:, 1:].flatten(0, 1)[:, None]
        pooled = pool(alone, None).view(len(hidden), hidden.shape[1] - 1, -1)
        return normalize(self.clip.visual_projection(pooled), dim=-1)

    def _mask(self, tower: Tower, hidden: Tensor, end: Tensor | None) -> Tensor | None:
        """(R, 1, 1, L) of a text, -inf behind its end."""
        if tower == "vision" or end is None:
            return None
        behind = padding_mask(end, hidden.shape[1]) == 0
        mask = torch.zeros(behind.shape, dtype=hidden.dtype, device=hidden.device)
        return mask.masked_fill(behind, float("-inf"))[:, None, None]


TOWERS: dict[str, type[Towers]] = {
    "clip": Towers,
    "siglip": SiglipTowers,
    "vision-text-dual-encoder": DualEncoderTowers,
}
"""Towers by transformers' model type."""
