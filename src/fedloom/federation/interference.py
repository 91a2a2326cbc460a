"""Parameter interference and oscillation, made visible: how clients' changes agree, and how rounds follow each other."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedloom.core.payload import Reply


def agreement(replies: Sequence[Reply], before: Mapping[str, Tensor]) -> dict[str, float]:
    """Cosines between the changes W_k - W of every two clients, over the tensors that both sent and the server had.

    `update/cosine`: their mean (interference where it is low); `update/cosine_min`: the lowest; `update/opposed`: the share of
    pairs below zero. Empty for fewer than two clients. Tensor by tensor: K changes of one tensor are in memory at once.
    """
    held = [reply.payload.tensors for reply in replies]
    k = len(held)
    products, sizes = torch.zeros(k, k, dtype=torch.float64), torch.zeros(k, k, dtype=torch.float64)
    for name in sorted({n for tensors in held for n in tensors if n in before}):
        own = [i for i, tensors in enumerate(held) if name in tensors]
        same = [i for i in own if held[i][name].shape == before[name].shape]
        if len(same) < 2:
            continue
        changes = torch.stack([(held[i][name] - before[name]).flatten() for i in same])
        gram = (changes @ changes.T).double().cpu()
        at = torch.tensor(same)
        products[at[:, None], at] += gram
        squares = gram.diagonal()
        sizes[at[:, None], at] += squares[:, None]  # of client i, over the tensors that it shares with j
    upper = torch.triu_indices(k, k, 1)
    scale = (sizes * sizes.T).sqrt()[upper[0], upper[1]]
    pairs = products[upper[0], upper[1]][scale > 0] / scale[scale > 0]
    if not len(pairs):
        return {}
    return {
        "update/cosine": float(pairs.mean()),
        "update/cosine_min": float(pairs.min()),
        "update/opposed": float((pairs < 0).double().mean()),
    }


def turn(change: Mapping[str, Tensor], last: Mapping[str, Tensor]) -> dict[str, float]:
    """`update/turn`: the cosine between this round's change of the model and the last one's; below zero it went back.

    Over the tensors of both; empty where one of them is zero.
    """
    names = [n for n in sorted(change) if n in last]
    dot = sum(float((change[n].double() * last[n].double()).sum()) for n in names)
    sizes = [sum(float(c[n].double().square().sum()) for n in names) for c in (change, last)]
    return {"update/turn": dot / (sizes[0] * sizes[1]) ** 0.5} if min(sizes, default=0.0) > 0 else {}
