"""Partitions of captioned pictures: four scenarios of federated pre-training, as pure functions of labels and a seed.

    iid      uniform at random
    topic    a Dirichlet draw over topics for each client
    source   one source of captions (a writer, a style, a data set) for each group of clients
    quality  uniform, and a share of the clients hold shuffled captions

The scenarios are ours: those of the Fed-MA paper are not public (docs/methods/fedma.md).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import numpy_stream, stream_seed

Scenario = Literal["iid", "topic", "source", "quality"]


class Captions(BaseModel):
    """The scenario, and what it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: Scenario = Field("iid", description="iid | topic | source | quality")
    dirichlet: Annotated[float, ReadWith(".scenario", ("topic",))] = Field(
        0.5, gt=0, description="topic: parameter of the clients' mixes of topics"
    )
    topics: Annotated[int, ReadWith(".scenario", ("topic",))] = Field(
        50, ge=2, description="topic, own pictures: clusters of the frozen encoder's features"
    )
    quantity: float | None = Field(
        None, gt=0, description="Dirichlet parameter of the clients' sizes; none = equal"
    )
    noisy: Annotated[float, ReadWith(".scenario", ("quality",))] = Field(
        0.3, ge=0, le=1, description="quality: share of the clients with shuffled captions"
    )
    shuffled: Annotated[float, ReadWith(".scenario", ("quality",))] = Field(
        0.5, ge=0, le=1, description="quality: share of their pairs that is shuffled"
    )
    least: int = Field(
        1, ge=1, description="the fewest training samples of a client; with one pass, the rounds"
    )
    question: str = Field("", description="text before the caption; the task has none")


def sizes(total: int, clients: int, alpha: float | None, least: int, seed: int) -> list[int]:
    """The number of samples of each client, summing to `total`: equal up to one, or Dirichlet(alpha) above `least` each.

    Raises ExperimentError where there are fewer than `least` for each.
    """
    if total < clients * least:
        raise ExperimentError(
            f"{total} training samples are too few for {clients} clients with {least} each; raise data.train to {least}"
        )
    if alpha is None:
        return [total // clients + (k < total % clients) for k in range(clients)]
    free = total - clients * least
    shares = numpy_stream(seed, "captions", "sizes").dirichlet([alpha] * clients) * free
    counts = [int(s) for s in shares]
    order = sorted(range(clients), key=lambda k: (counts[k] - shares[k], k))
    for k in order[: free - sum(counts)]:
        counts[k] += 1
    return [least + n for n in counts]


def assign(labels: Sequence[int], wanted: Sequence[int], alpha: float | None, seed: int) -> list[list[int]]:
    """Numbers of the samples of each client, disjoint, `wanted[k]` for client k.

    With `alpha`, client k draws its mix of labels from Dirichlet(alpha) and then, one at a time round the clients, a label by
    that mix among those that are left and a sample of it; without, uniformly at random. Raises ExperimentError where the
    clients want more than there are.
    """
    if sum(wanted) > len(labels):
        raise ExperimentError(
            f"the clients want {sum(wanted)} captioned pictures and there are {len(labels)}; lower data.train or data.test"
        )
    order = numpy_stream(seed, "captions", "order").permutation(len(labels)).tolist()
    if alpha is None:
        ends = np.cumsum([0, *wanted]).tolist()
        return [sorted(order[a:b]) for a, b in pairwise(ends)]
    kinds = sorted(set(labels))
    left: dict[int, list[int]] = {kind: [i for i in order if labels[i] == kind] for kind in kinds}
    streams = [numpy_stream(seed, "captions", "mix", k) for k in range(len(wanted))]
    mixes = [stream.dirichlet([alpha] * len(kinds)) for stream in streams]
    parts: list[list[int]] = [[] for _ in wanted]
    for turn in range(max(wanted)):
        for k, size in enumerate(wanted):
            if turn < size:
                held = np.array([bool(left[kind]) for kind in kinds])
                odds = np.where(held, mixes[k] + 1e-12, 0.0)
                kind = kinds[int(streams[k].choice(len(kinds), p=odds / odds.sum()))]
                parts[k].append(left[kind].pop())
    return [sorted(part) for part in parts]


def by_source(labels: Sequence[int], wanted: Sequence[int], seed: int) -> list[list[int]]:
    """Numbers of the samples of each client; client k's are all of source k modulo the number of sources.

    Raises ExperimentError where a source has fewer than its clients want.
    """
    kinds = sorted(set(labels))
    order = numpy_stream(seed, "captions", "order").permutation(len(labels)).tolist()
    left = {kind: [i for i in order if labels[i] == kind] for kind in kinds}
    parts = []
    for k, size in enumerate(wanted):
        own = left[kinds[k % len(kinds)]]
        if len(own) < size:
            raise ExperimentError(
                f"source {k % len(kinds) + 1} of {len(kinds)} has too few captioned pictures for its clients; "
                "lower data.train or data.test"
            )
        parts.append(sorted(own[:size]))
        del own[:size]
    return parts


def noisy_clients(clients: int, share: float, seed: int) -> list[int]:
    """The clients with shuffled captions: round(share K) of them, drawn from the seed."""
    drawn = numpy_stream(seed, "captions", "noisy").permutation(clients)[: round(share * clients)]
    return sorted(int(k) for k in drawn)


def shuffled(count: int, share: float, seed: int, client: int) -> list[int]:
    """For each of a client's samples, whose caption it gets: itself, or for about `share` of them another one's.

    The chosen ones hand their captions round in a circle, so that none keeps its own; fewer than two are left alone.
    """
    stream = numpy_stream(seed, "captions", "shuffle", client)
    chosen = [int(i) for i in stream.permutation(count)[: round(share * count)]]
    order = list(range(count))
    if len(chosen) > 1:
        for a, b in zip(chosen, [*chosen[1:], chosen[0]], strict=True):
            order[a] = b
    return order


def clusters(features: Any, count: int, seed: int) -> list[int]:
    """Topics: k-means on features (N, d), at most `count` of them."""
    from sklearn.cluster import KMeans

    state = stream_seed(seed, "captions", "k-means") % 2**32
    topics = KMeans(min(count, len(features)), n_init=1, random_state=state).fit_predict(features)
    return [int(c) for c in topics]
