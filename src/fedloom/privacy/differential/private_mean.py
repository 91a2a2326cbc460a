"""The private mean of plain replies: the server clips each client's change, sums, and adds noise before any use.

Paper: McMahan et al., "Learning Differentially Private Recurrent Language Models", ICLR 2018, with the fixed denominator: the
sum is divided by the expected number of holders in a round, q K_g, which is public and depends on no data.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedloom.core.payload import Payload, Reply
from fedloom.privacy.clipping import Layout, by_group, change, clipped, restored
from fedloom.privacy.differential.noise import Stream, gaussian, within
from fedloom.privacy.settings import DP


def private_mean(
    replies: Sequence[Reply],
    reference: Mapping[str, Tensor],
    layout: Layout,
    dp: DP,
    expected: Mapping[str, float],
    stream: Stream,
) -> Reply:
    """One reply: reference + (sum of clipped changes + N(0, z^2 C^2)) / expected holders, in every group of the layout.

    Noise is added also where no client answered, so that a group's absence reveals nothing. Numbers of examples and
    losses are left out.
    """
    changes = [clipped(change(r.payload.tensors, reference, layout), dp.clip) for r in replies]
    tensors: dict[str, Tensor] = {}
    for group, names in by_group(layout).items():
        size = sum(torch.Size(layout[n]).numel() for n in names)
        total = gaussian(size, dp.noise_multiplier * dp.clip, within(stream, group))
        for share in changes:
            if group in share:
                total += share[group]
        tensors |= restored(total / expected[group], names, reference, layout)
    counts = {group: max(1, round(expected[group])) for group in by_group(layout)}
    return Reply(
        "sum", Payload(tensors, {"examples": 1}), counts=counts, clients=tuple(r.client for r in replies)
    )
