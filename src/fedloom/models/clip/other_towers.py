"""The towers of SigLIP, and of transformers' VisionTextDualEncoderModel, behind the interface of `Towers`."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.models.clip.towers import Branch, Tokens, Tower, Towers


class SiglipTowers(Towers):
    """SigLIP (Zhai et al., 2023): texts of one length without a start, read at their last place; pictures pooled by attention.

    Its bias adds the same number to all logits of a picture, which a softmax over classes does not see.
    """

    lead = 0
    has_patches = False

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

    def _mask(self, tower: Tower, hidden: Tensor) -> Tensor | None:
        return None


class DualEncoderTowers(Towers):
    """Any picture model and any text model of transformers with a projection each, called as a whole."""

    in_blocks = False
    has_patches = False

    def _read_sizes(self) -> None:
        text = self.clip.text_model
        if "inputs_embeds" not in inspect.signature(text.forward).parameters:
            raise ExperimentError(
                f"model.clip: its text model is a {type(text).__name__}, which takes no inputs_embeds; name another model"
            )
        self.width = self.clip.config.projection_dim
        vision = self.clip.vision_model.config
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

    def _ends(self) -> tuple[int, int]:
        tokenizer = self.tokenizer
        if tokenizer.cls_token_id is not None and tokenizer.sep_token_id is not None:
            return tokenizer.cls_token_id, tokenizer.sep_token_id
        return super()._ends()

    def _blocks(self, tower: Tower) -> Any:
        return ()

    def embed(self, ids: Tensor) -> Tensor:
        """(C, L) to token embeddings (C, L, d_text), without positions."""
        embeds: Tensor = self.clip.text_model.get_input_embeddings()(ids)
        return embeds

    def text_in(self, embeds: Tensor) -> Tensor:
        """The embeddings themselves: the text model adds positions."""
        return embeds

    def text_out(self, hidden: Tensor, end: Tensor) -> Tensor:
        """Embeddings (R, L, d_text) of texts that end at `end` (R,) to unit text features (R, d)."""
        mask = (torch.arange(hidden.shape[1], device=hidden.device) <= end[:, None]).long()
        pooled = self.clip.text_model(inputs_embeds=hidden, attention_mask=mask).pooler_output
        return normalize(self.clip.text_projection(pooled), dim=-1)

    def vision_in(self, pixels: Tensor) -> Tensor:
        """The pixels themselves."""
        return pixels.to(self.like)

    def vision_out(self, hidden: Tensor, *, patches: bool = False) -> Tensor:
        """Pixels (B, 3, S, S) to unit image features (B, d)."""
        pooled = self.clip.vision_model(pixel_values=hidden).pooler_output
        return normalize(self.clip.visual_projection(pooled), dim=-1)

    def run(
        self,
        tower: Tower,
        hidden: Tensor,
        first: int = 0,
        stop: int | None = None,
        branch: Branch | None = None,
    ) -> Tensor:
        """The input itself: the models run as a whole in `text_out` and `vision_out`."""
        return hidden


TOWERS: dict[str, type[Towers]] = {
    "clip": Towers,
    "siglip": SiglipTowers,
    "vision-text-dual-encoder": DualEncoderTowers,
}
"""Towers by transformers' model type."""
