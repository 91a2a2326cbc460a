"""The clients of rows: dealt as the partition says, in a table, or in the tables and records of a folder's clients."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.partition.deal import Counts, deal, partition_of
from fedloom.data.partition.rows import Dealt, Rows, holding_of
from fedloom.data.partition.settings import Column, Dirichlet, Domain, Folders, RowFewShot, RowPartition
from fedloom.data.partition.shared_media import groups
from fedloom.data.tables.pool import Limits, Pool, as_client
from fedloom.data.tables.samples import media_keys


def column_of(partition: RowPartition | None) -> str | None:
    """The column that a partition deals by; "" for that of the label, None for none."""
    if isinstance(partition, Dirichlet | RowFewShot):
        return partition.over or ""
    return partition.over if isinstance(partition, Domain) else None


def clients_of(
    pool: Pool,
    skipped: Mapping[int, str],
    partition: RowPartition | None,
    clients: Counts,
    limits: Limits,
    seed: int,
) -> list[ClientData]:
    """The clients in name order; the notes on the data stand with the first.

    Args:
        pool: the checked rows.
        skipped: rows to leave out, and why.
        partition: how rows are dealt; see `partition_of` for None.
        clients: how many to deal the rows to; None gives every row to the client that its column or folder names.
        limits: share of test samples, and the most samples of a client.
        seed: the run's seed.

    Raises:
        ExperimentError: neither a column nor a number of clients, or more clients than there are unrelated rows.

    """
    chosen = partition_of(partition, clients)
    if isinstance(chosen, Column | Folders):
        dealt = Dealt(_by_name(pool))
    else:
        kept = [n for n in pool.declared if n not in skipped]
        places = deal(_rows(pool, kept, chosen), chosen, clients, seed)
        own = {name: [kept[i] for i in own] for name, own in places.places.items()}
        dealt = Dealt(own, {kept[i]: part for i, part in places.parts.items()}, places.notes)
    pool = replace(pool, declared={**pool.declared, **dealt.parts})
    listed = [as_client(name, pool, own, skipped, limits, seed) for name, own in sorted(dealt.places.items())]
    notes = [*pool.notes, *dealt.notes]
    for part, most in (("train", limits.train), ("test", limits.test)):
        sizes = sorted(len(getattr(client, part)) for client in listed)
        if most is not None and sizes[0] < most:
            notes.append(
                f"data.{part}: {most} samples a client are more than the rows give; clients have {sizes[0]} to {sizes[-1]}"
            )
    held = {sentence for client in listed for sentence in client.skipped}
    others = [sentence for sentence in skipped.values() if sentence not in held]
    first = replace(listed[0], skipped=(*listed[0].skipped, *others), notes=tuple(notes))
    return [first, *listed[1:]]


def _by_name(pool: Pool) -> dict[str, list[int]]:
    """Rows of unusable files included, since their client is known."""
    dealt: dict[str, list[int]] = {}
    for number in pool.declared:
        if number not in pool.client:
            raise ExperimentError(
                "data.path: the rows do not say which client holds them; name their column, as in data.columns: {client: ...}, "
                "or deal them to N clients with data.clients: N."
            )
        dealt.setdefault(pool.client[number], []).append(number)
    return dealt


def _rows(pool: Pool, kept: Sequence[int], partition: RowPartition) -> Rows:
    """The rows as a partition sees them, by their places in `kept`."""
    keys = media_keys({n: pool.media[n] for n in kept})
    cells = [pool.columns.get(n, {}) for n in kept]
    name = " or ".join(
        sorted({name for own in cells for name in own})
    )  # several tables may name their labels differently
    return Rows(
        declared=[pool.declared[n] for n in kept],
        group_of=groups([keys[n] for n in kept]),
        holding=[holding_of([media.modality for media in pool.media[n]]) for n in kept],
        columns={name: [next(iter(own.values()), "") for own in cells]} if name else {},
        label=name if name and column_of(partition) == "" else None,
        natural=[pool.client[n] for n in kept] if all(n in pool.client for n in kept) else None,
    )
