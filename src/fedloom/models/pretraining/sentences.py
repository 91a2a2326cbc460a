"""Training text of the tiny RoBERTa: the Tabletop world's public scenes as sentences and pairs, with masked words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloom.core.streams import numpy_stream
from fedloom.data.tabletop import Tabletop
from fedloom.data.tabletop.language import caption, caption_right_first, entailment
from fedloom.data.tabletop.scene import COLOURS, SHAPES, SIDES, SIZES, TEXTURES, pairs_of
from fedloom.data.tabletop.tasks import altered

Texts = tuple[str, str | None]
"""A sentence and a second one, or None."""

PAIRS = ("repeated", "changed")
"""A caption, and again with its things in opposite order; unchanged, or with one attribute changed."""

STATEMENTS = ("entailment", "contradiction", "neutral")
"""A caption that leaves things out, and a statement on one thing."""

VERDICTS = {"repeated": 0, "entailment": 0, "changed": 1, "contradiction": 1, "neutral": 2}
"""Relation of the first sentence to the second: entails it (0), denies it (1), leaves it open (2)."""

MASKED = ("caption", "repeated", "entailment")
"""Kinds with masked words: in these pairs, the second sentence follows from the first one."""

KINDS = ("caption", *PAIRS, *STATEMENTS)

TELLING = (*SHAPES, *COLOURS, *TEXTURES, *SIZES, *SIDES)
"""Content words: those that are masked, or replaced by one another."""


def tell(world: Tabletop, split: str, index: int, kind: str) -> Texts:
    """A sentence or a pair of scene `index`."""
    scene, pairs = world.scene(split, index), pairs_of(split)
    rng = numpy_stream(world.seed, "tiny-roberta", split, index, kind)
    if kind == "caption":
        return caption(scene), None
    if kind in ("repeated", "changed"):
        second = scene if kind == "repeated" else altered(scene, rng, pairs)
        return caption(scene), caption_right_first(second)
    return entailment(scene, rng, pairs, kind)[:2]


def encode(tokenizer: Any, texts: Sequence[Texts]) -> Tensor:
    """Token ids (texts, longest), padded."""
    pairs = [text if text[1] is not None else text[0] for text in texts]
    rows: Tensor = tokenizer(pairs, padding=True, return_tensors="pt")["input_ids"]
    return rows


@dataclass(frozen=True)
class Masks:
    """Masks content words: of four, two become a mask, one another content word, and one stays."""

    mask: int
    telling: Tensor
    stream: torch.Generator

    @classmethod
    def of(cls, tokenizer: Any, stream: torch.Generator) -> "Masks":
        """For this tokenizer; `stream` decides what is hidden, and how."""
        return cls(
            tokenizer.mask_token_id, torch.tensor(tokenizer.convert_tokens_to_ids(list(TELLING))), stream
        )

    def hide(self, ids: Tensor, share: float) -> tuple[Tensor, Tensor]:
        """(ids with gaps, the hidden words or -100), both like `ids`."""
        chosen = torch.isin(ids, self.telling) & (torch.rand(ids.shape, generator=self.stream) < share)
        how = torch.rand(ids.shape, generator=self.stream)
        other = self.telling[torch.randint(len(self.telling), ids.shape, generator=self.stream)]
        shown = torch.where(chosen & (how < 0.5), self.mask, ids)
        shown = torch.where(chosen & (how >= 0.5) & (how < 0.75), other, shown)
        return shown, torch.where(chosen, ids, -100)
