"""Deals by label, or by the values of a column: Dirichlet shares of every value, or a few shots of values of one's own."""

from collections.abc import Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.partition.dirichlet import skewed
from fedloom.data.partition.few_shot import class_shares, draw_shots
from fedloom.data.partition.rows import Dealt, Rows, Value, numbered
from fedloom.data.partition.settings import Dirichlet, RowFewShot

TRIES = 2_000
"""Largest number of draws of one partition."""


def by_dirichlet(rows: Rows, settings: Dirichlet, clients: int, seed: int) -> Dealt:
    """Every value is split by a draw of Dirichlet(beta) over the clients, as in `label_skew`; shared files stay together."""
    label_of = _numbers(rows.values(settings.over, settings.kind))
    units = [rows.units(part) for part in ("train", "test")]
    if not units[1]:
        del units[1]
    labels = [[label_of[unit[0]] for unit in part] for part in units]
    least = (settings.least, min(1, len(labels[-1]) // clients))[: len(units)]
    rng = numpy_stream(seed, "partition", "rows", clients)
    if clients * settings.least <= len(labels[0]) and (
        split := skewed(labels, clients, settings.beta, least, rng, TRIES)
    ):
        own = [
            sorted(i for part, places in zip(units, client, strict=True) for k in places for i in part[k])
            for client in split
        ]
        return Dealt(dict(zip(numbered("client", clients), own, strict=True)))
    raise ExperimentError(
        f"data.partition: no draw in {TRIES} gave each of {clients} clients {settings.least} of the {len(labels[0])} unrelated "
        f"training samples with beta {settings.beta:g}; name fewer clients, raise beta, or lower data.partition.least."
    )


def by_few_shots(rows: Rows, settings: RowFewShot, clients: int, seed: int) -> Dealt:
    """Values of its own for each client, `shots` unrelated training samples of each, and all test samples of them.

    Without declared test samples, those that are not drawn are tested, one of each value or more.
    """
    label_of = _numbers(rows.values(settings.over, settings.kind))
    shares = class_shares(max(label_of) + 1, clients, settings.class_shuffle_seed, balanced=settings.balanced)
    owner = {label: client for client, share in enumerate(shares) for label in share}
    train, test = rows.units("train"), rows.units("test")
    free = [k for k, unit in enumerate(train) if all(rows.declared[i] is None for i in unit)]
    parts: dict[int, str] = {}
    shots = draw_shots([label_of[unit[0]] for unit in train], settings.shots, seed)
    of_label: dict[int, int] = {}
    for unit in train:
        of_label[label_of[unit[0]]] = of_label.get(label_of[unit[0]], 0) + 1
    for label, drawn in shots.items():
        if not test and free and 1 < len(drawn) == of_label[label]:
            drawn = drawn[:-1]
        parts |= {i: "train" for k in drawn for i in train[k]}
    if not test:
        parts |= {i: "test" for k in free for i in train[k] if i not in parts}
    parts |= {i: "test" for unit in test for i in unit}
    dealt: list[list[int]] = [[] for _ in range(clients)]
    for unit in (*train, *test):
        dealt[owner[label_of[unit[0]]]] += [i for i in unit if i in parts]
    left = len(rows) - len(parts)
    notes = (f"{left} samples are left out: data.partition.shots trains on {settings.shots} of each value",)
    names = numbered("client", clients)
    return Dealt(dict(zip(names, map(sorted, dealt), strict=True)), parts, notes if left else ())


def _numbers(values: Sequence[Value]) -> list[int]:
    """The values as numbers 0, 1, ... in their order, numbers before texts."""
    number = {v: n for n, v in enumerate(sorted(set(values), key=lambda v: (isinstance(v, str), v)))}
    return [number[v] for v in values]
