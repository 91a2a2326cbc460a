"""The clients of a table: one for each name in its column of clients, or as many as asked, dealt at random."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData, Holding
from fedloom.data.partition.iid import iid
from fedloom.data.partition.shared_media import groups
from fedloom.data.sample import MODALITIES
from fedloom.data.tables.pool import Limits, Pool, as_client
from fedloom.data.tables.samples import media_keys

Clients = int | Mapping[Holding, int] | None


def clients_of(
    pool: Pool, skipped: Mapping[int, str], clients: Clients, limits: Limits, seed: int
) -> list[ClientData]:
    """The clients in name order; the notes on the data stand with the first.

    Args:
        pool: the checked rows.
        skipped: rows to leave out, and why.
        clients: how many to deal the rows to; None gives every row to the client that its column names.
        limits: share of test samples, and the most samples of a client.
        seed: the run's seed.

    Raises:
        ExperimentError: neither a column nor a number of clients, or more clients than there are unrelated rows.

    """
    notes = list(pool.notes)
    if clients is None:
        dealt = _by_name(pool)
    else:
        kept = [n for n in pool.declared if n not in skipped]
        dealt = _at_random(pool, kept, clients, seed, notes)
    listed = [as_client(name, pool, own, skipped, limits, seed) for name, own in sorted(dealt.items())]
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
    dealt: dict[str, list[int]] = {}
    for number in pool.declared:
        if number not in pool.client:
            raise ExperimentError(
                "data.path: the rows do not say which client holds them; name their column, as in data.columns: {client: ...}, "
                "or deal them to N clients with data.clients: N."
            )
        dealt.setdefault(pool.client[number], []).append(number)
    return dealt


def _at_random(
    pool: Pool, kept: Sequence[int], clients: int | Mapping[Holding, int], seed: int, notes: list[str]
) -> dict[str, list[int]]:
    """IID, by what a row holds if `clients` counts clients by it."""
    if isinstance(clients, int):
        return _dealt(pool, kept, "client", clients, seed)
    by_holding: dict[str, list[int]] = {}
    for number in kept:
        by_holding.setdefault(_holding(pool, number), []).append(number)
    dealt: dict[str, list[int]] = {}
    for holding, count in clients.items():
        own = by_holding.pop(holding, [])
        if count and not own:
            has = ", ".join(sorted({_holding(pool, n) for n in kept}))
            raise ExperimentError(
                f"data.clients asks for clients that hold {holding}, and the rows hold {has}."
            )
        dealt |= _dealt(pool, own, holding, count, seed) if count else {}
    notes += [
        f"{len(own)} rows that hold {holding} are left out: data.clients names no clients for them"
        for holding, own in sorted(by_holding.items())
    ]
    return dealt


def _holding(pool: Pool, number: int) -> str:
    """The holding of a row: image, audio, both or text; other modalities by their names."""
    held = {media.modality for media in pool.media[number]}
    listed = [m for m in MODALITIES if m in held]
    return "both" if listed == ["image", "audio"] else " and ".join(listed) or "text"


def _dealt(pool: Pool, numbers: Sequence[int], stem: str, clients: int, seed: int) -> dict[str, list[int]]:
    """Rows by client; declared test rows are dealt apart, so that every client has its share of them."""
    keys = media_keys({n: pool.media[n] for n in numbers})
    shares: list[list[int]] = [[] for _ in range(clients)]
    for part in ("train", "test"):
        own = [n for n in numbers if (pool.declared[n] == "test") == (part == "test")]
        group_of = groups([keys[n] for n in own])
        if part == "train" and len(set(group_of)) < clients:
            raise ExperimentError(
                f"data.clients: {len(set(group_of))} training rows of different {stem} files or texts are too few for {clients} "
                "clients."
            )
        for share, places in zip(shares, iid(group_of, clients, seed, "table", stem, part), strict=True):
            share += [own[i] for i in places]
    width = max(2, len(str(clients)))
    return {f"{stem}-{k:0{width}d}": sorted(share) for k, share in enumerate(shares, 1)}
