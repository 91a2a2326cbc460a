"""Aggregation diagnostics: distance from the mean of the clients' products, disagreement of clients, turns between rounds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean

import torch
from torch import Tensor

from fedloom.aggregation import lora
from fedloom.aggregation.mean import squared_distances
from fedloom.aggregation.stack import wide
from fedloom.core.payload import Reply, group_of
from fedloom.methods.base.combine import Pair, pairs

NAMES = {
    "restoration_error": "error",
    "restoration_error_before": "error_mean",
    "condition": "condition",
    "norm_ratio": "norm_ratio",
    "angle": "angle",
}
"""Metric and field of `lora.Diagnostics`."""
SIMILARITIES = ("cosine_A", "cosine_B", "cosine_change_A", "cosine_change_B", "cosine_change")
"""Mean cosines between two clients' factors, their changes in the round, and the changes of their products B A."""


def aggregation(
    replies: Sequence[Reply],
    weights: Sequence[float],
    product: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
    began: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """Per layer `layer/<place>/<metric>`, per group `<metric>/<group>`, and the mean over layers `<metric>`.

    restoration_error: relative Frobenius distance of the server's new product to U = sum p_k B_k A_k, and `_before` that of
    plain averaging; condition: cond(A' A'^T); norm_ratio: ||B'|| over the averaged B's norm (what the solve shrinks);
    angle: largest principal angle, in radians, between two clients' A. No matrix larger than all clients' factors is formed.
    A factor that is not sent is taken from `known`; empty where a factor stays with the clients. `SIMILARITIES` (UniFLoW
    Figure 4): cosine_A and cosine_B compare factors, which a common start makes alike; the others compare changes from `began`,
    the factors that the clients began from (`known` if None), without those of which each client drew its own.
    """
    metrics: dict[str, float] = {}
    by_group: defaultdict[str, list[float]] = defaultdict(list)
    began = known if began is None else began
    for place, pair in pairs(replies, weights, known):
        A_out = product.get(place + "lora_A", known.get(place + "lora_A"))
        B_out = product.get(place + "lora_B", known.get(place + "lora_B"))
        if A_out is None or B_out is None:
            continue
        figures = _layer_figures(pair, A_out, B_out)
        figures |= similarities(pair, began.get(place + "lora_A"), began.get(place + "lora_B"))
        del pair  # before the next layer is read
        for metric, value in figures.items():
            metrics[f"layer/{place.rstrip('.')}/{metric}"] = value
            by_group[f"{metric}/{group_of(place)}"].append(value)
            by_group[metric].append(value)
    return metrics | {name: fmean(values) for name, values in by_group.items()}


def _layer_figures(pair: Pair, A_out: Tensor, B_out: Tensor) -> dict[str, float]:
    """One layer's figures by metric; figures that are not finite are left out."""
    layer = lora.diagnostics(pair.A, pair.B, A_out, B_out, pair.weights, scales=pair.scales)
    values = {metric: getattr(layer, field) for metric, field in NAMES.items()}
    return {metric: value for metric, value in values.items() if isfinite(value)}


def similarities(pair: Pair, A: Tensor | None, B: Tensor | None) -> dict[str, float]:
    """Mean cosines over all pairs of clients of one layer; `A` (r, d_in), `B` (d_out, r): the factors before the round.

    Empty where ranks or scales differ. A cosine is left out where a client's factor or change is zero. `A` is None where each
    client drew its own: A's changes are left out, and the product's stand only with B = 0, where B A is 0 for every A.
    """
    if not isinstance(pair.A, Tensor) or not isinstance(pair.B, Tensor) or pair.scales is not None:
        return {}
    A_k, B_k = wide(pair.A), wide(pair.B)
    k = len(A_k)
    if k < 2:
        return {}
    sums = {"cosine_A": _sum_of_directions(A_k), "cosine_B": _sum_of_directions(B_k)}
    alike = (A is None or A.shape == A_k.shape[1:]) and B is not None and B.shape == B_k.shape[1:]
    if B is not None and alike:
        D_B = B_k - B.to(B_k)
        sums["cosine_change_B"] = _sum_of_directions(D_B)
        if A is not None:
            D_A = A_k - A.to(A_k)
            sums["cosine_change_A"] = _sum_of_directions(D_A)
            sums["cosine_change"] = _sum_of_product_directions(A_k, D_A, D_B, B.to(B_k))
        elif not B.any():
            sums["cosine_change"] = _sum_of_product_directions(A_k, A_k, D_B, B.to(B_k))
    # ||sum of K directions||^2 = K + the sum of the cosines of all ordered pairs
    cosines = ((torch.stack(list(sums.values())) - k) / (k * (k - 1))).tolist()
    return {name: cosine for name, cosine in zip(sums, cosines, strict=True) if isfinite(cosine)}


def _sum_of_directions(stacked: Tensor) -> Tensor:
    """||sum_k x_k / ||x_k|| ||^2 of the clients' tensors (K, ...); NaN where one is zero."""
    flat = stacked.flatten(1)
    total: Tensor = (1 / torch.linalg.vector_norm(flat, dim=1)) @ flat
    return total.square().sum()


def _sum_of_product_directions(A_k: Tensor, D_A: Tensor, D_B: Tensor, B: Tensor) -> Tensor:
    """`_sum_of_directions` of B_k A_k - B A = D_Bk A_k + B D_Ak, the changes of the products, from factors."""
    squares = ((A_k @ A_k.mT) * (D_B.mT @ D_B)).sum((1, 2))
    squares += ((((B.T @ B) @ D_A) + 2 * (B.T @ D_B) @ A_k) * D_A).sum((1, 2))
    w = 1 / squares.clamp_min(0).sqrt()
    columns = torch.cat([(D_B * w[:, None, None]).transpose(0, 1).flatten(1), B], dim=1)
    rows = torch.cat([A_k.flatten(0, 1), torch.tensordot(w, D_A, dims=1)])
    if (
        columns.numel() + rows.numel() > len(columns) * rows.shape[1]
    ):  # the product is smaller than its factors
        return (columns @ rows).square().sum()
    return ((columns.T @ columns) * (rows @ rows.T)).sum()


def change_norm(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], frozen: Mapping[str, Tensor]
) -> float:
    """Frobenius norm of the shared model's change: of the products B A, and of every other tensor.

    The change of factors would not do: B / 2 and 2 A are the same model. A factor that is never trained comes from `frozen`; a
    pair that is only in `after` began at zero; where one factor stays with the clients, the other one's change counts.
    Adapters are taken without their scale. No d_out x d_in matrix is formed.
    """
    old, new = {**frozen, **before}, {**frozen, **after}
    squares, seen = 0.0, set[str]()
    for place in sorted({n[: -len("lora_A")] for n in after if n.endswith(("lora_A", "lora_B"))}):
        names = (place + "lora_A", place + "lora_B")
        if all(n in new for n in names):
            seen.update(names)
            known = all(n in old for n in names)
            squares += _squared_change(new, old if known else None, *names)
    others = [n for n in before if n not in seen and n in after]
    return sqrt(squares + sum(squared_distances([after[n]], before[n])[0] for n in others))


def _squared_change(
    new: Mapping[str, Tensor], old: Mapping[str, Tensor] | None, name_A: str, name_B: str
) -> float:
    """||B' A' - B A||^2 = tr(G_B G_A), with the Gram matrices of [B', -B] and of [A'; A]; B A = 0 if `old` is None."""
    A, B = new[name_A], new[name_B]
    if old is not None and A is old[name_A] and B is old[name_B]:
        return 0.0
    rows, columns = wide(A), wide(B)
    if old is not None:
        rows = torch.cat([rows, wide(old[name_A]).to(rows.device)])
        columns = torch.cat([columns, -wide(old[name_B]).to(columns.device)], dim=1)
    return max(float(((columns.T @ columns) * (rows @ rows.T)).sum()), 0.0)


def agreement(replies: Sequence[Reply], before: Mapping[str, Tensor]) -> dict[str, float]:
    """Cosines between the changes W_k - W of every two clients, over the tensors that both sent and the server had.

    `update/cosine`: their mean, low under interference; `update/cosine_min`: the lowest; `update/opposed`: the share of
    negative pairs. Empty for fewer than two clients. Memory: K changes of one tensor at a time.
    """
    tensors_of = [reply.payload.tensors for reply in replies]
    k = len(tensors_of)
    products, sizes = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
    for name in sorted({n for tensors in tensors_of for n in tensors if n in before}):
        holders = [i for i, tensors in enumerate(tensors_of) if name in tensors]
        comparable = [i for i in holders if tensors_of[i][name].shape == before[name].shape]
        if len(comparable) < 2:
            continue
        changes = torch.stack([(tensors_of[i][name] - before[name]).flatten() for i in comparable])
        gram = (changes @ changes.T).double().cpu()
        index = torch.tensor(comparable)
        products[index[:, None], index] += gram
        # sizes[i, j]: ||change of client i||^2 over the tensors that it shares with client j
        sizes[index[:, None], index] += gram.diagonal()[:, None]
    upper = torch.triu_indices(k, k, 1)  # every two clients once
    scale = (sizes * sizes.T).sqrt()[upper[0], upper[1]]
    cosines = products[upper[0], upper[1]][scale > 0] / scale[scale > 0]
    if not len(cosines):
        return {}
    return {
        "update/cosine": float(cosines.mean()),
        "update/cosine_min": float(cosines.min()),
        "update/opposed": float((cosines < 0).double().mean()),
    }


def turn(change: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> dict[str, float]:
    """`update/turn`: cosine between this round's change of the model and the previous round's; negative where it turned back.

    Over the tensors in both changes; empty where one of the changes is zero.
    """
    names = [n for n in sorted(change) if n in last]
    dot = sum(float((change[n].double() * last[n].double()).sum()) for n in names)
    sizes = [sum(float(c[n].double().square().sum()) for n in names) for c in (change, last)]
    return {"update/turn": dot / (sizes[0] * sizes[1]) ** 0.5} if min(sizes, default=0.0) > 0 else {}
