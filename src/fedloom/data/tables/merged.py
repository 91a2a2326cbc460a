"""The rows of several clients as one pool, so that they may be dealt anew."""

from collections.abc import Mapping
from dataclasses import replace

from fedloom.data.sample import Sample
from fedloom.data.tables.pool import Pool
from fedloom.data.tables.samples import LazySamples


def merged(pools: Mapping[str, Pool]) -> Pool:
    """All clients' rows, numbered throughout; a row's client is the one it comes from, and stands in its sample's id."""
    place = [(name, number) for name, pool in pools.items() for number in pool.declared]
    classes = {pool.classes for pool in pools.values()}
    number_of = {key: n for n, key in enumerate(place)}

    def sample(n: int) -> Sample:
        name, number = place[n]
        (found,) = pools[name].read([number])
        return found if found.uid.startswith(f"{name}/") else replace(found, uid=f"{name}/{found.uid}")

    return Pool(
        declared={n: pools[name].declared[number] for n, (name, number) in enumerate(place)},
        media={number_of[k, n]: media for k, pool in pools.items() for n, media in pool.media.items()},
        read=lambda numbers: LazySamples(sample, numbers),
        unusable=lambda n, media, fault: pools[place[n][0]].unusable(place[n][1], media, fault),
        missing={number_of[k, n]: says for k, pool in pools.items() for n, says in pool.missing.items()},
        client={n: name for n, (name, _) in enumerate(place)},
        columns={number_of[k, n]: cells for k, pool in pools.items() for n, cells in pool.columns.items()},
        notes=tuple(dict.fromkeys(note for pool in pools.values() for note in pool.notes)),
        parts=frozenset(part for pool in pools.values() for part in pool.parts),
        classes=next(iter(classes)) if len(classes) == 1 else (),
    )
