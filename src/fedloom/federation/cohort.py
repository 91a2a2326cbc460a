"""The clients of a round: drawn, or in turns."""

from collections.abc import Sequence

import torch

from fedloom.core.shares import at_least
from fedloom.core.streams import torch_stream
from fedloom.federation.settings import RunSettings
from fedloom.privacy.differential.participation import in_turn


def cohort_of(experiment: RunSettings, names: Sequence[str], number: int) -> list[str]:
    """The clients of round `number` among the sorted `names`: a seeded draw of a fixed size.

    With differential privacy each client is drawn by itself (Poisson sampling), or takes part in turns, as the mechanism asks.
    """
    settings, dp = experiment.cohort, experiment.privacy.dp
    if dp is not None and dp.in_turns:
        return in_turn(names, experiment.seed, settings.fraction, number)
    stream = torch_stream(experiment.seed, "cohort", number)
    if dp is not None:
        coins = torch.rand(len(names), generator=stream, dtype=torch.float64).tolist()
        return [name for name, coin in zip(names, coins, strict=True) if coin < settings.fraction]
    share = 1.0 if number == 1 and settings.full_first_round else settings.fraction
    size = max(1, at_least(share, len(names)))
    chosen = torch.randperm(len(names), generator=stream)[:size]
    return sorted(names[i] for i in chosen.tolist())
