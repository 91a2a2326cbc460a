"""The two towers of a CLIP model, split into blocks that an adapter can enter; the model itself stays unchanged.

Only public submodules of transformers' CLIPModel are called. A text is as long as the longest of its batch: the mask is causal
and the feature stands at the end-of-text token, so that later padding changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.models.plain_tokenizer import PlainTokenizer

Tower = Literal["text", "vision"]
Branch = Callable[[Tower, int, Any, Tensor], Tensor]
"""(tower, block number, block, the block's input (R, L, d)) to a term added to the block's output."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised texts: `ids` int64 (C, L), padded on the right; `end` int64 (C,), where each text's end-of-text token stands."""

    ids: Tensor
    end: Tensor


class Towers:
    """`clip` is a CLIPModel, frozen and put into eval mode here; `tokenizer` its own."""

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        clip.requires_grad_(False)
        clip.eval()
        self.clip, self.tokenizer = clip, tokenizer
        self._plain = PlainTokenizer(tokenizer)
        self.text_width: int = clip.config.text_config.hidden_size
        self.vision_width: int = clip.config.vision_config.hidden_size
        self.width: int = clip.config.projection_dim
        self.text_depth, self.vision_depth = len(self._blocks("text")), len(self._blocks("vision"))
        self.longest: int = clip.config.text_config.max_position_embeddings
        vision = clip.config.vision_config
        self.patches: int = (vision.image_size // vision.patch_size) ** 2

    def _blocks(self, tower: Tower) -> Any:
        return getattr(self.clip, f"{tower}_model").encoder.layers

    @property
    def like(self) -> Tensor:
        """A weight, for its dtype and device."""
        weight: Tensor = self.clip.visual_projection.weight
        return weight

    @property
    def scale(self) -> Tensor:
        """s = exp(logit_scale), frozen; a number of 100 in released weights."""
        s: Tensor = self.clip.logit_scale.detach().exp()
        return s

    # Texts.

    def tokens(self, texts: Sequence[str], gap: int = 0) -> Tokens:
        """Texts between start and end of text, with `gap` places after the start where a learned context goes.

        Raises ExperimentError for a text that is too long for the text tower.
        """
        tokenizer = self.tokenizer
        start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        rows = []
        for text in texts:
            words = self._plain(text, add_special_tokens=False, verbose=False)["input_ids"]
            rows.append([start, *[end] * gap, *words, end])
            if len(rows[-1]) > self.longest:
                room = self.longest - 2 - gap
                raise ExperimentError(
                    f"the class text {text!r} has {len(words)} tokens, and model.clip reads at most {room} "
                    "beside the context; shorten the name"
                )
        length = max(len(row) for row in rows)
        ids = [row + [end] * (length - len(row)) for row in rows]
        where = self.like.device
        return Tokens(torch.tensor(ids, device=where), torch.tensor([len(r) - 1 for r in rows], device=where))

    def embed(self, ids: Tensor) -> Tensor:
        """(C, L) to token embeddings (C, L, d_text), without positions."""
        embeds: Tensor = self.clip.text_model.embeddings.token_embedding(ids)
        return embeds

    def text_in(self, embeds: Tensor) -> Tensor:
        """Token embeddings (R, L, d_text) with their positions: the first block's input."""
        hidden: Tensor = self.clip.text_model.embeddings(inputs_embeds=embeds)
        return hidden

    def text_out(self, hidden: Tensor, end: Tensor) -> Tensor:
        """The last block's output (R, L, d_text) to unit text features (R, d), read at `end` (R,)."""
        state = hidden[torch.arange(len(hidden), device=hidden.device), end]  # LayerNorm goes by position
        out = self.clip.text_projection(self.clip.text_model.final_layer_norm(state))
        return normalize(out, dim=-1)

    # Pictures.

    def vision_in(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to the first block's input (B, 1 + M, d_vision)."""
        model = self.clip.vision_model
        hidden: Tensor = model.pre_layrnorm(model.embeddings(pixels.to(self.like)))
        return hidden

    def vision_out(self, hidden: Tensor, *, patches: bool = False) -> Tensor:
        """The last block's output to unit image features (B, d), or with `patches` those of all M patches (B, M, d)."""
        state = hidden[:, 1:] if patches else hidden[:, 0]
        out = self.clip.visual_projection(self.clip.vision_model.post_layernorm(state))
        return normalize(out, dim=-1)

    # Both.

    def run(
        self,
        tower: Tower,
        hidden: Tensor,
        first: int = 0,
        stop: int | None = None,
        branch: Branch | None = None,
    ) -> Tensor:
        """Blocks first..stop-1 of a tower on (R, L, d); `branch` adds to each block's output."""
        mask = None
        if tower == "text":
            length = hidden.shape[1]
            mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device)
            mask = mask.triu(1)[None, None]
        for number, block in list(enumerate(self._blocks(tower)))[first:stop]:
            out = block(hidden, mask)
            out = out[0] if isinstance(out, tuple) else out
            hidden = out if branch is None else out + branch(tower, number, block, hidden)
        return hidden
