"""IID dealing: whole groups of samples, in a seeded order, to the client that holds the fewest."""

import heapq
from collections.abc import Sequence

from fedloom.core.streams import numpy_stream
from fedloom.data.partition.shared_media import together


def iid(group_of: Sequence[int], clients: int, seed: int, *stream: str | int) -> list[list[int]]:
    """The places of each client's samples; samples of one group stay together, as those about one picture should.

    Clients differ by at most the largest group. `stream` names the draw.
    """
    order = numpy_stream(seed, "iid", *stream).permutation(len(group_of)).tolist()
    dealt: list[list[int]] = [[] for _ in range(clients)]
    sizes = [(0, client) for client in range(clients)]
    for group in together(order, group_of):
        size, client = heapq.heappop(sizes)
        dealt[client] += group
        heapq.heappush(sizes, (size + len(group), client))
    return dealt
