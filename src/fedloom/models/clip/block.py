"""One block of a CLIP tower at chosen positions: keys and values of all, the output at those that are wanted."""

from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


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
