"""The private mean of plain replies: the server clips each client's change, sums, and adds noise before any use.

Paper: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018, with the fixed denominator: the
sum is divided by the expected number of holders in a round, q K_g, which is public and depends on no data.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.clipping import Layout, by_group, change, clipped, restored
from fedloom.privacy.differential.quantile import centred

Noise = Callable[[str, Mapping[str, int]], Tensor]
"""The noise of a group's sum, as one vector for its tensors, given by size."""


def private_mean(
    replies: Sequence[Reply],
    reference: Mapping[str, Tensor],
    layout: Layout,
    clip: float,
    noise: Noise,
    expected: Mapping[str, float],
) -> tuple[Reply, float]:
    """One reply: reference + (sum of clipped changes + noise) / expected holders, in every group of the layout.

    Noise is added also where no client answered, so that a group's absence reveals nothing. Numbers of examples and
    losses are left out. Also the sum over the clients of 1/2 for a change no longer than the clip and -1/2 for any other,
    which has no noise yet.
    """
    whole = [change(r.payload.tensors, reference, layout) for r in replies]
    changes = [clipped(c, clip) for c in whole]
    tensors: dict[str, Tensor] = {}
    for group, names in by_group(layout).items():
        total = noise(group, {n: math.prod(layout[n]) for n in names})
        for share in changes:
            if group in share:
                total += share[group]
        tensors |= restored(total / expected[group], names, reference, layout)
    counts = {group: max(1, round(expected[group])) for group in by_group(layout)}
    clients = tuple(r.client for r in replies)
    mean = Reply("sum", Payload(tensors, {"examples": 1}), counts=counts, clients=clients)
    return mean, sum(centred(c, clip) for c in whole)
