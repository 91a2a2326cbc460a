"""Where the commands write, and the tables that they write."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def plain_table(header: tuple[str, ...], rows: list[Any]) -> Table:
    """A plain table of cells of text."""
    made = Table(box=None, padding=(0, 2, 0, 0))
    for title in header:
        made.add_column(title, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made
