"""Label skew: Dirichlet shares of every class over clients with a cap, and pachinko allocation (coarse to fine classes).

Pure functions of labels, sizes and one seed; one generator serves a whole partition, retries included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream

TRIES = 20_000
"""Largest number of draws of one partition."""


@dataclass(frozen=True)
class Share:
    """One client's examples: ascending indices into the training and the test labels."""

    train: tuple[int, ...]
    test: tuple[int, ...]


def label_skew(
    train: Sequence[int],
    test: Sequence[int],
    clients: int,
    beta: float,
    seed: int,
    *,
    least: int = 10,
    tries: int = TRIES,
    stream: str = "labeldir",
) -> list[Share]:
    """Split every class by a draw of Dirichlet(beta, ..., beta) over the clients; disjoint and exhaustive.

    A client with len(train) / clients training examples or more gets a zero share of further classes, and the other shares are
    renormalised. Training and test examples are cut at the same cumulative shares, so that a client is tested on its training
    mix. Repeats the draw until every client has `least` examples of either part.

    Args:
        train: labels of the training examples.
        test: labels of the test examples.
        clients: number of clients.
        beta: the Dirichlet parameter; the smaller, the fewer classes a client holds.
        seed: of the run.
        least: examples of either part that every client needs.
        tries: largest number of draws.
        stream: name of the partition, such as a domain: partitions of one run are independent.

    Raises:
        ExperimentError: no draw of `tries` gave every client enough.

    """
    rng = numpy_stream(seed, "partition", stream, clients)
    if clients * least <= min(len(train), len(test)):
        split = skewed((train, test), clients, beta, (least, least), rng, tries)
        if split is not None:
            return [Share(tuple(a), tuple(b)) for a, b in split]
    raise ExperimentError(
        f"data.partition: no draw in {tries} gave each of {clients} clients {least} training and {least} test examples of "
        f"{len(train)} and {len(test)} with beta {beta:g}; name fewer clients, or lower data.partition.least"
    )


def skewed(
    labels: Sequence[Sequence[int]],
    clients: int,
    beta: float,
    least: Sequence[int],
    rng: np.random.Generator,
    tries: int = TRIES,
) -> list[list[list[int]]] | None:
    """Each client's ascending places in each part, such as training and test; None if `tries` draws give too few.

    `labels` and `least` (the fewest places of a client) are by part; the cap of `label_skew` is that of the first part.
    """
    parts = [np.asarray(part, dtype=np.int64) for part in labels]
    classes = np.unique(np.concatenate(parts))
    sizes = np.array([[(part == label).sum() for part in parts] for label in classes])
    for _ in range(tries):
        if (cuts := draw_cuts(sizes, clients, beta, least, rng)) is not None:
            return _dealt(parts, classes, cuts, clients, rng)
    return None


def draw_cuts(
    sizes: NDArray[np.int64], clients: int, beta: float, least: int | Sequence[int], rng: np.random.Generator
) -> NDArray[np.int64] | None:
    """The ends of the clients' pieces of each class, (classes, parts, clients), as in training and in test examples.

    One draw of `label_skew` for classes of `sizes` (classes, parts); None if a client gets fewer than `least` of a part.
    """
    cap = sizes[:, 0].sum() / clients
    held = np.zeros((sizes.shape[1], clients), np.int64)
    cuts = np.empty((*sizes.shape, clients), np.int64)
    for number, size in enumerate(sizes):
        shares = rng.dirichlet(np.full(clients, beta)) * (held[0] < cap)
        if not shares.sum() > 0:  # a small beta can put all of a class on clients that are full
            return None
        ends = np.cumsum(shares / shares.sum())
        cuts[number] = np.rint(ends * size[:, None]).astype(np.int64)
        cuts[number, :, -1] = size
        held += np.diff(cuts[number], prepend=0)
    return cuts if np.all(held.min(axis=1) >= least) else None


def _dealt(
    parts: Sequence[NDArray[np.int64]],
    classes: NDArray[np.int64],
    cuts: NDArray[np.int64],
    clients: int,
    rng: np.random.Generator,
) -> list[list[list[int]]]:
    """The clients' examples of each part by the cuts, each class in random order."""
    places: list[list[list[int]]] = [[[] for _ in parts] for _ in range(clients)]
    for label, cut in zip(classes, cuts, strict=True):
        for part, (labels, ends) in enumerate(zip(parts, cut, strict=True)):
            order = rng.permutation(np.flatnonzero(labels == label))
            for client, piece in enumerate(np.split(order, ends[:-1])):
                places[client][part] += piece.tolist()
    return [[sorted(part) for part in own] for own in places]


def pachinko(
    labels: Sequence[int],
    coarse: Sequence[int],
    train: int,
    clients: int,
    beta: float,
    seed: int,
    *,
    each: int | None = None,
    fine_beta: float = 10.0,
) -> list[Share]:
    """Draw from a pool without replacement: for every example a coarse class, then one of its fine classes (CIFAR-100).

    A client's coarse shares are Dirichlet(beta), its fine shares within each coarse class Dirichlet(fine_beta); exhausted
    classes are dropped and the remaining shares renormalised.

    Args:
        labels: fine labels of the pool, training examples first.
        coarse: the coarse class of each fine class.
        train: number of training examples in the pool; test indices count from 0 again.
        clients: number of clients.
        beta: the Dirichlet parameter over coarse classes.
        seed: of the run.
        each: examples per client; None divides the whole pool evenly.
        fine_beta: the Dirichlet parameter over the fine classes of one coarse class.

    Raises:
        ExperimentError: the clients need more than the pool holds, or one of them gets no training or no test example.

    """
    rng = numpy_stream(seed, "partition", "pachinko", clients)
    each = len(labels) // clients if each is None else each
    if each < 1 or each * clients > len(labels):
        raise ExperimentError(
            f"data.partition: {clients} clients of {max(each, 1)} examples need more than the {len(labels)} there are; "
            "name fewer clients"
        )
    fine = np.asarray(coarse, dtype=np.int64)
    pool = np.asarray(labels, dtype=np.int64)
    stacks = [rng.permutation(np.flatnonzero(pool == label)).tolist() for label in range(len(fine))]
    left = np.array([len(stack) for stack in stacks])
    children = [np.flatnonzero(fine == c) for c in range(int(fine.max()) + 1)]
    partition = []
    for _ in range(clients):
        tops = rng.dirichlet(np.full(len(children), beta))
        leaves = [rng.dirichlet(np.full(len(c), fine_beta)) for c in children]
        places = []
        for _ in range(each):
            open_ = np.array([left[c].sum() > 0 for c in children])
            top = _pick(tops, open_, rng)
            label = int(children[top][_pick(leaves[top], left[children[top]] > 0, rng)])
            places.append(stacks[label].pop())
            left[label] -= 1
        partition.append(
            Share(
                tuple(sorted(i for i in places if i < train)),
                tuple(sorted(i - train for i in places if i >= train)),
            )
        )
    if any(not share.train or not share.test for share in partition):
        raise ExperimentError(
            f"data.partition: with {each} examples each a client has no training or no test example; name fewer clients"
        )
    return partition


def _pick(shares: NDArray[np.float64], available: NDArray[np.bool_], rng: np.random.Generator) -> int:
    """A random index by the shares of the available entries; uniform if these vanish."""
    weights = shares * available
    if not weights.sum() > 0:
        weights = available.astype(np.float64)
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
