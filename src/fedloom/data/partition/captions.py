"""Partitions of captioned pictures: four scenarios of federated pre-training, as pure functions of labels and a seed.

    iid      uniform at random
    topic    a Dirichlet draw over topics for each client
    source   one source of captions (a writer, a style, a data set) for each group of clients
    quality  uniform, and a share of the clients hold shuffled captions

The scenarios are ours: those of the Fed-MA paper are not public (docs/methods/fedma.md). `data.partition` takes their place.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fedloom.core.errors import ExperimentError
from fedloom.core.settings_tree import ReadWith
from fedloom.core.streams import numpy_stream, stream_seed
from fedloom.data.partition.shared_media import cut, together

Scenario = Literal["iid", "topic", "source", "quality"]


class Captions(BaseModel):
    """The scenario and its parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: Annotated[Scenario, ReadWith("data.partition", (None,))] = Field(
        "iid", description="iid | topic | source | quality"
    )
    dirichlet: Annotated[float, ReadWith(".scenario", ("topic",))] = Field(
        0.5, gt=0, description="topic: parameter of the clients' mixes of topics"
    )
    topics: Annotated[int, ReadWith(".scenario", ("topic",))] = Field(
        50, ge=2, description="topic, own pictures: clusters of the frozen encoder's features"
    )
    quantity: Annotated[float | None, ReadWith("data.partition", (None,))] = Field(
        None, gt=0, description="Dirichlet parameter of the clients' sizes; none = equal"
    )
    noisy: Annotated[float, ReadWith(".scenario", ("quality",))] = Field(
        0.3, ge=0, le=1, description="quality: share of the clients with shuffled captions"
    )
    shuffled: Annotated[float, ReadWith(".scenario", ("quality",))] = Field(
        0.5, ge=0, le=1, description="quality: share of their pairs that is shuffled"
    )
    least: Annotated[int, ReadWith("data.partition", (None,))] = Field(
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


def assign(
    labels: Sequence[int],
    wanted: Sequence[int],
    alpha: float | None,
    seed: int,
    group_of: Sequence[int] | None = None,
) -> list[list[int]]:
    """Numbers of the samples of each client, disjoint, `wanted[k]` for client k.

    With `alpha`, client k draws its mix of labels from Dirichlet(alpha) and then, one at a time round the clients, a label by
    that mix among those that are left and a sample of it; without, uniformly at random. Samples of one group, such as captions
    of one picture, go to one client; a group's label is its first sample's, and what the client has no room for is left out.
    Raises ExperimentError where the clients want more than there are.
    """
    if sum(wanted) > len(labels):
        raise ExperimentError(
            f"the clients want {sum(wanted)} captioned pictures and there are {len(labels)}; lower data.train or data.test"
        )
    order = numpy_stream(seed, "captions", "order").permutation(len(labels)).tolist()
    grouped = together(order, range(len(labels)) if group_of is None else group_of)
    if alpha is None:
        return [sorted(part) for part in _filled(cut(grouped, wanted), wanted)]
    kinds = sorted(set(labels))
    left = {kind: [group for group in grouped if labels[group[0]] == kind] for kind in kinds}
    streams = [numpy_stream(seed, "captions", "mix", k) for k in range(len(wanted))]
    mixes = [stream.dirichlet([alpha] * len(kinds)) for stream in streams]
    parts: list[list[int]] = [[] for _ in wanted]
    for turn in range(max(wanted)):
        for k, size in enumerate(wanted):
            if len(parts[k]) == turn < size and any(left.values()):
                held = np.array([bool(left[kind]) for kind in kinds])
                odds = np.where(held, mixes[k] + 1e-12, 0.0)
                kind = kinds[int(streams[k].choice(len(kinds), p=odds / odds.sum()))]
                parts[k] += left[kind].pop()[: size - turn]
    return [sorted(part) for part in _filled(parts, wanted)]


def _filled(parts: list[list[int]], wanted: Sequence[int]) -> list[list[int]]:
    """The parts. Raises ExperimentError for one that is too small, which happens only if samples share pictures."""
    if any(len(part) < size for part, size in zip(parts, wanted, strict=True)):
        raise ExperimentError(
            f"the clients want {sum(wanted)} captioned pictures, and too few are left if all captions of a picture go to one "
            "client; lower data.train or data.test"
        )
    return parts


def by_source(
    labels: Sequence[int], wanted: Sequence[int], seed: int, group_of: Sequence[int] | None = None
) -> list[list[int]]:
    """Numbers of the samples of each client; client k's are all of source k modulo the number of sources.

    A group, such as captions of one picture, goes to one client, which gets its own source's samples of it. Raises
    ExperimentError where a source has fewer than its clients want.
    """
    kinds = sorted(set(labels))
    order = numpy_stream(seed, "captions", "order").permutation(len(labels)).tolist()
    grouped = together(order, range(len(labels)) if group_of is None else group_of)
    parts = []
    for k, size in enumerate(wanted):
        kind = kinds[k % len(kinds)]
        own = [[i for i in group if labels[i] == kind] for group in grouped]
        (part,) = cut(own, [size])
        if len(part) < size:
            raise ExperimentError(
                f"source {k % len(kinds) + 1} of {len(kinds)} has too few captioned pictures for its clients; "
                "lower data.train or data.test"
            )
        parts.append(sorted(part))
        taken = set(part)
        grouped = [group for group in grouped if taken.isdisjoint(group)]
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
