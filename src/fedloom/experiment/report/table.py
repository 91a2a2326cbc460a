"""The comparison table: rows (methods) by columns (metrics, bytes, seconds; tasks), mean and spread over seeds."""

import html
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Group
from rich.text import Text

from fedloom.core.terminal_tables import NBSP, fitted
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.report import csv_text
from fedloom.experiment.report.columns import (
    AVERAGED,
    Column,
    cell,
    columns_of,
    figure_of,
    keys_of,
    start_of,
    title_of,
)
from fedloom.experiment.report.differences import best_row
from fedloom.experiment.report.load_study import Study, gather
from fedloom.experiment.report.read import Run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.experiment.report.units import Spread, arrow, show, show_interval
from fedloom.tasks.metrics.bootstrap import Interval, bootstrap_interval

BEFORE = "before training"
WIDE = 9
"""Largest number of columns of one table in a terminal; wider tables are split by part."""
WIDTH = 80
"""Characters of a line in a terminal, unless it says otherwise."""
SHORT = {
    "trainable parameters": "trained",
    "shared parameters": "shared",
    ", clients' mean": " by client",
    " %": f"{NBSP}%",
}
"""Parts of titles with what a terminal shows in their place."""
ARROWS = "↑: higher is better; ↓: lower is better"
UNUSED = "the ledger holds clients that were not used"


@dataclass(frozen=True)
class TableRow:
    """One row: label, number of seeds, figure by column name (None if the runs have none), remark.

    `intervals`: 95 % bootstrap intervals over test samples, of the columns that have one; `best`: the columns in which the row
    is ahead of every other one.
    """

    label: str
    seeds: int
    cells: dict[str, Spread | None]
    remark: str | None = None
    intervals: dict[str, Interval] = field(default_factory=dict)
    best: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Table:
    """Rows by columns; `rich()`, `markdown()` and `html()` show the same figures."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()

    def cell(self, row: str, name: str) -> Spread | None:
        """The figure of a row and a column, by name; KeyError if there is no such row or column."""
        return {r.label: r for r in self.rows}[row].cells[name]

    def grid(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Header, lines and footnotes as unescaped text."""
        counts = sorted({row.seeds for row in self.rows})
        several = len(counts) > 1
        titles = [f"{c.title} %" if c.unit == "percent" else c.title for c in self.columns]
        header = ["", *(["seeds"] if several else []), *titles]
        lines: list[list[str]] = []
        notes: list[str] = []
        for row in self.rows:
            label = row.label
            if row.remark:
                label += " †"
                notes.append(f"† {row.label}: {row.remark}")
            figures = [self._figure(row, column) for column in self.columns]
            lines.append([label, *([str(row.seeds)] if several else []), *figures])
        if counts[-1:] > [1]:
            over = "the seeds" if several else f"{counts[0]} seeds"
            notes.append(f"mean ± sample standard deviation over {over}, last round")
        if any(row.intervals for row in self.rows):
            notes.append("[ ]: 95 % bootstrap interval over the test samples, for the models of these seeds")
        if any(row.best for row in self.rows):
            notes.append("* ahead of every other row: the interval of each paired difference excludes zero")
        return header, lines, [*notes, *self.notes]

    @staticmethod
    def _figure(row: TableRow, column: Column) -> str:
        spread = row.cells[column.name]
        text = show(spread, column.unit).removesuffix(" %")
        text += " *" if column.name in row.best else ""
        if (inside := row.intervals.get(column.name)) is not None:
            text += f" {show_interval(inside.low, inside.high, column.unit)}"
        return f"{text} (of {spread.n})" if spread is not None and spread.n < row.seeds else text

    def rich(self, width: int = WIDTH) -> Group:
        """The table for a terminal, split by part and by columns if it is too wide; text from data is not parsed as markup."""
        parts = list(dict.fromkeys(c.across for c in self.columns))
        by_part = len(parts) > 1 and len(self.columns) > WIDE
        tables = [_part(self, across) for across in parts] if by_part else [self]
        return Group(*(_terminal(table, width) for table in tables), *map(Text, self.grid()[2]))

    def markdown(self) -> str:
        """A GitHub-flavoured table; pipes, line breaks and angle brackets in labels are escaped."""
        header, lines, notes = self.grid()
        return markdown_table(header, lines) + "\n" + "".join(f"\n{markdown_cell(note)}\n" for note in notes)

    def csv(self) -> str:
        """A line per row and column: mean, standard deviation, number of seeds, and the interval's ends."""
        records = []
        for row in self.rows:
            for column in self.columns:
                if (spread := row.cells[column.name]) is not None:
                    inside = row.intervals.get(column.name)
                    ends = (None, None) if inside is None else (inside.low, inside.high)
                    records.append((row.label, column.name, spread.mean, spread.sd, spread.n, *ends))
        return csv_text.text(("row", "column", *csv_text.SPREAD, "low", "high"), records)

    def html(self) -> str:
        """A <table> with header cells and a caption; every text is escaped."""
        header, lines, notes = self.grid()
        keep = len(header) - len(self.columns)  # the label, and the seeds if they differ
        arrows = [*([""] * keep), *(arrow(column.key) for column in self.columns)]
        titles = [_joined(h) + a for h, a in zip(header, arrows, strict=True)]
        head = "".join(f'<th scope="col">{html.escape(title) or "row"}</th>' for title in titles)
        best = [[False] * keep + [c.name in row.best for c in self.columns] for row in self.rows]
        body = "".join(
            f'<tr><th scope="row">{html.escape(line[0])}</th>'
            + "".join(
                f"<td{' class=best' * first}>{html.escape(field)}</td>"
                for field, first in zip(line[1:], marks[1:], strict=True)
            )
            + "</tr>"
            for line, marks in zip(lines, best, strict=True)
        )
        notes = [*notes, ARROWS] if any(arrows) else notes
        foot = "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes)
        caption = f"<caption><span>{html.escape(self.title)}</span></caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        region = f'<div class=scroll role=region tabindex=0 aria-label="{html.escape(self.title)}">'
        return f"{region}{table}</div>{foot}"


def comparison(
    folders: Path | Sequence[Path], columns: Sequence[str] | None = None, *, intervals: bool = False
) -> Table:
    """The comparison table of one or several folders (run folders or folders of rows).

    `columns` names metrics (`global/image/exact_match`) or summary fields (`bytes_up`); default: those of the experiment, or else
    the headline metrics of the modalities, bytes and time. A study over tasks or the like has columns for each of them.
    With `intervals`, figures whose samples the runs kept have a bootstrap interval. A broken or missing file raises
    ExperimentError.
    """
    load_entry_points()
    return table_of(gather(folders), columns, intervals=intervals)


def table_of(
    study: Study, columns: Sequence[str] | None = None, before: bool = False, *, intervals: bool = False
) -> Table:
    """The comparison table of a study; `before` adds a line for the common model before training."""
    keys = keys_of(study, columns)
    shown = columns_of(study, keys)
    rows = [_row(label, runs, shown) for label, runs in study.rows.items()]
    if intervals:
        rows = _with_intervals(rows, study, shown)
    start = _before(study, shown) if before else None
    embedders = dict.fromkeys(key.partition("[")[2].rstrip("]") for key in keys if "bertscore" in key)
    notes = [f"BERTScore by {name}" for name in embedders if name]
    one = study.across and len(keys) == 1
    title = f"{study.name}: {title_of(keys[0].removeprefix(AVERAGED))}" if one else study.name
    if study.across and any(key.startswith(AVERAGED) for key in keys):
        notes.append(f"columns without a name before them are means over {', '.join(study.across)}")
    return Table(title, shown, tuple([start, *rows] if start else rows), tuple(notes))


def _row(label: str, runs: Sequence[Run], columns: Sequence[Column]) -> TableRow:
    figures = {key: {_at(run): figure_of(run, key) for run in runs} for key in {c.key for c in columns}}
    cells = {column.name: cell(figures[column.key], column) for column in columns}
    return TableRow(label, len({run.summary.seed for run in runs}), cells, remark_of(runs))


def _with_intervals(rows: Sequence[TableRow], study: Study, columns: Sequence[Column]) -> list[TableRow]:
    """The rows with their intervals over test samples, and the best one of each column."""
    samples = SampleValues()
    best = {column.name: best_row(study, column, samples) for column in columns}
    done = []
    for row in rows:
        values = {c.name: samples.of_runs(study.rows[row.label], c) for c in columns}
        inside = {name: bootstrap_interval(list(of.values())) for name, of in values.items() if of}
        ahead = frozenset(name for name, label in best.items() if label == row.label)
        done.append(replace(row, intervals=inside, best=ahead))
    return done


def _at(run: Run) -> tuple[str | None, int]:
    """A run's part of the study, and its seed."""
    return run.across, run.summary.seed


def remark_of(runs: Sequence[Run]) -> str | None:
    """The reason for which a row is incomplete, or None."""
    reasons = [
        run.summary.status if run.summary.status != "complete" else UNUSED for run in runs if not run.complete
    ]
    if not reasons:
        return None
    share = f" ({len(reasons)} of {len(runs)} runs)" if len(runs) > 1 else ""
    return "; ".join(dict.fromkeys(reasons)) + share


def _before(study: Study, columns: Sequence[Column]) -> TableRow | None:
    """The row of round 0, or None unless all runs of one part and seed have equal figures there."""
    starts: dict[str, dict[tuple[str | None, int], float | None]] = {c.key: {} for c in columns}
    for run in study.runs:
        for key in starts:
            value = start_of(run, key)
            if value is not None:
                known = starts[key].setdefault(_at(run), value)
                if known is None or abs(known - value) > 1e-6:
                    return None
    seeds = {seed for values in starts.values() for _, seed in values}
    if not seeds:
        return None
    return TableRow(BEFORE, len(seeds), {c.name: cell(starts[c.key], c) for c in columns})


def _part(table: Table, across: str | None) -> Table:
    """The table of one part of the study."""
    kept = [c for c in table.columns if c.across == across]
    plain = tuple(replace(c, title=c.title.removeprefix(f"{across}, ")) for c in kept)
    return Table(f"{table.title}, {across}", plain, table.rows, table.notes)


def _terminal_cell(text: str) -> str:
    """A figure as a terminal shows it: its interval on a line of its own."""
    return text.replace(" ± ", "±").replace(" [", "\n[").replace(" *", "*")


def _terminal_title(title: str, column: Column) -> str:
    """A short title with an arrow in the direction of better figures."""
    for long, short in SHORT.items():
        title = title.replace(long, short)
    return title + arrow(column.key)


def _terminal(table: Table, width: int) -> Group:
    header, lines, _ = table.grid()
    shown = [[line[0], *map(_terminal_cell, line[1:])] for line in lines]
    keep = len(header) - len(table.columns)  # the label, and the seeds if they differ
    titles = [_terminal_title(t, c) for t, c in zip(header[keep:], table.columns, strict=True)]
    header = [*header[:keep], *titles]
    grid = fitted(header, shown, width, gap=1, keep=keep, figures=True)
    return Group(Text(table.title, style="bold"), grid)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A GitHub-flavoured table of unescaped texts, without a closing line break; the first column stands left."""
    align = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(map(markdown_cell, line))} |" for line in [header, align, *lines])


def markdown_cell(text: str) -> str:
    """Text escaped for a Markdown table."""
    one_line = " ".join(text.split("\n"))
    return one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _joined(title: str) -> str:
    """The title with a non-breaking space before its unit."""
    return title.replace(" %", "\u00a0%")
