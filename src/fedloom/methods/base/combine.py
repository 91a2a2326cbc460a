"""Combining the replies of a round, layer by layer, each over the clients that trained it."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedloom.aggregation import lora, vera
from fedloom.aggregation.mean import tensor_mean
from fedloom.aggregation.solve import Mode
from fedloom.aggregation.stack import Stack, Tail, stack
from fedloom.core.payload import Reply, group_of

PairRule = Callable[..., tuple[Tensor, Tensor]]
"""(A_k, B_k, weights (K,), scales=s_k/s or None) to the combined pair; A_k are (r_k, d_in), B_k (d_out, r_k)."""


LayersRule = Callable[[Sequence[Stack]], list[tuple[Tensor, Tensor]]]
"""Stacks of several layers, equal in shape and dtype and not checked for finite values, to their combined pairs."""
AT_ONCE = 1 << 26
"""Largest number of bytes of the factors that `combine_layers` stacks at once, unless a single layer has more."""


@dataclass(frozen=True)
class Pair:
    """One layer's factors at the clients that trained it, with weights that sum to 1 (float64).

    `A` and `B` are stacked, (K, r, d_in) and (K, d_out, r), or lists where ranks differ; `scales` is s_k / s or None.
    """

    A: Any
    B: Any
    weights: Tensor
    scales: list[float] | None


def pairs(
    replies: Sequence[Reply], weights: Sequence[float], known: Mapping[str, Tensor] | None = None
) -> Iterator[tuple[str, Pair]]:
    """The LoRA pairs of a round by place (`<group>/<layer>.`), one at a time: only one layer's stack is made at a time.

    A factor that no client sends comes from `known`, if present.
    """
    known = known or {}
    held = [reply.payload.tensors for reply in replies]
    alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for k, tensors in enumerate(held):
        alike[tuple(tensors)].append(k)
    holding: defaultdict[str, list[int]] = defaultdict(list)
    incomplete = set[str]()
    for own, holders in alike.items():
        for place in dict.fromkeys(n[: -len("lora_A")] for n in own if n.endswith(("lora_A", "lora_B"))):
            holding[place] += holders
            if not {place + "lora_A", place + "lora_B"} <= {*own, *known}:
                incomplete.add(place)
    scaled = any(reply.ratios for reply in replies)
    for place in sorted(holding.keys() - incomplete):
        names, holders = (place + "lora_A", place + "lora_B"), sorted(holding[place])
        p = torch.tensor([weights[k] for k in holders], dtype=torch.float64)
        ratios = [replies[k].ratios.get(group_of(place), 1.0) for k in holders] if scaled else []
        # No local name holds a tensor of this layer, so that the receiver's last reference frees it.
        yield (
            place,
            Pair(
                _stacked([held[k].get(names[0], known.get(names[0])) for k in holders]),
                _stacked([held[k].get(names[1], known.get(names[1])) for k in holders]),
                p / p.sum(),
                ratios if any(r != 1.0 for r in ratios) else None,
            ),
        )


def _stacked(factors: list[Any]) -> Any:
    """The clients' factors in one tensor, or as they are where shapes differ."""
    return torch.stack(factors) if len({f.shape for f in factors}) == 1 else factors


def combine_pairs(
    replies: Sequence[Reply], weights: Sequence[float], rule: PairRule, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Every LoRA pair through `rule`, every other tensor by its mean, each over the clients that trained it.

    Weights are renormalised over a tensor's holders (UniFLoW: an encoder's adapter is combined over the modality's holders);
    `like` has the factors in the server's rank.
    """
    combined: dict[str, Tensor] = {}
    for place, pair in pairs(replies, weights):
        rank = like[place + "lora_A"].shape[0]
        out = rule(pair.A, pair.B, pair.weights, scales=pair.scales, rank=rank)
        combined[place + "lora_A"], combined[place + "lora_B"] = out
        del pair  # before the next layer is read
    return mean_of(replies, weights, lambda name: name not in combined) | combined


def combine_layers(
    replies: Sequence[Reply],
    weights: Sequence[float],
    rule: LayersRule,
    like: Mapping[str, Tensor],
    tail: Tail = "rescale",
) -> dict[str, Tensor]:
    """`combine_pairs` with a rule that takes several layers of one shape at once, up to AT_ONCE bytes of factors."""
    combined: dict[str, Tensor] = {}
    waiting: defaultdict[Any, dict[str, Stack]] = defaultdict(dict)
    held = 0

    def combine() -> None:
        for alike in waiting.values():
            for place, out in zip(alike, rule(list(alike.values())), strict=True):
                combined[place + "lora_A"], combined[place + "lora_B"] = out
        waiting.clear()

    for place, pair in pairs(replies, weights):
        rank = like[place + "lora_A"].shape[0]
        s = stack(pair.A, pair.B, pair.weights, pair.scales, rank, tail, checked=False)
        del pair  # padded factors are copies
        if held and held + s.A.nbytes + s.B.nbytes > AT_ONCE:
            combine()
            held = 0
        held += s.A.nbytes + s.B.nbytes
        waiting[s.A.shape, s.B.shape, s.A.dtype, s.A.device][place] = s
        del s  # before the next layer is read
    combine()
    return mean_of(replies, weights, lambda name: name not in combined) | combined


def combine_vectors(
    replies: Sequence[Reply],
    weights: Sequence[float],
    frozen: Mapping[str, Tensor],
    *,
    mode: Mode,
    ridge: float | None,
) -> dict[str, Tensor]:
    """VeRA's vectors of every layer by FedA²'s rule; empty where there are none."""
    held = [reply.payload.tensors for reply in replies]
    combined: dict[str, Tensor] = {}
    for place in sorted(
        {n[: -len("lambda_d")] for tensors in held for n in tensors if n.endswith("lambda_d")}
    ):
        holders = [
            k for k, tensors in enumerate(held) if {place + "lambda_d", place + "lambda_b"} <= set(tensors)
        ]
        if not holders:
            continue
        total = sum(weights[k] for k in holders)
        d, b = (torch.stack([held[k][place + n] for k in holders]) for n in ("lambda_d", "lambda_b"))
        p = [weights[k] / total for k in holders]
        out = vera.feda2(d, b, frozen[place + "vera_A"], frozen[place + "vera_B"], p, ridge, mode)
        combined[place + "lambda_d"], combined[place + "lambda_b"] = out
    return combined


def sort_directions(tensors: Mapping[str, Tensor], split: lora.Split = "sqrt") -> dict[str, Tensor]:
    """Every pair rewritten so that its directions fall in strength; `split` says where the singular values go."""
    sorted_tensors = dict(tensors)
    for name in tensors:
        place = name.removesuffix("lora_A")
        if place != name and place + "lora_B" in tensors:
            A, B = tensors[name], tensors[place + "lora_B"]
            sorted_tensors[name], sorted_tensors[place + "lora_B"] = lora.flexlora(
                [A], [B], rank=A.shape[0], split=split
            )
    return sorted_tensors


def mean_of(
    replies: Sequence[Reply], weights: Sequence[float], keep: Callable[[str], bool] = lambda name: True
) -> dict[str, Tensor]:
    """The weighted mean of every tensor whose name `keep` accepts, over the clients that sent it; one tensor at a time."""
    means: dict[str, Tensor] = {}
    for name in sorted({n for reply in replies for n in reply.payload.tensors if keep(n)}):
        own = [
            (reply.payload.tensors[name], w)
            for reply, w in zip(replies, weights, strict=True)
            if name in reply.payload.tensors
        ]
        if any(w > 0 for _, w in own):  # else nobody whose weight counts trained it
            means[name] = tensor_mean([t for t, _ in own], [w for _, w in own])
    return means
