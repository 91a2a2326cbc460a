"""Console, arguments and tables that the commands of `fedloom deploy` share."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Group
from rich.text import Text

from fedloom.core.terminal import console
from fedloom.core.terminal_tables import fitted

out = console()

ServerFolder = Annotated[Path, typer.Argument(help="the server's folder, as init wrote it")]
LogJSON = Annotated[
    bool,
    typer.Option("--log-json", help="standard output gets the log's JSON lines, for container platforms"),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(help="serve Prometheus metrics on this port of --metrics-host", min=1, max=65535),
]
MetricsHost = Annotated[
    str, typer.Option(help="the address of --metrics-port; whoever reaches it can read the figures")
]


def say(line: str) -> None:
    """Print a line with the time."""
    out.print(Text(f"{time.strftime('%H:%M:%S')}  {line}"), soft_wrap=True)


def table(rows: Sequence[tuple[str, str]]) -> Group:
    """A table of names and values."""
    return fitted(("", ""), rows, out.width, rule=False)


def until_signalled() -> Callable[[], bool]:
    """A condition that is true until this process receives SIGTERM or SIGINT."""
    received: list[int] = []
    for sign in (signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda number, frame: received.append(number))
    return lambda: not received
