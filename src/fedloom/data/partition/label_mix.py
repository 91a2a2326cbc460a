"""Label mixes: one Dirichlet draw per client, shared by its training and its test part.

A test part with another mix would not measure the client that was trained.
"""

from collections.abc import Mapping, Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream

Mix = tuple[float, ...]
"""A client's share of each label, in the task's order; sums to 1."""


def label_mix(seed: int, number: int, task: str, natural: Sequence[float], alpha: float | None) -> Mix:
    """Client `number`'s label mix: Dirichlet(alpha, ..., alpha), or the task's own, `natural`, if `alpha` is None.

    Depends on (seed, number, task, alpha) alone, not on other clients or on the data.
    """
    if alpha is None:
        return tuple(natural)
    draw = numpy_stream(seed, "text", task, "mix", number).dirichlet([alpha] * len(natural))
    return tuple(float(share) for share in draw)


def quotas(mix: Sequence[float], total: int) -> list[int]:
    """Numbers of examples per label that sum to `total`: the mix rounded by largest remainders, ties to the first label."""
    exact = [share * total for share in mix]
    counts = [int(value) for value in exact]
    order = sorted(range(len(mix)), key=lambda i: (counts[i] - exact[i], i))
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts


def deal(
    pool: Mapping[int, Sequence[int]], demands: Sequence[Sequence[int]], labels: Sequence[str], part: str
) -> list[list[int]]:
    """Rows of `pool` (label number to row numbers) for each client; no row goes to two clients.

    Args:
        pool: rows by label, in the order of dealing.
        demands: per client, the number of rows of each label.
        labels: the labels' words, for the error.
        part: `data.train` or `data.test`, for the error.

    Returns:
        Per client its rows, ordered by row number so that no batch order follows the labels.

    Raises:
        ExperimentError: the clients together need more rows of a label than there are.

    """
    for label, word in enumerate(labels):
        total, held = sum(counts[label] for counts in demands), len(pool.get(label, ()))
        if total > held:
            raise ExperimentError(
                f"{part}: the {len(demands)} clients' label mixes ask for {total} examples of {word!r} and the task "
                f"has {held}; lower {part}, name fewer clients, or raise data.dirichlet"
            )
    dealt: list[list[int]] = []
    used = [0] * len(labels)
    for counts in demands:
        rows: list[int] = []
        for label, count in enumerate(counts):
            rows += pool.get(label, ())[used[label] : used[label] + count]
            used[label] += count
        dealt.append(sorted(rows))
    return dealt
