"""From paths and settings to the checked rows of all their tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.data.media import DEFAULT, MediaSettings
from fedloom.data.tables.columns import GUESSED, Columns, find
from fedloom.data.tables.hub import may_be_on_hub, open_hub
from fedloom.data.tables.kept_rows import KeptRows
from fedloom.data.tables.opening import Table, open_path
from fedloom.data.tables.pool import Pool
from fedloom.data.tables.reader import Reader
from fedloom.data.tables.rows import Rows
from fedloom.data.tables.samples import Samples

PEEKED = 20
"""Values of a column that are looked at to tell what its files are."""


@dataclass(frozen=True)
class Reading:
    """The settings of reading tables."""

    columns: Columns = GUESSED
    question: str | None = None
    settings: MediaSettings = DEFAULT
    config: str | None = None
    streaming: bool = False
    take: int | None = None
    unwanted: tuple[str, ...] = ()
    """Parts of a sample whose columns are not guessed, since nothing reads them."""
    keep: str | None = None
    """The column that rows are dealt by; "" for that of the label."""
    skip_missing: bool = False
    """Whether rows whose files are not there may be left out."""


def open_tables(path: str, how: Reading) -> list[Table]:
    """The tables of a path, or of a data set on the hub. Raises ExperimentError."""
    if not Path(path).exists() and may_be_on_hub(path):
        return open_hub(path, how.config, how.take, streaming=how.streaming)
    for name, value in (("streaming", how.streaming), ("config", how.config)):
        if value:
            raise ExperimentError(
                f"data.{name} is about data sets on the hub, and {path} is on this machine, where tables are memory-mapped; "
                "leave it out."
            )
    return open_path(Path(path))


def columns_in(path: Path, how: Reading, owner: str | None = None) -> list[Columns]:
    """The columns of all tables of a path; with `owner`, such as "the client's folder", of a folder that is read as one.

    Raises ExperimentError.
    """
    tables = open_tables(str(path), how) if owner is None else open_path(path, owner)
    return [_columns(str(path), table.rows, how)[0] for table in tables]


def read_pool(paths: Sequence[str], how: Reading) -> Pool:
    """The rows of all tables, checked except for their media. Raises ExperimentError."""
    opened = {path: open_tables(path, how) for path in paths}
    return pool_of(opened, how)


def pool_of(opened: Mapping[str, Sequence[Table]], how: Reading) -> Pool:
    """The rows of opened tables, by their path. Raises ExperimentError."""
    features = {f: None for tables in opened.values() for table in tables for f in table.rows.features}
    for part, column in how.columns.named().items():
        if column not in features:
            raise ExperimentError(
                f"data.columns.{part}: {' and '.join(opened)} has no column {column!r}; it has {', '.join(features) or 'none'}."
            )
    readers: dict[str, list[Reader]] = {}
    notes: dict[str, None] = {}
    single = sum(map(len, opened.values())) == 1
    for path, tables in opened.items():
        if not sum(len(table.rows) for table in tables):
            raise ExperimentError(f"data.path: {path} has no rows.")
        for table in tables:
            prefix = "" if single else f"{sum(map(len, readers.values()))}/"
            reader, own = _reader(path, table, how, prefix)
            readers.setdefault(path, []).append(reader)
            notes |= dict.fromkeys(own)
    if how.question is not None and all(r.columns.messages for own in readers.values() for r in own):
        raise ExperimentError(
            "data.question is not asked where conversations hold their questions; leave it out."
        )
    return _pool(readers, how, list(notes))


def _columns(path: str, rows: Rows, how: Reading) -> tuple[Columns, tuple[str, ...]]:
    """A table's columns, and the sentences on them."""
    given = Columns(**{p: c for p, c in how.columns.named().items() if c in rows.features})
    return find(given, rows.features, path, lambda column: peek(rows, column), how.unwanted, _kept(how))


def _reader(path: str, table: Table, how: Reading, prefix: str) -> tuple[Reader, tuple[str, ...]]:
    rows = table.rows
    columns, notes = _columns(path, rows, how)
    named = columns.named()
    if not {"answer", "label", "messages"} & set(named):
        raise ExperimentError(
            f"data.path: {path} has the columns {', '.join(rows.features) or 'none'}, of which none is known for answers; name "
            "it, as in data.columns: {answer: ...}."
        )
    if how.question is not None and how.columns.question in rows.features:
        raise ExperimentError(
            "data.question gives all rows one question, and data.columns.question names a column of questions; leave one out."
        )
    if how.question is not None and "question" in named:
        notes += (f"{path}: data.question is asked in place of the column {named['question']}",)
    by = columns.label if how.keep == "" else how.keep
    if how.keep and how.keep not in rows.features:
        raise ExperimentError(
            f"data.partition.over: {path} has no column {how.keep!r}; it has {', '.join(rows.features) or 'none'}."
        )
    keep = () if by is None else (by,)
    return Reader(table, columns, how.settings, how.question, prefix, keep), notes


def _kept(how: Reading) -> tuple[str, ...]:
    return (how.keep,) if how.keep else ()


def peek(rows: Rows, column: str) -> Iterable[Any]:
    """The first values of a column."""
    first = next(rows.batches([column]), [])
    return [cells[column] for cells in first[:PEEKED]]


def _pool(readers: Mapping[str, Sequence[Reader]], how: Reading, notes: list[str]) -> Pool:
    listed = [reader for own in readers.values() for reader in own]
    samples, pool = Samples(listed), KeptRows()
    number = 0
    for path, own in readers.items():
        own_rows = KeptRows()
        for row in chain.from_iterable(reader.rows() for reader in own):
            own_rows.add(number, row)
            number += 1
        notes += own_rows.use_splits(path)
        pool.update(own_rows)
    if not pool.splits:
        raise ExperimentError(f"data.path: no row of {' and '.join(readers)} has an answer.")
    if pool.missing and not how.skip_missing:
        raise ExperimentError(next(iter(pool.missing.values())))
    classes = {tuple(r.table.rows.classes.get(r.columns.label or "", ())) for r in listed}
    return Pool(
        declared=pool.splits,
        media=pool.media,
        read=samples.part,
        unusable=samples.unusable,
        missing=pool.missing,
        client=pool.client,
        columns=pool.columns,
        notes=tuple(notes),
        parts=frozenset(part for reader in listed for part in reader.columns.named()),
        classes=classes.pop() if len(classes) == 1 else (),
    )
