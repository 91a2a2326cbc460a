"""`fedloom compare`: runs side by side, their differences from one row, or their answers."""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.output import echo, out, plain_table
from fedloom.core.errors import ExperimentError
from fedloom.core.terminal_tables import fitted


def compare(
    folders: Annotated[list[Path], typer.Argument(help="run folders, or folders of rows")],
    column: Annotated[
        list[str] | None, typer.Option(help="a metric or summary field, see --columns; may be repeated")
    ] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="instead: list the columns that there are")
    ] = False,
    markdown: Annotated[bool, typer.Option(help="print a Markdown table")] = False,
    against: Annotated[
        str | None,
        typer.Option(help="also: every row's paired difference from this row, with interval and tests"),
    ] = None,
    cases: Annotated[
        int | None,
        typer.Option(help="instead: so many test samples of each kind, and every row's answers", min=1),
    ] = None,
) -> None:
    """Print runs side by side: mean, spread over seeds and interval over test samples, of the last round.

    With --against, also how far each row is ahead of or behind another; with --cases, the rows' answers.
    """
    from fedloom.cli.compare_grid import show_grids
    from fedloom.experiment.registry import load_entry_points
    from fedloom.experiment.report.grid_cells import has_grid
    from fedloom.experiment.report.load_study import gather
    from fedloom.experiment.report.table import table_of

    load_entry_points()
    if columns:
        _list_columns(folders)
        return
    if cases is not None:
        if column or against is not None:
            other = "--column" if column else "--against"
            raise ExperimentError(f"--cases and {other} do not go together: cases have columns of their own")
        _cases(folders, cases, markdown=markdown)
        return
    if column:
        _check_columns(column, folders)
    study = gather(folders)
    if has_grid(study):
        show_grids(study, column, against, markdown=markdown)
        return
    table = table_of(study, column, intervals=True)
    if markdown:
        echo(table.markdown())
    else:
        out.print(table.rich(out.width))
    if any(c.key.startswith("generator/") for c in table.columns):
        note = "generator/…: no interval, for runs do not keep the features of generated items"
        echo(f"\n{note}") if markdown else out.print(Text(note))
    if against is not None:
        _differences(folders, against, column, markdown=markdown)


def _differences(folders: list[Path], against: str, column: list[str] | None, *, markdown: bool) -> None:
    from fedloom.experiment.report.differences import differences
    from fedloom.experiment.report.table import markdown_table

    tables, notes = differences(folders, against, column)
    if not tables:
        echo(f"\nNo figure of these columns is better or worse than that of {against}.")
    for table in tables:
        if markdown:
            echo(f"\n{table.title}\n\n{markdown_table(table.header, table.lines)}")
        else:
            out.print(Text(f"\n{table.title}"), fitted(table.header, table.lines, out.width), sep="\n")
    echo("")
    for note in notes:
        echo(f"{note}\n") if markdown else out.print(Text(note))


def _cases(folders: list[Path], count: int, *, markdown: bool) -> None:
    from fedloom.experiment.finished_run import load
    from fedloom.experiment.report.cases import cases as cases_of

    shown, notes = cases_of(folders, count, load)
    for case in shown:
        if markdown:
            echo(case.markdown())
        else:
            out.print(case.rich(out.width), "")
    for note in notes:
        echo(note) if markdown else out.print(Text(note))


def _list_columns(folders: list[Path]) -> None:
    from fedloom.experiment.registry import load_entry_points
    from fedloom.experiment.report.columns import known_columns
    from fedloom.experiment.report.load_study import gather

    load_entry_points()
    found = known_columns(gather(folders))
    rows = [(c.key, c.title, {"percent": "%", "number": ""}.get(c.unit, c.unit)) for c in found]
    out.print(plain_table(("--column", "in words", "unit"), rows))


def _check_columns(column: list[str], folders: list[Path]) -> None:
    """Raise ExperimentError for a column that the user named and that no run has."""
    from fedloom.experiment.registry import load_entry_points
    from fedloom.experiment.report.columns import AVERAGED, keys_of, known_columns
    from fedloom.experiment.report.load_study import gather

    load_entry_points()
    study = gather(folders)
    names = [c.key for c in known_columns(study)]
    for key in keys_of(study, column):
        plain = key.removeprefix(AVERAGED)
        if plain not in names:
            near = get_close_matches(plain, names, n=3, cutoff=0.4) or names[:3]
            raise ExperimentError(
                f"--column: no run has the figure {plain}; there are {', '.join(near)} ... (--columns lists all)"
            )
