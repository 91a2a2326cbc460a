"""MultiRepFusion: one unit vector for each synthetic item, from the clients' vectors of it (FedMMKT, M3).

Attention between modalities (`fusion_attention`), then for each modality a mean over its clients whose weights are contrastive
scores as in CreamFL (Yu et al., ICLR 2023) against the other modalities' references, then the mean over modalities. The form
is our reconstruction (docs/methods/fedmmkt.md). Modalities m = 1..M with K_m clients, N items, width d.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloom.aggregation.fusion_attention import Other, attend, attention, unit
from fedloom.aggregation.fusion_measures import (
    FEW,
    alignment_error,
    collapse,
    effective_clients,
    pairwise_cosine,
    rank99,
)
from fedloom.aggregation.reference_embeddings import (
    other_mean,
    picture_reference_embeddings,
    ridge_reference_embeddings,
    word_reference_embeddings,
)
from fedloom.aggregation.stack import wide

__all__ = [
    "Fused",
    "Fusion",
    "alignment_error",
    "attention",
    "collapse",
    "effective_clients",
    "fuse",
    "learn_attention",
    "other_mean",
    "pairwise_cosine",
    "picture_reference_embeddings",
    "rank99",
    "ridge_reference_embeddings",
    "word_reference_embeddings",
]

GUARD = (2.0, 4.0)  # values of tau_agg, tried in turn while `guard` counts too few effective clients
_ROWS = 1024  # items whose scores are computed at a time


@dataclass(frozen=True)
class Fusion:
    """Settings of the fusion.

    attention: whether clients attend to the other modalities first.
    temperature: tau_a, of cosines; sqrt(d) = 16 would leave the weights flat.
    share: lambda_a, of the message.
    other: form of the attention to several other modalities; see `fusion_attention.attend`.
    heads: of `joint_multihead`; divides d.
    tau: temperature of the contrastive scores.
    tau_agg: temperature of the softmax over clients.
    aggregate: `contrastive`, or `mean`: uniform weights.
    guard: raise tau_agg to 2, then 4, while the effective clients of some modality are below 1.5.
    """

    attention: bool = True
    temperature: float = 0.1
    share: float = 0.5
    other: Other = "message_mean"
    heads: int = 4
    tau: float = 0.07
    tau_agg: float = 1.0
    aggregate: Literal["contrastive", "mean"] = "contrastive"
    guard: bool = False


@dataclass(frozen=True)
class Fused:
    """vectors r (N, d), unit rows; weights a: modality -> (K_m, N), columns sum to 1; the tau_agg that was used."""

    vectors: Tensor
    weights: Mapping[str, Tensor]
    tau_agg: float


def fuse(
    representations: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    settings: Fusion | None = None,
    *,
    learned: Mapping[str, Tensor] | None = None,
) -> Fused:
    """R of N items from each modality's client vectors (K_m, N, d) and reference embeddings (N, d).

    `references` names the M modalities; one that `representations` lacks, or has with K_m = 0, gives its reference. Without
    any client r is the references' mean: the round before the first fusion. `learned` comes from `learn_attention`. Rows are
    brought to norm 1 first. Computed in float64, returned in the dtype of the representations (of the references without any).
    Raises ValueError on shapes that do not fit, a modality without references, and settings out of range.
    """
    settings = Fusion() if settings is None else settings
    held = {m: z for m, z in representations.items() if len(z)}
    _check(held, references, settings)
    dtype = next(iter((held or references).values())).dtype
    Z = {m: unit(wide(z.detach())) for m, z in held.items()}
    G = {m: unit(wide(g.detach())) for m, g in references.items()}
    maps = None if learned is None else {name: wide(t.detach()) for name, t in learned.items()}
    r, a = _fuse(Z, G, settings, maps)
    for tau_agg in GUARD if settings.guard else ():
        if not _few(a):
            break
        if tau_agg > settings.tau_agg:
            settings = replace(settings, tau_agg=tau_agg)
            r, a = _fuse(Z, G, settings, maps)
    return Fused(r.to(dtype), {m: w.to(dtype) for m, w in a.items()}, settings.tau_agg)


def scores(Z: Tensor, references: Tensor, tau: float) -> Tensor:
    """s (K, N): log softmax_j(<z_ci, g_j> / tau) at j = i, of Z (K, N, d) and references (N, d); 0 for a single item."""
    columns = []
    for z in Z:  # one client and some items at a time, whatever K and N
        parts = enumerate(torch.split(z, _ROWS))
        logs = [torch.log_softmax(part @ references.T / tau, 1).diagonal(i * _ROWS) for i, part in parts]
        columns.append(torch.cat(logs))
    return torch.stack(columns)


def learn_attention(
    representations: Mapping[str, Tensor],
    references: Mapping[str, Tensor],
    labels: Tensor,
    classes: int,
    settings: Fusion,
    generator: torch.Generator,
    *,
    steps: int = 20,
    learning_rate: float = 1e-3,
    batch: int = 256,
    start: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """W_Q, W_K, W_V (d, d), a `type/<modality>` (d,) each, and `head` (C, d), trained on the server.

    The loss is the cross-entropy of the linear head on r_i / tau against the voted labels (N,) int64; Adam, float32. The maps
    start at the identity, types and head at 0, or where `start` (an earlier result) left them. Batches of items are drawn from
    `generator`. The names do not depend on `settings.other`, so that the result is kept as state. Raises ValueError as `fuse`.
    """
    held = {m: z for m, z in representations.items() if len(z)}
    _check(held, references, settings)
    Z = {m: unit(z.detach().float()) for m, z in held.items()}
    G = {m: unit(g.detach().float()) for m, g in references.items()}
    N, d = next(iter(G.values())).shape
    fresh = {name: torch.eye(d) for name in ("W_Q", "W_K", "W_V")}
    fresh |= {f"type/{m}": torch.zeros(d) for m in G} | {"head": torch.zeros(classes, d)}
    initial = {} if start is None else start
    device = labels.device
    maps = {
        k: initial.get(k, t).detach().float().to(device).clone().requires_grad_() for k, t in fresh.items()
    }
    optimiser = torch.optim.Adam(list(maps.values()), lr=learning_rate)
    for _ in range(steps if N else 0):
        at = torch.randperm(N, generator=generator)[:batch].to(device)
        picked = {m: z[:, at] for m, z in Z.items()}
        r, _ = _fuse(picked, {m: g[at] for m, g in G.items()}, settings, maps)
        loss = cross_entropy(r @ maps["head"].T / settings.tau, labels[at])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return {name: t.detach() for name, t in maps.items()}


def _fuse(
    Z: Mapping[str, Tensor], G: Mapping[str, Tensor], how: Fusion, maps: Mapping[str, Tensor] | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """R and a, differentiable, in the dtype of unit Z and G."""
    if how.attention:
        Z = attend(
            Z,
            temperature=how.temperature,
            share=how.share,
            other=how.other,
            heads=how.heads,
            learned=maps,
        )
    a, r = {}, []
    for m, g in G.items():
        if m not in Z:
            r.append(g)
            continue
        others = [n for n in G if n != m]
        if how.aggregate == "mean" or not others:
            s = torch.zeros_like(Z[m][..., 0])
        else:
            s = torch.stack([scores(Z[m], G[n], how.tau) for n in others]).mean(0)
        a[m] = torch.softmax(s / how.tau_agg, dim=0)
        r.append(unit(torch.einsum("kn,knd->nd", a[m], Z[m])))
    return unit(torch.stack(r).mean(0)), a


def _few(weights: Mapping[str, Tensor]) -> bool:
    return any(
        len(a) > 1 and a.numel() and float(effective_clients(a).mean()) < FEW for a in weights.values()
    )


def _check(held: Mapping[str, Tensor], references: Mapping[str, Tensor], settings: Fusion) -> None:
    if not references:
        raise ValueError("fusion needs anchors: one (N, d) for each modality.")
    shape = next(iter(references.values())).shape
    for m, g in references.items():
        if g.ndim != 2 or g.shape != shape:
            raise ValueError(f"anchors of {m} are {tuple(g.shape)}; all must be (N, d), here {tuple(shape)}.")
    for m, z in held.items():
        if m not in references:
            raise ValueError(f"{m} has clients and no anchors; there are anchors of {', '.join(references)}.")
        if z.ndim != 3 or z.shape[1:] != shape:
            want = ", ".join(map(str, shape))
            raise ValueError(f"representations of {m} are {tuple(z.shape)}; they must be (K, {want}).")
    for name in ("temperature", "tau", "tau_agg"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} is {value}; it must be a finite number above 0.")
    if settings.other == "joint_multihead" and (settings.heads < 1 or shape[1] % settings.heads):
        raise ValueError(f"{settings.heads} heads do not divide the width {shape[1]}.")
