"""Few-shot partition: base and novel classes, shots per class, and disjoint base classes per client.

pFedMMA's protocol (arXiv 2507.05394, and CoOp's base-to-novel split): pure functions of labels, sizes and seeds.
"""

import random
from collections.abc import Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream


def base_and_novel(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The class ids 0..count-1 in two halves: the first ceil(count / 2) are base, the rest novel."""
    middle = (count + 1) // 2
    return tuple(range(middle)), tuple(range(middle, count))


def class_order(count: int, shuffle_seed: int = 2023) -> list[int]:
    """The ids 0..count-1 shuffled by `random.Random`: the published order, independent of the run's seed."""
    order = list(range(count))
    random.Random(shuffle_seed).shuffle(order)
    return order


def class_shares(
    count: int, clients: int, shuffle_seed: int = 2023, *, balanced: bool = False
) -> list[tuple[int, ...]]:
    """The classes of each client: consecutive pieces of `class_order`, disjoint and exhaustive.

    With q = round(count / clients), halves to even, client k < clients - 1 gets the positions [k q, (k + 1) q) and the last
    client the rest; with `balanced`, sizes differ by at most one.

    Raises:
        ExperimentError: a client would hold no class.

    """
    order = class_order(count, shuffle_seed)
    if balanced:
        starts = [count * k // clients for k in range(clients)]
    else:
        starts = [min(k * round(count / clients), count) for k in range(clients)]
    shares = [tuple(order[a:b]) for a, b in zip(starts, [*starts[1:], count], strict=True)]
    if not all(shares):
        advice = (
            "name fewer clients" if balanced else "set data.partition.balanced: true, or name fewer clients"
        )
        raise ExperimentError(
            f"data.partition: {count} base classes dealt to {clients} clients leave client "
            f"{next(k for k, share in enumerate(shares, 1) if not share)} without a class; {advice}"
        )
    return shares


def draw_shots(labels: Sequence[int], shots: int, seed: int) -> dict[int, list[int]]:
    """Per class, ascending: the indices of `shots` random examples, seeded by the run; all if it has fewer."""
    of_class: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        of_class.setdefault(label, []).append(place)
    rng = numpy_stream(seed, "partition", "shots", shots)
    return {label: sorted(rng.permutation(of_class[label])[:shots].tolist()) for label in sorted(of_class)}
