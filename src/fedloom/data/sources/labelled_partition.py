"""Clients that hold labelled samples of one modality each, from one pool of pictures, by any partition."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import stream_seed
from fedloom.data.client_data import ClientData
from fedloom.data.partition.pool_parts import Parts, dealt_parts, natural_parts
from fedloom.data.partition.rows import Rows, Value
from fedloom.data.partition.settings import Column, Iid, Modality, RowPartition
from fedloom.data.sources.labelled_clients import HOLDINGS, drawn, groups_of, sample_of
from fedloom.data.sources.pool import Pool

LABEL = "label"
"""The column of class names."""


def partitioned_clients(
    pool: Pool, clients: Mapping[str, int], train: int, test: int, partition: RowPartition, seed: int
) -> list[ClientData]:
    """Clients by a partition of each modality's samples, ordered by name: image-01 and so on, image-<value> of a domain.

    The clients of a column are as many as `clients` counts; in the order of their names the first ones hold pictures, the next
    texts, the last sounds. The arguments are those of `labelled_clients`. Raises ExperimentError as `deal` does.
    """
    over = getattr(partition, "over", None)
    listed: list[ClientData] = []
    notes: list[str] = []
    if isinstance(partition, Column):
        values = _values(pool, over or "client")
        parts = natural_parts(values, groups_of(pool), train, test, seed)
        modalities = [m for m in HOLDINGS for _ in range(clients.get(m, 0))]
        if len(parts) != len(modalities):
            raise ExperimentError(
                f"data.clients counts {len(modalities)} clients, and the column {over or 'client'!r} names {len(parts)}; count "
                f"them by what they hold, as in {{image: {len(parts) - 1}, text: 1}}."
            )
        numbers = dict.fromkeys(HOLDINGS, 0)
        for modality, (name, own) in zip(modalities, parts.items(), strict=True):
            numbers[modality] += 1
            listed.append(_client(name, pool, own, modality, seed, numbers[modality], over or "client"))
    else:
        for holding, own in drawn(pool, clients, train, test, seed).items():
            found, says = _dealt(pool, own, partition, clients[holding], holding, seed)
            notes += says
            listed += [
                _client(f"{holding}-{name}", pool, places, holding, seed, number, over)
                for number, (name, places) in enumerate(found.items(), 1)
            ]
    first, *others = sorted(listed, key=lambda c: c.name)
    return [replace(first, skipped=pool.skipped, notes=notes), *others]


def _dealt(
    pool: Pool, drawn: Parts, partition: RowPartition, count: int, modality: str, seed: int
) -> tuple[dict[str, Parts], list[str]]:
    """Places in the pool of each of a modality's clients, by the end of its name, and notes."""
    own = [*drawn[0], *drawn[1]]
    group_of = groups_of(pool)
    rows = Rows(
        declared=["train"] * len(drawn[0]) + ["test"] * len(drawn[1]),
        group_of=[group_of[i] for i in own],
        holding=[modality] * len(own),
        columns={name: [values[i] for i in own] for name, values in _columns(pool).items()},
        label=LABEL,
        stream="labelled",
    )
    # all clients of a modality hold it, so that a partition by modality is one at random
    chosen = Iid() if isinstance(partition, Modality) else partition
    parts, notes = dealt_parts(rows, chosen, count, stream_seed(seed, "labelled", "partition", modality))
    named = {
        name.removeprefix("client-"): ([own[i] for i in train], [own[i] for i in test])
        for name, (train, test) in parts.items()
    }
    return named, [f"{modality}: {note}" for note in notes]


def _client(
    name: str, pool: Pool, own: Parts, modality: str, seed: int, number: int, over: str | None
) -> ClientData:
    """A client with these places of the pool; its samples tell the value of the column that they are dealt by."""
    train, test = ([sample_of(pool, i, modality, seed, number) for i in part] for part in own)
    if over is not None:
        values = _values(pool, over)
        train, test = (
            [
                replace(s, meta={**s.meta, "columns": {over: values[i]}})
                for s, i in zip(samples, part, strict=True)
            ]
            for samples, part in ((train, own[0]), (test, own[1]))
        )
    return ClientData(name, train, test)


def _columns(pool: Pool) -> dict[str, Sequence[Value]]:
    """The label, and what else the data set says of its pictures."""
    return {LABEL: [pool.names[label] for label in pool.labels], **pool.columns}


def _values(pool: Pool, name: str) -> Sequence[Value]:
    """A column. Raises ExperimentError where there is none."""
    columns = _columns(pool)
    if name not in columns:
        raise ExperimentError(
            f"data.partition.over: there is no column {name!r}; known are {', '.join(sorted(columns))}."
        )
    return columns[name]
