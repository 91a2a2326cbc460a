"""The columns of the tables that an inspection finds: by their part in a sample, and those that are left."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.data.inspection.layout import Layout
from fedloom.data.sources.folder import client_tables
from fedloom.data.tables.columns import GUESSED, find
from fedloom.data.tables.opening import Table, open_path
from fedloom.data.tables.read import peek
from fedloom.data.tables.rows import BATCH

LOOKED_AT = 10 * BATCH
"""Rows of a table whose further columns are counted."""


@dataclass(frozen=True)
class Found:
    """The column of each part of a sample, and how many cells of each other column hold something."""

    parts: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)


def find_columns(layout: Layout) -> Found:
    """The columns of a layout's tables; none where its source names no columns. Raises ExperimentError.

    A column `folder` of captions is the client where it has several values of two rows or more each.
    """
    if layout.source == "classes":
        return Found()
    if layout.source == "table":
        return _columns(str(layout.path), open_path(layout.path), ())
    clients = client_tables(layout.path)
    found = [_columns(str(p), tables, ("client",)) for p, tables in clients.items() if tables is not None]
    others = sum((Counter(own.others) for own in found), Counter())
    parts = {part: column for own in found for part, column in own.parts.items()}
    same = all(parts[part] == column for own in found for part, column in own.parts.items())
    # A folder of plain records has no columns to name; clients that differ are guessed one by one.
    return Found(parts if same and len(found) == len(clients) else {}, others)


def _columns(path: str, tables: Iterable[Table], unwanted: tuple[str, ...]) -> Found:
    parts: dict[str, str] = {}
    others: Counter[str] = Counter()
    for table in tables:
        rows = table.rows
        found, _ = find(GUESSED, rows.features, path, partial(peek, rows), unwanted)
        named = found.named()
        left = [column for column in rows.features if column not in named.values()]
        if not unwanted and "client" not in named and _may_be_clients(table, named):
            named["client"] = "folder"
        parts |= named
        for batch in islice(rows.batches(left), LOOKED_AT // BATCH) if left else ():
            others.update(c for cells in batch for c in left if cells[c] not in (None, "", []))
        others.update(dict.fromkeys(left, 0))
    return Found(parts, {c: n for c, n in others.most_common() if c not in parts.values()})


def _may_be_clients(table: Table, named: Mapping[str, str]) -> bool:
    """Whether the folders of captions hold two captioned files or more each."""
    wanted = ["folder", "text", *(named[m] for m in ("image", "audio") if m in named)]
    if not set(wanted) <= set(table.rows.features) or Path(table.rows.name).suffix:
        return False
    media = wanted[2:]
    counts: Counter[str | None] = Counter()
    for batch in table.rows.batches(wanted):
        counts.update(c["folder"] for c in batch if c["text"] and any(c[m] for m in media))
    return len(counts) > 1 and None not in counts and min(counts.values()) > 1


def check_answers(layout: Layout, found: Found) -> None:
    """Raise ExperimentError for a table without a column of answers, or without anything to answer about."""
    if layout.source != "table":
        return
    parts = set(found.parts)
    columns = ", ".join([*found.parts.values(), *found.others]) or "none"
    if not {"answer", "label", "messages"} & parts:
        raise ExperimentError(
            f"{layout.path} has the columns {columns}, of which none is known for answers; call one answer or label, or write "
            "the experiment by hand with data.columns: {answer: ...}"
        )
    if not parts - {"answer", "label", "client", "split"}:
        raise ExperimentError(
            f"{layout.path} has the columns {columns}, of which none is known for questions, pictures or sounds; call one "
            "question, image or audio, or write the experiment by hand with data.columns: {question: ...}"
        )
