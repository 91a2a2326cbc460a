"""Consoles and plain tables of the command line."""

from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from fedloom.core.terminal import console, visible

out = console()
errors = console(stderr=True)


def echo(text: str) -> None:
    """Print a text as it is, without wrapping, but for its control characters."""
    typer.echo(visible(text))


def plain_table(header: tuple[str, ...], rows: list[Any]) -> Table:
    """A table without borders; cells are not parsed as markup."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
