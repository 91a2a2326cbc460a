"""Consoles and tables of the command line."""

from collections.abc import Sequence

import typer
from rich.console import Group

from fedloom.core.terminal import console, visible
from fedloom.core.terminal_tables import fitted

out = console()
errors = console(stderr=True)


def echo(text: str) -> None:
    """Print a text as it is, without wrapping, but for its control characters."""
    typer.echo(visible(text))


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> Group:
    """A table without a rule that fits the terminal, or `width`; see `fitted`."""
    return fitted(header, rows, width or out.width, rule=False)
