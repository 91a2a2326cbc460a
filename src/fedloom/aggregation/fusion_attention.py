"""Inter-modal attention over clients: a client's vector of an item attends to the other modalities' (FedMMKT, M3a).

The tokens are the clients of one item, never other items: K_m clients of modality m, N items, unit vectors of width d.
Learned maps `W_Q`, `W_K`, `W_V` (d, d) and `type/<modality>` (d,) are shared by all clients; without them the identity and 0.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

Other = Literal["message_mean", "client_mean", "joint_multihead"]


def unit(x: Tensor) -> Tensor:
    """Rows of norm 1; a row of zeros stays one."""
    return normalize(x, dim=-1, eps=torch.finfo(x.dtype).tiny)


def attention(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """(N, K, L), rows sum to 1: softmax over l of <q_kn, k_ln> / temperature, of queries (K, N, d) and keys (L, N, d)."""
    return torch.softmax(torch.einsum("knd,lnd->nkl", queries, keys) / temperature, dim=2)


def attend(
    Z: Mapping[str, Tensor],
    *,
    temperature: float,
    share: float,
    other: Other,
    heads: int = 1,
    learned: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """norm(z + share * message) for every modality's Z (K_m, N, d); z where no other modality has clients.

    message_mean: A = attention of m's clients to those of m', times their vectors; the mean over all m' other than m. At two
        modalities this is norm(Z + share A Z').
    client_mean: the keys and values are one vector per other modality, its clients' mean. At two modalities the softmax runs
        over one token and attention vanishes.
    joint_multihead: one softmax over the clients of all other modalities, in `heads` heads of d / heads, with a type vector per
        modality on the keys. Scores are multiplied by `heads`, so that their mean over heads is the cosine.
    """
    maps = {} if learned is None else learned
    out = {}
    for m, z in Z.items():
        others = [n for n in Z if n != m]
        if not others:
            out[m] = unit(z)
            continue
        q = _through(z, maps, "W_Q")
        if other == "message_mean":
            messages = [_message(q, Z[n], temperature, maps) for n in others]
            message = torch.stack(messages).mean(0)
        elif other == "client_mean":
            message = _message(q, torch.stack([Z[n].mean(0) for n in others]), temperature, maps)
        else:
            message = _joint(q, {n: Z[n] for n in others}, temperature, heads, maps)
        out[m] = unit(z + share * message)
    return out


def _message(q: Tensor, tokens: Tensor, temperature: float, maps: Mapping[str, Tensor]) -> Tensor:
    A = attention(q, _through(tokens, maps, "W_K"), temperature)
    return torch.einsum("nkl,lnd->knd", A, _through(tokens, maps, "W_V"))


def _joint(
    q: Tensor, Z: Mapping[str, Tensor], temperature: float, heads: int, maps: Mapping[str, Tensor]
) -> Tensor:
    tokens = torch.cat(list(Z.values()))
    typed = torch.cat([z + maps[f"type/{m}"] if f"type/{m}" in maps else z for m, z in Z.items()])
    q, k = _split(q, heads), _split(_through(typed, maps, "W_K"), heads)
    v = _split(_through(tokens, maps, "W_V"), heads)
    A = attention(q * heads, k, temperature)
    message = torch.einsum("nkl,lnd->knd", A, v)
    K, _, width = message.shape
    return message.reshape(K, heads, -1, width).transpose(1, 2).flatten(2)


def _split(x: Tensor, heads: int) -> Tensor:
    """(K, N, d) -> (K, heads N, d / heads): a head is an item of its own."""
    K, N, d = x.shape
    return x.reshape(K, N, heads, d // heads).transpose(1, 2).flatten(1, 2)


def _through(x: Tensor, maps: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ maps[name] if name in maps else x
