"""Clients that hold labelled samples of one modality each, from one pool of pictures, with a skew of labels."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream, stream_seed
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.dirichlet import Share, label_skew
from fedloom.data.partition.pool_parts import Parts
from fedloom.data.partition.shared_media import cut, together
from fedloom.data.sample import Sample
from fedloom.data.sources.pool import Pool

HOLDINGS: tuple[Holding, ...] = ("image", "text", "audio")
"""Modalities of a client, which holds exactly one; see `labelled_partition` for the order."""
ALIKE = 1e6
"""A Dirichlet parameter large enough for equal mixes at all clients."""
LEAST = 8
"""Minimum samples per client, in the training and in the test part (specification fedmmkt 6)."""


def labelled_clients(
    pool: Pool, clients: Mapping[str, int], train: int, test: int, alpha: float | None, seed: int
) -> list[ClientData]:
    """Clients image-01, ..., text-01, ..., audio-01, ..., ordered by name.

    Args:
        pool: the pictures to distribute.
        clients: number of clients per modality.
        train: training samples per client of a modality, on average.
        test: test samples per client of a modality, on average.
        alpha: Dirichlet parameter of the label mixes, drawn for each modality; None gives all clients the pool's mix.
        seed: the run's seed.

    Raises:
        ExperimentError: the pool is too small, or no draw gives every client enough.

    """
    clients_data = []
    for modality, (training, tested) in drawn(pool, clients, train, test, seed).items():
        count = clients[modality]
        part, first_test = [*training, *tested], len(training)
        labels = [pool.labels[i] for i in part]
        if count == 1:  # no draw: the single client holds the whole part
            shares = [Share(tuple(range(first_test)), tuple(range(test)))]
        else:
            shares = label_skew(
                labels[:first_test],
                labels[first_test:],
                count,
                ALIKE if alpha is None else alpha,
                seed,
                least=min(LEAST, train, test),
                stream=f"labelled {modality}",
            )
        for number, share in enumerate(shares, 1):
            own_training, own_test = (
                [sample_of(pool, part[at + i], modality, seed, number) for i in places]
                for at, places in ((0, share.train), (first_test, share.test))
            )
            clients_data.append(ClientData(f"{modality}-{number:02d}", own_training, own_test))
    first, *others = sorted(clients_data, key=lambda c: c.name)
    return [replace(first, skipped=pool.skipped), *others]


def groups_of(pool: Pool) -> Sequence[int]:
    """A number for each picture's content."""
    return range(len(pool.labels)) if pool.picture_of is None else pool.picture_of


def drawn(pool: Pool, clients: Mapping[str, int], train: int, test: int, seed: int) -> dict[str, Parts]:
    """Places in the pool of each modality's training and test samples. Raises ExperimentError for a pool that is too small."""
    if wrong := [h for h, n in clients.items() if n and h not in HOLDINGS]:
        raise ExperimentError(
            f"the source labelled has no clients that hold {wrong[0]}; set data.clients to {{image: N, text: N, audio: N}}"
        )
    required = (train + test) * sum(clients.values())
    if required > len(pool.labels):
        raise ExperimentError(
            f"data: {sum(clients.values())} clients of {train} + {test} samples need {required} pictures, and there are "
            f"{len(pool.labels)}; lower data.train, data.test or data.clients"
        )
    order = numpy_stream(seed, "labelled").permutation(len(pool.labels)).tolist()
    grouped = together(order, groups_of(pool))
    sizes = [size * clients.get(modality, 0) for modality in HOLDINGS for size in (train, test)]
    parts = cut(grouped, sizes)  # a picture with several texts stays in one modality and part
    if [len(part) for part in parts] != sizes:
        raise ExperimentError(
            f"data: {required} samples are too many if all texts of a picture stay in one part; lower data.train, data.test "
            "or data.clients"
        )
    named = zip(HOLDINGS, parts[::2], parts[1::2], strict=True)
    return {modality: (training, tested) for modality, training, tested in named if clients.get(modality)}


def sample_of(pool: Pool, index: int, modality: str, seed: int, writer: int) -> Sample:
    """A picture of the pool as a sample of `modality`; `writer` selects the vocabulary of a description."""
    label = pool.labels[index]
    meta = {"labels": pool.names, "label": label}
    uid, answer = f"{modality}-{index:06d}", pool.names[label]
    if modality == "image":
        return Sample(uid, pool.inputs(index), "", answer, meta)
    if modality == "audio":
        from fedloom.data.digits import sonify

        return Sample(uid, {"audio": sonify(pool.pictures[index])}, "", answer, meta)
    if pool.texts is not None:
        text = pool.texts[index]
    else:
        from fedloom.data.digits import WORDINGS, describe

        private = 1 + (writer - 1) % (len(WORDINGS) - 1)
        text = describe(pool.pictures[index], stream_seed(seed, "describe", index), wording=private)
    from fedloom.data.digits import mask_names

    return Sample(uid, {}, mask_names(text, pool.names)[0], answer, meta)
