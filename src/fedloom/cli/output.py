"""Consoles and plain tables of the command line."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def plain_table(header: tuple[str, ...], rows: list[Any]) -> Table:
    """A table without borders; cells are not parsed as markup."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
