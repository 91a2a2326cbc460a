"""What aggregation did: how far the combined adapters are from the mean of the clients' products, and how clients differ."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from statistics import fmean

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
    not sent is taken from `known`; empty where a factor stays with the clients. Only per layer: cosine_A and cosine_B, how
    alike the clients' factors are (UniFLoW Figure 4; a factor's basis is arbitrary, so that the angle says more).
    """
    found: dict[str, float] = {}
    of_group: defaultdict[str, list[float]] = defaultdict(list)
    for place, pair in pairs(replies, weights, known):
        A_out = product.get(place + "lora_A", known.get(place + "lora_A"))
        B_out = product.get(place + "lora_B", known.get(place + "lora_B"))
        if A_out is None or B_out is None:
            continue
        measured = _of_layer(pair, A_out, B_out)
        del pair  # before the next layer is read
        for metric, value in measured.items():
            found[f"layer/{place.rstrip('.')}/{metric}"] = value
            if metric in NAMES:
                of_group[f"{metric}/{group_of(place)}"].append(value)
                of_group[metric].append(value)
    return found | {name: fmean(values) for name, values in of_group.items()}


def _of_layer(pair: Pair, A_out: Tensor, B_out: Tensor) -> dict[str, float]:
    """One layer's figures by metric; those that are not finite are left out."""
    measured = lora.diagnostics(pair.A, pair.B, A_out, B_out, pair.weights, scales=pair.scales)
    values = {metric: getattr(measured, field) for metric, field in NAMES.items()}
    found = {metric: value for metric, value in values.items() if isfinite(value)}
    for factor, stacked in (("A", pair.A), ("B", pair.B)):
        if isinstance(stacked, Tensor) and len(stacked) > 1:
            found[f"cosine_{factor}"] = mean_cosine(stacked)
    return found


def mean_cosine(stacked: Tensor) -> float:
    """Mean cosine between the flattened tensors of all pairs of clients, (K, ...); 1 where all are zero."""
    flat = stacked.flatten(1).double()
    norms = flat.norm(dim=1, keepdim=True)
    unit = flat / norms.clamp_min(1e-300)
    k = len(unit)
    total = float(unit.sum(0).square().sum() - unit.square().sum())
    return total / (k * (k - 1)) if bool((norms > 0).any()) else 1.0


def update_norm(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change of all shared tensors."""
    return sqrt(sum(squared_distance(after[n], before[n]) for n in before))
