"""The one deal of samples to clients, whatever their task: the partition that the settings name."""

from collections.abc import Mapping

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import Holding
from fedloom.data.partition.label_deals import by_dirichlet, by_few_shots
from fedloom.data.partition.random_deals import by_domain, by_holding, by_name, by_quantity, equal
from fedloom.data.partition.rows import Dealt, Rows
from fedloom.data.partition.settings import (
    Column,
    Dirichlet,
    Domain,
    Folders,
    Iid,
    Modality,
    Quantity,
    RowFewShot,
    RowPartition,
)

Counts = int | Mapping[Holding, int] | None
"""Number of clients, in all or by holding; None where a partition knows it."""


def partition_of(partition: RowPartition | None, clients: Counts) -> RowPartition:
    """The partition; without one, at random, by holding if `clients` counts by it, natural if there is no number.

    Raises ExperimentError where the partition and the number of clients do not fit.
    """
    if partition is None:
        return Column() if clients is None else Iid() if isinstance(clients, int) else Modality()
    natural = isinstance(partition, Column | Folders)
    if natural and clients is not None:
        raise ExperimentError(
            f"data.clients is not read with data.partition of kind {partition.kind}, which has its own clients; leave it out."
        )
    if clients is None and not natural and not isinstance(partition, Domain):
        raise ExperimentError(
            f"data.partition of kind {partition.kind} needs a number of clients, as in data.clients: 5."
        )
    if isinstance(clients, Mapping) and not isinstance(partition, Modality):
        raise ExperimentError(
            f"data.clients counts clients by what they hold, which data.partition of kind {partition.kind} does not read; name "
            "one number, or kind: modality."
        )
    return partition


def deal(rows: Rows, partition: RowPartition, clients: Counts, seed: int) -> Dealt:
    """The clients' samples; a pure function of rows, settings and seed.

    Samples that share a picture or sound go to one client, except where the data name each sample's own. Raises ExperimentError
    for what these rows cannot be dealt by, and for too few of them.
    """
    if isinstance(partition, Column | Folders):
        if rows.natural is None:
            raise ExperimentError(
                f"data.partition: kind {partition.kind} needs samples that name their client; take another kind."
            )
        return by_name(rows, rows.natural)
    if isinstance(partition, Domain):
        over = rows.natural if partition.over is None else rows.values(partition.over, partition.kind)
        if over is None:
            raise ExperimentError(
                "data.partition.over is missing; name the column of domains, as in over: hospital."
            )
        return by_domain(rows, over, clients if isinstance(clients, int) else None, seed)
    if isinstance(partition, Modality):
        return by_holding(rows, clients or 1, seed)
    count = clients if isinstance(clients, int) else 1
    match partition:
        case Iid():
            return equal(rows, count, seed)
        case Quantity():
            return by_quantity(rows, partition, count, seed)
        case Dirichlet():
            return by_dirichlet(rows, partition, count, seed)
        case RowFewShot():
            return by_few_shots(rows, partition, count, seed)
