"""The tables of a page: the paper's figures beside ours, a study over a grid cell by cell, and the paired differences."""

from collections.abc import Mapping, Sequence
from itertools import groupby

from fedloom.experiment.ledger.entry import Entry, Figure
from fedloom.experiment.ledger.experiments import ExperimentFile
from fedloom.experiment.ledger.papers import Comparison, PaperTable, plain_name
from fedloom.experiment.report.columns import AVERAGE, Column, title_of
from fedloom.experiment.report.differences import Difference, show_p, shown
from fedloom.experiment.report.table import markdown_table
from fedloom.experiment.report.units import show, show_interval
from fedloom.tasks.metrics.metric import Unit

WIDEST = 11
"""Columns of a table, the rows' names among them, beyond which it is cut in several."""
MARK = " ‡"
Columns = list[list[str]]
"""Columns of text, each with its title first."""


def figures(table: PaperTable, entry: Entry | None, file: ExperimentFile | None) -> list[str]:
    """The paper's figures beside ours, in one table or several; none if there are neither."""
    if entry is None and not table.rows:
        return []
    listed = [*(file.rows if file else ()), *(entry.rows if entry else ()), *table.rows]
    rows = list(dict.fromkeys(listed))
    by_row = {row: entry.rows[row].figures if entry and row in entry.rows else {} for row in rows}
    known = {} if entry is None else entry.shown
    by_plain = {plain_name(name): column for name, column in known.items()}
    seeds = 0 if entry is None else len(entry.seeds)
    groups: list[tuple[str, Columns]] = []
    paired = []
    for title, ours in table.columns.items():
        columns = [[f"{title}, paper", *(table.value(row, title) for row in rows)]]
        if ours is not None:
            column = by_plain.get(plain_name(ours))
            paired.append(column)
            columns.append([f"{title}, ours", *(_cell(column, by_row[row], seeds) for row in rows)])
        groups.append((title.partition(" ")[0], columns))
    remarked = {row for row in rows if entry and row in entry.rows and entry.rows[row].remark}
    names = ["", *(f"{row} †" if row in remarked else row for row in rows)]
    others = [
        (column, [_cell(column, by_row[row], seeds) for row in rows])
        for column in known.values()
        if column not in paired and any(column.name in by_row[row] for row in rows)
    ]
    if _by_part([column for column, _ in others]):
        tables = [_markdown([names, *columns]) for columns in _cut(groups) if columns]
        return tables + _parts(names, others)
    groups += [(column.name, [[_title(column), *cells]]) for column, cells in others]
    return [_markdown([names, *columns]) for columns in _cut(groups)]


def _by_part(columns: Sequence[Column]) -> bool:
    """Whether there are several figures for each of several parts: a table for each figure then reads better."""
    return len({c.key for c in columns}) > 1 and len({c.across for c in columns}) > 1


def _parts(names: list[str], columns: Sequence[tuple[Column, list[str]]]) -> list[str]:
    """A table for each figure, with the parts of the study in columns."""
    blocks = []
    for key in dict.fromkeys(column.key for column, _ in columns):
        of_key = [(column, cells) for column, cells in columns if column.key == key]
        shown_columns = [[column.across or "", *cells] for column, cells in of_key]
        title = _with_unit(title_of(key), of_key[0][0].unit)
        blocks.append(f"{title}:\n\n{_markdown([names, *shown_columns])}")
    return blocks


def counts(table: PaperTable, counted: Mapping[str, Mapping[str, float]]) -> str:
    """The paper's figures beside the counts, by method, or of the parts of the system, whose name is empty."""
    columns = [["", *table.rows]]
    for title, ours in table.columns.items():
        columns.append([f"{title}, paper", *(table.value(row, title) for row in table.rows)])
        if ours is not None:
            unit = (1e6, 2) if title.endswith(", M") else (1, 0)
            shown = (_count(ours, counted.get(row, counted.get("", {})), *unit) for row in table.rows)
            columns.append([f"{title}, ours", *shown])
    return _markdown(columns)


def _count(name: str, of_row: Mapping[str, float], unit: float, decimals: int) -> str:
    """One count, or a sum of several ("a + b"), or several ("a / b")."""
    sums = [sum(of_row[part] for part in text.split(" + ")) / unit for text in name.split(" / ")]
    return " / ".join(f"{number:,.{decimals}f}" for number in sums)


def _cut(groups: Sequence[tuple[str, Columns]]) -> list[Columns]:
    """The columns of one table after the other; neighbours of one group stay together."""
    tables: list[Columns] = [[]]
    for _, members in groupby(groups, key=lambda group: group[0]):
        columns = [column for _, part in members for column in part]
        if tables[-1] and len(tables[-1]) + len(columns) >= WIDEST:
            tables.append([])
        tables[-1] += columns
    return tables


def _markdown(columns: Columns) -> str:
    header, *lines = zip(*columns, strict=True)
    return markdown_table(header, lines)


def by_cell(table: PaperTable, entry: Entry) -> list[str]:
    """For a study over a grid: a table per figure, a line per cell, the rows in columns with their differences.

    An accuracy that is not above the commonest answer's share is marked.
    """
    blocks = []
    for key in dict.fromkeys(column.key for column in entry.shown.values()):
        columns = [
            (name, c)
            for name, c in entry.shown.items()
            if c.key == key
            and c.across != AVERAGE  # of several maps it is no figure of anything
            and any(name in row.figures for row in entry.rows.values())
        ]
        if not columns:
            continue
        title = _with_unit(title_of(key), columns[0][1].unit)
        shares = table.commonest.get(plain_name(key), {})
        pairs = [(label, base) for base in entry.against[:1] for label in entry.rows if label != base]
        header = ["cell", *entry.rows, *(f"{label} less {base}" for label, base in pairs)]
        lines = []
        for name, column in columns:
            share = next((s for part, s in shares.items() if part in (column.across or "")), None)
            own = [
                _cell(column, row.figures, len(entry.seeds))
                + (MARK if _is_within(row.figures.get(name), share) else "")
                for row in entry.rows.values()
            ]
            gaps = [_gap(entry.difference(label, base, name), column) for label, base in pairs]
            lines.append([column.across or "", *own, *gaps])
        blocks.append(f"{title}:\n\n{markdown_table(header, lines)}")
        if any(MARK in cell for line in lines for cell in line):
            known = ", ".join(f"{100 * share:.1f} % in cells of {part}" for part, share in shares.items())
            blocks.append(
                f"{MARK.strip()} no better than always saying the commonest answer of all test samples: {known}."
            )
    return blocks


def _is_within(figure: Figure | None, share: float | None) -> bool:
    return figure is not None and share is not None and figure.spread.mean <= share + 1e-3


def comparisons(table: PaperTable, entry: Entry) -> list[str]:
    """The paired differences from each row that others are compared with, with the verdicts."""
    named = {base: chosen for base, chosen in table.against.items() if base in entry.rows}
    blocks = []
    for base, chosen in (named or dict.fromkeys(entry.against, Comparison())).items():
        rows = [row for row in chosen.rows or entry.rows if row != base and row in entry.rows]
        columns = []
        for name, column in entry.shown.items():
            if not chosen.columns or plain_name(name) in map(plain_name, chosen.columns):
                found = [entry.difference(row, base, name) for row in rows]
                if any(found):
                    columns.append((column, [_gap(gap, column) for gap in found]))
        if _by_part([column for column, _ in columns]):
            blocks += [f"Against {base}, {block}" for block in _parts(["", *rows], columns)]
        elif columns:
            shown_columns = [[_title(column), *cells] for column, cells in columns]
            blocks.append(f"Against {base}:\n\n{_markdown([['', *rows], *shown_columns])}")
    return blocks


def _title(column: Column) -> str:
    return _with_unit(column.title, column.unit)


def _with_unit(title: str, unit: Unit) -> str:
    return f"{title} %" if unit == "percent" else title


def _cell(column: Column | None, of_row: Mapping[str, Figure], seeds: int) -> str:
    """One of our figures with its interval, and the number of its seeds where others have none; empty without a run."""
    figure = None if column is None else of_row.get(column.name)
    if column is None or figure is None:
        return ""
    text = show(figure.spread, column.unit).removesuffix(" %")
    if figure.interval is not None:
        text += f" {show_interval(figure.interval.low, figure.interval.high, column.unit)}"
    return f"{text} (of {figure.spread.n})" if figure.spread.n < seeds else text


def _gap(found: Difference | None, column: Column) -> str:
    if found is None:
        return ""
    seeds = f" (p {show_p(found.p_seeds)})" if found.p_seeds is not None else ""
    return f"{shown(found, column)}{seeds}"
