"""Class texts behind a learned context: through a causal tower start and context pass once, and every name reads their keys.

There no position sees what stands behind it, so that the states of start and context are the same before all names. A context
of 16 vectors before names of 4 tokens then costs 16 + 4 C positions for C classes instead of 20 C.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fedloom.models.checkpointing import recomputed
from fedloom.models.clip.block import keys_values, output

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers


def features_after(towers: Towers, contexts: Tensor, embeds: Tensor, end: Tensor) -> Tensor:
    """Unit features (N, C, d) of texts with each context (N, m, d_text) in the gap after their start.

    `embeds` (C, L, d_text) are the texts' token embeddings without positions, whose gap is not read; they end at `end` (C,).
    """
    count, classes, gap = len(contexts), len(embeds), towers.lead + contexts.shape[1]
    if not towers.causal:
        texts = embeds.expand(count, -1, -1, -1)
        learned = contexts[:, None].expand(-1, classes, -1, -1)
        whole = torch.cat([texts[:, :, : towers.lead], learned, texts[:, :, gap:]], dim=2).flatten(0, 1)
        return towers.text_features(whole, end.repeat(count)).view(count, classes, -1)
    start = embeds[:1, : towers.lead].expand(count, -1, -1)
    common = towers.text_in(torch.cat([start, contexts], dim=1))
    names = towers.text_in(embeds)[:, gap:].repeat(count, 1, 1)  # (N C, S, d_text)
    length = names.shape[1]
    backward = torch.ones(gap, gap, dtype=torch.bool, device=end.device).tril()
    seen = torch.ones(length, gap + length, dtype=torch.bool, device=end.device).tril(gap)
    place = (end - gap).repeat(count)

    def through(block: Any, common: Tensor, names: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = keys_values(block, common)
        further = output(block, names, *_joined(block, (keys, values), names, classes), seen)
        return output(block, common, keys, values, backward), further

    def read(block: Any, common: Tensor, names: Tensor) -> Tensor:
        keys, values = _joined(block, keys_values(block, common), names, classes)
        at = names[torch.arange(len(names), device=end.device), place][:, None]
        return output(block, at, keys, values, seen[place][:, None, None])

    *blocks, last = (towers.block("text", number) for number in range(towers.text_depth))
    for block in blocks:
        common, names = recomputed(block, partial(through, block), common, names)
    state = recomputed(last, partial(read, last), common, names)
    return towers.text_out(state, torch.zeros_like(place)).view(count, classes, -1)


def _joined(block: Any, before: tuple[Tensor, Tensor], names: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Keys and values (N C, heads, gap + S, d_head) of what stands before the names and of the names themselves."""
    keys, values = keys_values(block, names)
    first, second = (kept.repeat_interleave(classes, 0) for kept in before)
    return torch.cat([first, keys], dim=2), torch.cat([second, values], dim=2)
