"""Samples that are in memory as clients' data, dealt anew: any partition for sources that generate their samples."""

from collections.abc import Sequence

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.partition.deal import Counts
from fedloom.data.partition.pool_parts import dealt_parts
from fedloom.data.partition.rows import Rows, Value, holding_of
from fedloom.data.partition.settings import Column, Folders, RowPartition
from fedloom.data.sample import Sample

ANSWER = "answer"
"""The column that is the label of samples without another."""


def redealt(
    clients: Sequence[ClientData], partition: RowPartition, count: Counts, seed: int
) -> list[ClientData]:
    """All samples of these clients, dealt to `count` others; a training sample stays one.

    Columns: client, kind, answer, and every entry of `Sample.meta` that is a text, a number or None for all samples. The label is
    the answer. Raises ExperimentError as `deal` does.
    """
    if isinstance(partition, Column | Folders):
        raise ExperimentError(
            f"data.partition: kind {partition.kind} is for data in files; take iid, dirichlet, quantity, domain, modality or "
            "few-shot."
        )
    pairs = [(c.name, part, s) for c in clients for part in ("train", "test") for s in getattr(c, part)]
    samples = [sample for _, _, sample in pairs]
    rows = Rows(
        declared=[part for _, part, _ in pairs],
        group_of=range(len(pairs)),
        holding=[holding_of(list(sample.modalities)) for sample in samples],
        columns=_columns([name for name, _, _ in pairs], samples),
        label=ANSWER,
        natural=[name for name, _, _ in pairs],
        stream="redealt",
    )
    parts, notes = dealt_parts(rows, partition, count, seed)
    return [
        ClientData(
            name,
            tuple(samples[i] for i in train),
            tuple(samples[i] for i in test),
            notes=notes if number == 0 else (),
        )
        for number, (name, (train, test)) in enumerate(parts.items())
    ]


def _columns(names: Sequence[str], samples: Sequence[Sample]) -> dict[str, Sequence[Value]]:
    columns: dict[str, Sequence[Value]] = {
        "client": names,
        "kind": [s.kind for s in samples],
        ANSWER: [s.answer for s in samples],
    }
    for key in samples[0].meta if samples else ():
        values = [s.meta.get(key) for s in samples]
        if key not in columns and all(v is None or isinstance(v, str | int | float) for v in values):
            columns[key] = ["" if v is None else v for v in values]
    return columns
