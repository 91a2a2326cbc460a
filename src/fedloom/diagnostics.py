"""What aggregation lost: per group, how far the combined adapter is from the mean of the clients' products."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean

from torch import Tensor

from fedloom.aggregation import lora
from fedloom.exchange import group_of
from fedloom.firewall import Reply
from fedloom.methods.base import stack_pair


def restoration(
    replies: Sequence[Reply], weights: Sequence[float], shared: Mapping[str, Tensor]
) -> dict[str, float]:
    """`restoration_error` (of what the server now holds) and `restoration_error_before` (of plain averaging).

    Relative Frobenius distances to U = sum p_k B_k A_k, as means over layers, in all and per group. Empty where the
    clients did not send both factors.
    """
    held = [reply.payload.tensors for reply in replies]
    names = sorted({name for tensors in held for name in tensors})
    after: defaultdict[str, list[float]] = defaultdict(list)
    before: defaultdict[str, list[float]] = defaultdict(list)
    for place in [n.removesuffix("lora_A") for n in names if n.endswith("lora_A")]:
        holders = [
            k for k, tensors in enumerate(held) if {place + "lora_A", place + "lora_B"} <= tensors.keys()
        ]
        if not holders:
            continue
        A, B, p = stack_pair(held, weights, place, holders)
        group = group_of(place)
        out = (shared[place + "lora_A"], shared[place + "lora_B"])
        after[group].append(float(lora.restoration_error(A, B, *out, p)))
        before[group].append(float(lora.restoration_error(A, B, *lora.fedavg(A, B, p), p)))
    if not after:
        return {}
    found = {f"restoration_error/{group}": fmean(values) for group, values in after.items()}
    found["restoration_error"] = fmean(v for values in after.values() for v in values)
    found["restoration_error_before"] = fmean(v for values in before.values() for v in values)
    return found


def update_norm(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    """Frobenius norm of the change of all shared tensors."""
    return sqrt(sum(float((after[n].double() - before[n].double()).square().sum()) for n in before))
