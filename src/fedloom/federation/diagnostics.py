"""Aggregation diagnostics: distance from the mean of the clients' products, disagreement of clients, turns between rounds."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean

import torch
from torch import Tensor

from fedloom.aggregation import lora
from fedloom.aggregation.mean import squared_distance
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


def aggregation(
    replies: Sequence[Reply],
    weights: Sequence[float],
    product: Mapping[str, Tensor],
    known: Mapping[str, Tensor],
) -> dict[str, float]:
    """Per layer `layer/<place>/<metric>`, per group `<metric>/<group>`, and the mean over layers `<metric>`.

    restoration_error: relative Frobenius distance of the server's new product to U = sum p_k B_k A_k, and `_before` that of
    plain averaging; condition: cond(A' A'^T); norm_ratio: ||B'|| over the averaged B's norm (what the solve shrinks);
    angle: largest principal angle, in radians, between two clients' A. No d_out x d_in matrix is formed. A factor that is
    not sent is taken from `known`; empty where a factor stays with the clients. Only per layer: cosine_A and cosine_B, the mean
    cosine between clients' factors (UniFLoW Figure 4; the angle is the better measure, because a factor's basis is arbitrary).
    """
    metrics: dict[str, float] = {}
    by_group: defaultdict[str, list[float]] = defaultdict(list)
    for place, pair in pairs(replies, weights, known):
        A_out = product.get(place + "lora_A", known.get(place + "lora_A"))
        B_out = product.get(place + "lora_B", known.get(place + "lora_B"))
        if A_out is None or B_out is None:
            continue
        figures = _layer_figures(pair, A_out, B_out)
        del pair  # before the next layer is read
        for metric, value in figures.items():
            metrics[f"layer/{place.rstrip('.')}/{metric}"] = value
            if metric in NAMES:
                by_group[f"{metric}/{group_of(place)}"].append(value)
                by_group[metric].append(value)
    return metrics | {name: fmean(values) for name, values in by_group.items()}


def _layer_figures(pair: Pair, A_out: Tensor, B_out: Tensor) -> dict[str, float]:
    """One layer's figures by metric; figures that are not finite are left out."""
    layer = lora.diagnostics(pair.A, pair.B, A_out, B_out, pair.weights, scales=pair.scales)
    values = {metric: getattr(layer, field) for metric, field in NAMES.items()}
    figures = {metric: value for metric, value in values.items() if isfinite(value)}
    for factor, stacked in (("A", pair.A), ("B", pair.B)):
        if isinstance(stacked, Tensor) and len(stacked) > 1 and bool(stacked.any()):
            figures[f"cosine_{factor}"] = mean_cosine(stacked)
    return figures


def mean_cosine(stacked: Tensor) -> float:
    """Mean cosine between the flattened tensors of all pairs of clients, (K, ...)."""
    flat = stacked.flatten(1).double()
    norms = flat.norm(dim=1, keepdim=True)
    unit = flat / norms.clamp_min(1e-300)
    k = len(unit)
    total = float(unit.sum(0).square().sum() - unit.square().sum())
    return total / (k * (k - 1))


def update_norm(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change of all shared tensors."""
    return sqrt(sum(squared_distance(after[n], before[n]) for n in before))


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
