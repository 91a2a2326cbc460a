"""Class texts behind a learned context, through a causal tower: start and context pass once, and every name reads their keys.

No position sees what stands behind it, so the states of start and context are the same before all names. A context of 16 vectors
before names of 4 tokens then costs 16 + 4 C positions for C classes instead of 20 C.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from fedloom.models.clip.towers import Towers


def features_after(towers: Towers, contexts: Tensor, embeds: Tensor, end: Tensor) -> Tensor:
    """Unit features (N, C, d) of texts with each context (N, m, d_text) in the gap after their start.

    `embeds` (C, L, d_text) are the texts' token embeddings without positions, whose gap is not read; they end at `end` (C,).
    """
    count, classes, gap = len(contexts), len(embeds), towers.lead + contexts.shape[1]
    start = embeds[:1, : towers.lead].expand(count, -1, -1)
    common = towers.text_in(torch.cat([start, contexts], dim=1))
    names = towers.text_in(embeds)[:, gap:].repeat(count, 1, 1)  # (N C, S, d_text)
    length = names.shape[1]
    backward = torch.ones(gap, gap, dtype=torch.bool, device=end.device).tril()
    seen = torch.ones(length, gap + length, dtype=torch.bool, device=end.device).tril(gap)
    last = towers.text_depth - 1
    for number in range(last):
        block = towers.block("text", number)
        keys, values = keys_values(block, common)
        names = output(block, names, *_joined(block, (keys, values), names, classes), seen)
        common = output(block, common, keys, values, backward)
    block = towers.block("text", last)
    both = _joined(block, keys_values(block, common), names, classes)
    place = (end - gap).repeat(count)
    read = names[torch.arange(len(names), device=end.device), place][:, None]
    state = output(block, read, *both, seen[place][:, None, None])
    return towers.text_out(state, torch.zeros_like(place)).view(count, classes, -1)


def _joined(block: Any, before: tuple[Tensor, Tensor], names: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Keys and values (N C, heads, gap + S, d_head) of what stands before the names and of the names themselves."""
    keys, values = keys_values(block, names)
    first, second = (kept.repeat_interleave(classes, 0) for kept in before)
    return torch.cat([first, keys], dim=2), torch.cat([second, values], dim=2)


def keys_values(block: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """A block's keys and values (R, heads, L, d_head) of its input (R, L, d)."""
    attention, normed = block.self_attn, block.layer_norm1(hidden)
    return _heads(attention, attention.k_proj(normed)), _heads(attention, attention.v_proj(normed))


def output(block: Any, x: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """A block's output (R, Q, d) at the positions x (R, Q, d), which see the keys where `seen` is true, or all of them."""
    attention = block.self_attn
    query = _heads(attention, attention.q_proj(block.layer_norm1(x)))
    mixed = scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=attention.scale)
    out = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
    result: Tensor = out + block.mlp(block.layer_norm2(out))
    return result


def _heads(attention: Any, states: Tensor) -> Tensor:
    """(R, L, d) to (R, heads, L, d_head)."""
    return states.view(*states.shape[:2], attention.num_heads, -1).transpose(1, 2)
