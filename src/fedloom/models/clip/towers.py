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
from fedloom.models.clip.block import keys_values, output
from fedloom.models.plain_tokenizer import PlainTokenizer

Tower = Literal["text", "vision"]
Branch = Callable[[Tower, int, Any, Tensor], Tensor]
"""(tower, block number, block, the block's input (R, L, d)) to a term added to the block's output, each position by itself."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised texts: `ids` int64 (C, L), padded on the right; `end` int64 (C,), where each text's end-of-text token stands."""

    ids: Tensor
    end: Tensor


class Towers:
    """`clip` is a CLIPModel, frozen and put into eval mode here; `tokenizer` its own."""

    lead: int = 1
    """Tokens of a text that stand before a learned context."""
    in_blocks: bool = True
    """Whether the towers run block by block, which adapters inside them need."""
    has_patches: bool = True
    """Whether single patches have features that texts compare with."""
    one_place: bool = True
    """Whether a feature is read at one position, so that the last block is needed there alone."""
    causal: bool = True
    """Whether a text's position sees only itself and what stands before it."""
    width: int
    """d, of the features."""
    patches: int
    """M, patches of a picture."""

    def __init__(self, clip: Any, tokenizer: Any) -> None:
        """Raises ExperimentError for a text model that cannot take a learned context."""
        clip.requires_grad_(False)
        clip.eval()
        self.clip, self.tokenizer = clip, tokenizer
        self._plain = PlainTokenizer(tokenizer)
        self.text_width: int = clip.config.text_config.hidden_size
        self.vision_width: int = clip.config.vision_config.hidden_size
        self.text_depth, self.vision_depth = len(self._blocks("text")), len(self._blocks("vision"))
        self.longest: int = clip.config.text_config.max_position_embeddings
        self._read_sizes()

    def _read_sizes(self) -> None:
        self.width = self.clip.config.projection_dim
        vision = self.clip.config.vision_config
        self.patches = (vision.image_size // vision.patch_size) ** 2

    def _blocks(self, tower: Tower) -> Any:
        return getattr(self.clip, f"{tower}_model").encoder.layers

    @property
    def vision_modules(self) -> list[Any]:
        """The modules of a picture's feature."""
        projection = getattr(self.clip, "visual_projection", None)
        return [self.clip.vision_model, *([] if projection is None else [projection])]

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
        start, end = self._ends()
        rows = []
        for text in texts:
            words = self._plain(text, add_special_tokens=False, verbose=False)["input_ids"]
            rows.append([*[start] * self.lead, *[end] * gap, *words, end])
            if len(rows[-1]) > self.longest:
                room = self.longest - 1 - self.lead - gap
                raise ExperimentError(
                    f"the class text {text!r} has {len(words)} tokens, and model.clip reads at most {room} "
                    "beside the context; shorten the name"
                )
        length = max(len(row) for row in rows)
        ids = [row + [end] * (length - len(row)) for row in rows]
        where = self.like.device
        return Tokens(torch.tensor(ids, device=where), torch.tensor([len(r) - 1 for r in rows], device=where))

    def _ends(self) -> tuple[int, int]:
        """Tokens before and after a text."""
        return self.tokenizer.bos_token_id, self.tokenizer.eos_token_id

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

    def text_features(self, embeds: Tensor, end: Tensor) -> Tensor:
        """Token embeddings (R, L, d_text) of texts that end at `end` (R,) to unit text features (R, d)."""
        return self.text_out(self.run("text", self.text_in(embeds), end=end), end)

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
        end: Tensor | None = None,
    ) -> Tensor:
        """Blocks first..stop-1 of a tower on (R, L, d); `branch` adds to each block's output; texts end at `end` (R,)."""
        mask = self._mask(tower, hidden, end)
        for number, block in list(enumerate(self._blocks(tower)))[first:stop]:
            out = block(hidden, mask)
            out = out[0] if isinstance(out, tuple) else out
            hidden = out if branch is None else out + branch(tower, number, block, hidden)
        return hidden

    def block(self, tower: Tower, number: int) -> Any:
        """A block by its number from 0."""
        return self._blocks(tower)[number]

    def out(self, tower: Tower, hidden: Tensor, end: Tensor | None = None) -> Tensor:
        """The last block's output, of all positions or of the one that is read, to unit features (R, d)."""
        if end is None:
            return self.vision_out(hidden)
        return self.text_out(hidden, end if hidden.shape[1] > 1 else torch.zeros_like(end))

    def top(self, tower: Tower, hidden: Tensor, branch: Branch, end: Tensor | None = None) -> Tensor:
        """The last block with its branch on (R, L, d), to unit features (R, d); texts end at `end` (R,)."""
        number = len(self._blocks(tower)) - 1
        if not self.one_place:
            return self.out(tower, self.run(tower, hidden, number, branch=branch, end=end), end)
        block, x = self.block(tower, number), self.read_place(hidden, end)
        return self.out(tower, self._read_block(block, hidden, x, end) + branch(tower, number, block, x), end)

    def read_place(self, hidden: Tensor, end: Tensor | None = None) -> Tensor:
        """(R, L, d) where a feature is read, at the class token or at a text's `end` (R,): (R, 1, d)."""
        if end is None:
            return hidden[:, :1]
        return hidden[torch.arange(len(hidden), device=hidden.device), end][:, None]

    def _read_block(self, block: Any, hidden: Tensor, x: Tensor, end: Tensor | None) -> Tensor:
        """A block's output (R, 1, d) at the position x (R, 1, d) of `hidden`: only keys and values are of all positions."""
        seen = None
        if end is not None:  # a text's end sees what stands before it
            seen = (torch.arange(hidden.shape[1], device=end.device) <= end[:, None])[:, None, None]
        return output(block, x, *keys_values(block, hidden), seen)

    def first_norm(self, tower: Tower, block: Any, x: Tensor) -> Tensor:
        """A block's input after its first LayerNorm."""
        normed: Tensor = block.layer_norm1(x)
        return normed

    def _mask(self, tower: Tower, hidden: Tensor, end: Tensor | None) -> Tensor | None:
        """A text's causal mask (1, 1, L, L); None where every position sees all others."""
        if tower == "vision":
            return None
        length = hidden.shape[1]
        mask = torch.full((length, length), float("-inf"), dtype=hidden.dtype, device=hidden.device)
        return mask.triu(1)[None, None]
