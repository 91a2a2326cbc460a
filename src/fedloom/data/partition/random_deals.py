"""Deals that look at no content: at random in equal or unequal parts, by what samples hold, by the values of a column."""

import heapq
from collections.abc import Mapping, Sequence

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import Holding
from fedloom.data.partition.iid import iid
from fedloom.data.partition.label_mix import quotas
from fedloom.data.partition.rows import Dealt, Rows, Value, numbered, spelled
from fedloom.data.partition.settings import Quantity

PARTS = ("train", "test")


def equal(rows: Rows, clients: int, seed: int) -> Dealt:
    """Every client gets as many samples as the others."""
    return Dealt(_equal(rows, range(len(rows)), "client", clients, seed))


def _equal(rows: Rows, among: Sequence[int], stem: str, clients: int, seed: int) -> dict[str, list[int]]:
    """Training and test samples are dealt apart, so that every client has its share of both."""
    shares: list[list[int]] = [[] for _ in range(clients)]
    for part in PARTS:
        units = rows.units(part, among)
        if part == "train" and len(units) < clients:
            raise ExperimentError(
                f"data.clients: {len(units)} training rows of different {stem} files or texts are too few for {clients} "
                "clients."
            )
        own = sorted(i for unit in units for i in unit)
        dealt = iid([rows.group_of[i] for i in own], clients, seed, rows.stream, stem, part)
        for share, places in zip(shares, dealt, strict=True):
            share += [own[i] for i in places]
    return dict(zip(numbered(stem, clients), map(sorted, shares), strict=True))


def by_quantity(rows: Rows, settings: Quantity, clients: int, seed: int) -> Dealt:
    """Clients of sizes that follow a law; a group of shared files goes to the client that lacks most."""
    rng = numpy_stream(seed, "partition", "quantity", clients)
    if settings.law == "dirichlet":
        shares = rng.dirichlet([settings.beta] * clients).tolist()
    else:
        sizes = [k**-settings.exponent for k in range(1, clients + 1)]
        shares = [size / sum(sizes) for size in sizes]
    dealt: list[list[int]] = [[] for _ in range(clients)]
    for part, least in (("train", settings.least), ("test", 1)):
        units = rows.units(part)
        count = sum(map(len, units))
        if part == "train" and len(units) < clients * least:
            raise ExperimentError(
                f"data.partition: {len(units)} unrelated training samples are too few for {clients} clients with {least} each; "
                "name fewer clients, or lower data.partition.least."
            )
        least = min(least, count // clients)
        wanted = [least + more for more in quotas(shares, count - clients * least)]
        for own, more in zip(
            dealt, _filled(units, wanted, rng.permutation(len(units)).tolist()), strict=True
        ):
            own += more
    return Dealt(dict(zip(numbered("client", clients), map(sorted, dealt), strict=True)))


def by_holding(rows: Rows, clients: int | Mapping[Holding, int], seed: int) -> Dealt:
    """Clients whose samples hold the same modalities; `clients` counts them by holding, or in all."""
    held: dict[str, list[int]] = {}
    for place, holding in enumerate(rows.holding):
        held.setdefault(holding, []).append(place)
    counts = _counts(held, clients) if isinstance(clients, int) else {str(h): n for h, n in clients.items()}
    dealt: dict[str, list[int]] = {}
    for holding, count in counts.items():
        own = held.pop(holding, [])
        if count and not own:
            raise ExperimentError(
                f"data.clients asks for clients that hold {holding}, and the rows hold {', '.join(sorted(set(rows.holding)))}."
            )
        dealt |= _equal(rows, own, holding, count, seed) if count else {}
    notes = [
        f"{len(own)} rows that hold {holding} are left out: data.clients names no clients for them"
        for holding, own in sorted(held.items())
    ]
    return Dealt(dealt, notes=tuple(notes))


def _counts(held: Mapping[str, Sequence[int]], clients: int) -> dict[str, int]:
    """One client for each holding, and the others by the number of samples."""
    if clients < len(held):
        raise ExperimentError(
            f"data.clients: {clients} clients are too few for samples that hold {', '.join(sorted(held))}; name {len(held)}, or "
            "count them, as in {image: 2, audio: 1}."
        )
    total = sum(map(len, held.values()))
    further = quotas([len(own) / total for own in held.values()], clients - len(held))
    return {holding: 1 + more for holding, more in zip(held, further, strict=True)}


def by_domain(rows: Rows, values: Sequence[Value], clients: int | None, seed: int) -> Dealt:
    """Clients that hold one value each; a group of shared files goes with its first sample."""
    first = {group[0]: group for part in PARTS for group in rows.units(part)}
    stems = spelled(values)
    each = 1 if clients is None else clients // len(stems)
    if each < 1 or (clients is not None and clients % len(stems)):
        raise ExperimentError(
            f"data.clients: {clients} is no multiple of the {len(stems)} domains; name {len(stems)} clients or a multiple."
        )
    dealt: dict[str, list[int]] = {}
    for value, stem in stems.items():
        own = sorted(i for place, group in first.items() if values[place] == value for i in group)
        dealt |= _equal(rows, own, stem, each, seed) if each > 1 else {stem: own}
    return Dealt(dealt)


def by_name(rows: Rows, names: Sequence[str]) -> Dealt:
    """The natural clients."""
    dealt: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        dealt.setdefault(name, []).append(place)
    return Dealt(dealt)


def _filled(units: Sequence[list[int]], wanted: Sequence[int], order: Sequence[int]) -> list[list[int]]:
    """Units in this order, each to the client that lacks most of what it wants."""
    dealt: list[list[int]] = [[] for _ in wanted]
    lacks = [(-count, client) for client, count in enumerate(wanted)]
    heapq.heapify(lacks)
    for number in order:
        lack, client = heapq.heappop(lacks)
        dealt[client] += units[number]
        heapq.heappush(lacks, (lack + len(units[number]), client))
    return dealt
