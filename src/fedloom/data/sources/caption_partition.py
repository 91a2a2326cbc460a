"""Captioned pictures for federated pre-training, dealt by any partition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.client_data import ClientData
from fedloom.data.partition.pool_parts import Parts, dealt_parts, natural_parts
from fedloom.data.partition.rows import Rows, Value
from fedloom.data.partition.settings import Column, Domain, Folders, RowPartition
from fedloom.data.partition.shared_media import cut, together
from fedloom.data.sample import Sample
from fedloom.data.sources.caption_files import read_captions, unusable
from fedloom.data.sources.file_source import FileRules


@dataclass(frozen=True)
class _Pool:
    """Captioned pictures, a number for each one's content, their columns, and the names of their folders, if any."""

    samples: Sequence[Sample]
    picture_of: Sequence[int]
    columns: Mapping[str, Sequence[Value]]
    folders: Sequence[str] | None = None


def partitioned_captions(
    path: str | None,
    partition: RowPartition,
    question: str,
    clients: int,
    train: int,
    test: int,
    seed: int,
    rules: FileRules,
) -> list[ClientData]:
    """The clients of a partition, in name order: image-01 and so on, or the names of folders and of values.

    Args:
        path: own captioned pictures; None for scenes of the small world.
        partition: the deal; of kind column or folder with its own clients.
        question: the text before each caption.
        clients: number of clients; not read for kind column and folder.
        train: training samples per client on average, or at most for kind column and folder.
        test: test samples per client, likewise.
        seed: the run's seed.
        rules: the check of files.

    Raises:
        ExperimentError: unusable files, too few of them, or what cannot be dealt by this partition.

    """
    over: str | None = getattr(partition, "over", None)
    if isinstance(partition, Column):
        over = over or "client"
    pool = (
        _scenes(clients * (train + test), question, seed)
        if path is None
        else _own(path, question, over, rules)
    )
    by_folder = isinstance(partition, Folders) or (isinstance(partition, Domain) and over is None)
    if by_folder and not _folders_are_named(path, pool, partition):
        raise ExperimentError(
            f"data.partition of kind {partition.kind} needs a data.path with a folder for each source of captions; take another "
            "kind, or name a column, as in {kind: domain, over: style}"
        )
    parts: Mapping[str, Parts]
    notes: tuple[str, ...] = ()
    if isinstance(partition, Column | Folders):
        names = pool.columns[str(over)] if isinstance(partition, Column) else pool.folders or ()
        parts = natural_parts(names, pool.picture_of, train, test, seed)
        skipped = unusable([pool.samples[i] for own in parts.values() for part in own for i in part], rules)
    else:
        drawn = _drawn(pool, clients * train, clients * test, seed)
        skipped = unusable([pool.samples[i] for part in drawn for i in part], rules)
        parts, notes = _dealt(pool, drawn, skipped, partition, clients, seed)
    listed = []
    for name, own in parts.items():
        train_samples, test_samples = (
            [pool.samples[i] for i in part if pool.samples[i].uid not in skipped] for part in own
        )
        listed.append(ClientData(name, train_samples, test_samples))
    return [replace(listed[0], skipped=tuple(skipped.values()), notes=notes), *listed[1:]]


def _folders_are_named(path: str | None, pool: _Pool, partition: RowPartition) -> bool:
    """Whether the samples lie in folders below `path`; one is enough for kind folder, as at a site of a deployment."""
    names = set(pool.folders or ())
    alone = (
        isinstance(partition, Folders) and path is not None and all((Path(path) / n).is_dir() for n in names)
    )
    return len(names) > 1 or (len(names) == 1 and alone)


def _own(path: str, question: str, over: str | None, rules: FileRules) -> _Pool:
    samples, _, picture_of = read_captions(path, question, rules.media, over)
    columns = {} if over is None else {over: [s.meta["columns"][over] for s in samples]}
    return _Pool(samples, picture_of, columns, [s.uid.partition("/")[0] for s in samples])


def _scenes(count: int, question: str, seed: int) -> _Pool:
    """Scenes of the small world, with the columns topic, the pair of shapes in a scene, and style."""
    from fedloom.data.sources.tabletop_captions import FIRST, captioned
    from fedloom.data.tabletop.world import Tabletop

    world = Tabletop(seed)
    samples = []
    for number in range(count):
        shapes = sorted(thing.shape for thing in world.scene("private", FIRST + number).things)
        sample = captioned(world, number, None, question)
        samples.append(replace(sample, meta={**sample.meta, "topic": " and ".join(shapes)}))
    columns = {name: [str(s.meta[name]) for s in samples] for name in ("topic", "style")}
    return _Pool(samples, range(count), columns)


def _drawn(pool: _Pool, train: int, test: int, seed: int) -> Parts:
    """Places of so many training and test samples; all captions of a picture come into one part."""
    order = numpy_stream(seed, "captions", "partition").permutation(len(pool.samples)).tolist()
    training, tested = cut(together(order, pool.picture_of), [train, test])
    if len(training) < train or len(tested) < test:
        raise ExperimentError(
            f"the clients want {train + test} captioned pictures and there are {len(pool.samples)}, all captions of a picture in "
            "one part; lower data.train or data.test"
        )
    return training, tested


def _dealt(
    pool: _Pool, drawn: Parts, skipped: Mapping[str, str], partition: RowPartition, clients: int, seed: int
) -> tuple[Mapping[str, Parts], tuple[str, ...]]:
    """Places in the pool of each client's usable samples, and notes."""
    declared = {i: part for part, places in zip(("train", "test"), drawn, strict=True) for i in places}
    own = [i for i in declared if pool.samples[i].uid not in skipped]
    rows = Rows(
        declared=[declared[i] for i in own],
        group_of=[pool.picture_of[i] for i in own],
        holding=["image"] * len(own),
        columns={name: [values[i] for i in own] for name, values in pool.columns.items()},
        natural=None if pool.folders is None else [pool.folders[i] for i in own],
        stream="captions",
    )
    parts, notes = dealt_parts(rows, partition, clients, seed)
    named = {
        f"image-{name.removeprefix('client-')}" if name.startswith("client-") else name: (
            [own[i] for i in train],
            [own[i] for i in test],
        )
        for name, (train, test) in parts.items()
    }
    return named, notes
