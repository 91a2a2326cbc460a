"""Who gets how much of which label: one Dirichlet draw per client, for its training and its test part alike.

A test part with a label mix of its own would measure another client than the one that was trained.
"""

from collections.abc import Mapping, Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream

Mix = tuple[float, ...]
"""A client's share of each label, in the task's order; sums to 1."""


def label_mix(seed: int, number: int, task: str, natural: Sequence[float], alpha: float | None) -> Mix:
    """Client `number`'s label mix: Dirichlet(alpha, ..., alpha), or the task's own, `natural`, where `alpha` is None.

    A draw depends on (seed, number, task, alpha) alone: neither on the other clients nor on the data at hand.
    """
    if alpha is None:
        return tuple(natural)
    draw = numpy_stream(seed, "text", task, "mix", number).dirichlet([alpha] * len(natural))
    return tuple(float(share) for share in draw)


def quotas(mix: Sequence[float], total: int) -> list[int]:
    """`total` examples by label: the mix rounded by largest remainders, the first label first among equals."""
    exact = [share * total for share in mix]
    found = [int(value) for value in exact]
    order = sorted(range(len(mix)), key=lambda i: (found[i] - exact[i], i))
    for i in order[: total - sum(found)]:
        found[i] += 1
    return found


def deal(
    pool: Mapping[int, Sequence[int]], asked: Sequence[Sequence[int]], labels: Sequence[str], part: str
) -> list[list[int]]:
    """Rows of `pool` (label number to row numbers) for each client; no row goes to two clients.

    Args:
        pool: rows by label, in the order in which they are dealt out.
        asked: per client, how many rows of each label.
        labels: the labels' words, for the error.
        part: `data.train` or `data.test`, for the error.

    Returns:
        Per client its rows, ordered by row number so that no batch order follows the labels.

    Raises:
        ExperimentError: the clients together ask for more rows of a label than there are.

    """
    for label, word in enumerate(labels):
        wanted, held = sum(counts[label] for counts in asked), len(pool.get(label, ()))
        if wanted > held:
            raise ExperimentError(
                f"{part}: the {len(asked)} clients' label mixes ask for {wanted} examples of {word!r} and the task "
                f"has {held}; lower {part}, name fewer clients, or raise data.dirichlet"
            )
    dealt: list[list[int]] = []
    used = [0] * len(labels)
    for counts in asked:
        rows: list[int] = []
        for label, count in enumerate(counts):
            rows += pool.get(label, ())[used[label] : used[label] + count]
            used[label] += count
        dealt.append(sorted(rows))
    return dealt
