"""Consoles and plain tables of the command line."""

from collections.abc import Sequence
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
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


def text_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """A table of texts, the first column left, the others right; nothing is parsed as markup."""
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.show_edge = table.pad_edge = False
    for at, name in enumerate(header):
        table.add_column(Text(name), justify="right" if at else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table
