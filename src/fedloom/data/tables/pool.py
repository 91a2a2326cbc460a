"""Rows with their splits and media, before and after they are one client's: what table and folder have in common."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.media import Media
from fedloom.data.media.sample_files import FileRules, check_samples
from fedloom.data.partition.shared_media import draw_test
from fedloom.data.sample import Sample
from fedloom.data.tables.samples import media_keys


@dataclass(frozen=True)
class Pool:
    """Numbered rows. All that is kept of a row is its split and the places of its media; `read` gives the samples.

    `declared`: "train", "test" or None for each row. `missing`: the sentence on a row whose file is not there. `client`: the
    row's client, where a column names it. `columns`: the row's values of the columns that a partition deals by. `unusable`: the
    sentence on a row's file and its fault. `notes`: remarks on the data.
    `parts`: the parts of a sample that have a column, such as image and label, in some table. `classes`: the names of the label
    column's classes in their order, where the tables state them and agree.
    """

    declared: Mapping[int, str | None]
    media: Mapping[int, tuple[Media, ...]]
    read: Callable[[Sequence[int]], Sequence[Sample]]
    unusable: Callable[[int, Media, str], str]
    missing: Mapping[int, str] = field(default_factory=dict)
    client: Mapping[int, str] = field(default_factory=dict)
    columns: Mapping[int, Mapping[str, str | int | float]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    parts: frozenset[str] = frozenset()
    classes: tuple[str, ...] = ()


def check_pools(pools: Sequence[Pool], rules: FileRules) -> list[dict[int, str]]:
    """The rows of each pool to leave out, and why. Raises ExperimentError as `check_samples` does."""
    bad = check_samples(
        {(k, number): media for k, pool in enumerate(pools) for number, media in pool.media.items()},
        lambda key, media, fault: pools[key[0]].unusable(key[1], media, fault),
        rules,
        {(k, number): says for k, pool in enumerate(pools) for number, says in pool.missing.items()},
    )
    skipped: list[dict[int, str]] = [{} for _ in pools]
    for (k, number), says in bad.items():
        skipped[k][number] = says
    return skipped


@dataclass(frozen=True)
class Limits:
    """The share of test rows where none are declared, and the most training and test samples of a client."""

    test_share: float = 0.2
    train: int | None = None
    test: int | None = None


def as_client(
    name: str, pool: Pool, numbers: Iterable[int], skipped: Mapping[int, str], limits: Limits, seed: int
) -> ClientData:
    """The client that holds these rows of the pool; see `draw_test` for rows without a split."""
    own = list(numbers)
    kept = [n for n in own if n not in skipped]
    declared = {n: pool.declared[n] for n in kept}
    test = {n for n, part in declared.items() if part == "test"}
    if None in declared.values():
        test |= draw_test(
            declared, media_keys({n: pool.media[n] for n in kept}), limits.test_share, seed, name
        )
    parts = {
        part: _few([n for n in kept if (n in test) == (part == "test")], most, seed, name, part)
        for part, most in (("train", limits.train), ("test", limits.test))
    }
    return ClientData(
        name=name,
        train=pool.read(parts["train"]),
        test=pool.read(parts["test"]),
        skipped=tuple(skipped[n] for n in own if n in skipped),
    )


def _few(numbers: list[int], most: int | None, seed: int, client: str, part: str) -> list[int]:
    """At most so many, drawn with the seed, in order."""
    if most is None or len(numbers) <= most:
        return numbers
    order = numpy_stream(seed, "table", "few", client, part).permutation(len(numbers))[:most]
    return [numbers[i] for i in sorted(order.tolist())]
