"""The comparison table: rows (methods) by columns (metrics, bytes, seconds), mean and spread over seeds."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import rich.box
import rich.table
from rich.text import Text

from fedloom.report.read import Run, Study, gather
from fedloom.report.units import Spread, Unit, show, unit_of, words

FIELDS = {
    "bytes_up": "bytes up",
    "bytes_down": "bytes down",
    "seconds": "time",
    "rounds": "rounds",
    "trainable_parameters": "trainable parameters",
    "shared_parameters": "shared parameters",
}
"""Columns that stand in the summary itself rather than among its metrics."""

HEADLINE = ("token_accuracy", "exact_match")
BEFORE = "before training"
UNUSED = "the ledger holds clients that were not used"


@dataclass(frozen=True)
class Column:
    """A metric name or a field of the summary, its title and the unit that it is shown in."""

    key: str
    title: str
    unit: Unit


@dataclass(frozen=True)
class TableRow:
    """One row: label, seeds, a figure per column key (None where the runs have none), remark."""

    label: str
    seeds: int
    cells: dict[str, Spread | None]
    remark: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows by columns; `rich()`, `markdown()` and `html()` show the same figures."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]

    def cell(self, row: str, key: str) -> Spread | None:
        """The figure of one row and column; KeyError if there is no such row or column."""
        return {r.label: r for r in self.rows}[row].cells[key]

    def grid(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Header, lines and footnotes as plain unescaped text."""
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
        return header, lines, notes

    @staticmethod
    def _figure(row: TableRow, column: Column) -> str:
        spread = row.cells[column.key]
        text = show(spread, column.unit).removesuffix(" %")
        return f"{text} (of {spread.n})" if spread is not None and spread.n < row.seeds else text

    def rich(self) -> rich.table.Table:
        """For the terminal. Text from data is not read as markup."""
        header, lines, notes = self.grid()
        caption = Text("\n".join(notes)) if notes else None
        out = rich.table.Table(title=Text(self.title), caption=caption, caption_justify="left")
        out.box, out.padding = rich.box.SIMPLE_HEAD, 0
        out.show_edge, out.pad_edge = False, False
        for i, title in enumerate(header):
            side: Literal["left", "right"] = "left" if i == 0 else "right"
            whole = i == 0 and max((len(line[0]) for line in lines), default=0) <= 20
            out.add_column(Text(title), justify=side, overflow="fold", no_wrap=whole)
        for line in lines:
            out.add_row(*(Text(field.replace(" ± ", "±")) for field in line))
        return out

    def markdown(self) -> str:
        """A GitHub-flavoured table; pipes, line breaks and angle brackets in labels are escaped."""
        header, lines, notes = self.grid()
        align = ["---", *("---:" for _ in header[1:])]
        text = "\n".join(f"| {' | '.join(map(_markdown, line))} |" for line in [header, align, *lines])
        return text + "\n" + "".join(f"\n{_markdown(note)}\n" for note in notes)

    def html(self) -> str:
        """A <table> with header cells and a caption; every text is escaped."""
        header, lines, notes = self.grid()
        head = "".join(f'<th scope="col">{html.escape(_joined(h)) or "row"}</th>' for h in header)
        body = "".join(
            f'<tr><th scope="row">{html.escape(line[0])}</th>'
            + "".join(f"<td>{html.escape(field)}</td>" for field in line[1:])
            + "</tr>"
            for line in lines
        )
        foot = "".join(f"<p class=note>{html.escape(note)}</p>" for note in notes)
        caption = f"<caption>{html.escape(self.title)}</caption>"
        table = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        region = f'<div class=scroll role=region tabindex=0 aria-label="{html.escape(self.title)}">'
        return f"{region}{table}</div>{foot}"


def comparison(folders: Path | Sequence[Path], columns: Sequence[str] | None = None) -> Table:
    """The comparison table of one or several folders (run folders or folders of rows).

    `columns` names metrics (`global/image/exact_match`) or summary fields (`bytes_up`); by default
    the headline of the modalities at hand, bytes and time. A broken or missing file raises ExperimentError.
    """
    return table_of(gather(folders), columns)


def table_of(study: Study, columns: Sequence[str] | None = None, before: bool = False) -> Table:
    """The comparison table of a study; `before` adds a line for the model that every run started from."""
    keys = list(columns) if columns is not None else default_columns(study)
    shown = tuple(Column(key, FIELDS.get(key) or words(key), unit_of(key)) for key in keys)
    rows = [_row(label, runs, keys) for label, runs in study.rows.items()]
    start = _before(study, keys) if before else None
    return Table(study.name, shown, tuple([start, *rows] if start else rows))


def default_columns(study: Study) -> list[str]:
    """Image and audio headline metrics; where a study has none of them, its other global or local ones."""
    names = set(study.names())
    keys = [f"global/{kind}/{m}" for kind in ("image", "audio") for m in HEADLINE]
    keys = [key for key in keys if key in names]
    for scope in ("global/", "local/"):
        keys = keys or [n for n in study.names() if n.startswith(scope) and n.rsplit("/", 1)[-1] in HEADLINE]
        keys = keys or [n for n in study.names() if n.startswith(scope)][:4]
    return [*keys, "bytes_up", "bytes_down", "seconds"]


def figure_of(run: Run, key: str) -> float | None:
    """A summary field or the last round's value of a metric."""
    return getattr(run.summary, key) if key in FIELDS else run.final(key)


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Mean and spread of the values that are there; None if there are none."""
    there = [value for value in values if value is not None]
    return Spread.of(there) if there else None


def _row(label: str, runs: Sequence[Run], keys: Sequence[str]) -> TableRow:
    cells = {key: spread_of([figure_of(run, key) for run in runs]) for key in keys}
    return TableRow(label, len(runs), cells, remark_of(runs))


def remark_of(runs: Sequence[Run]) -> str | None:
    """Why a row is not plainly complete, or None."""
    told = [
        run.summary.status if run.summary.status != "complete" else UNUSED for run in runs if not run.complete
    ]
    if not told:
        return None
    of = f" ({len(told)} of {len(runs)} seeds)" if len(runs) > 1 else ""
    return "; ".join(dict.fromkeys(told)) + of


def _before(study: Study, keys: Sequence[str]) -> TableRow | None:
    """Round 0, if the runs of one seed all started alike: only then is it one line."""
    by_seed: dict[int, dict[str, float]] = {}
    for run in study.runs:
        for key in keys:
            value = None if key in FIELDS else run.start(key)
            if value is not None:
                told = by_seed.setdefault(run.summary.seed, {}).setdefault(key, value)
                if abs(told - value) > 1e-6:
                    return None
    if not by_seed:
        return None
    return TableRow(BEFORE, len(by_seed), {k: spread_of([s.get(k) for s in by_seed.values()]) for k in keys})


def _markdown(text: str) -> str:
    one_line = " ".join(text.split("\n"))
    return one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace(">", "&gt;")


def _joined(title: str) -> str:
    """The unit stays on its word's line."""
    return title.replace(" %", "\u00a0%")
