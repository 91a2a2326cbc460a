"""`fedloom deploy status`: once, as a view that follows the run, or as JSON."""

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live

from fedloom.core.errors import ExperimentError
from fedloom.core.terminal_tables import fitted
from fedloom.deploy.terminal import ServerFolder, out

if TYPE_CHECKING:
    from fedloom.deploy.status import ServerStatus, StatusReader


def status(
    folder: ServerFolder,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="follow the run until Ctrl-C, which ends the view and nothing else"),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="one JSON object; with --watch a line for every change")
    ] = False,
) -> None:
    """Show the current run: its round, losses, bytes and privacy budget, and each site's last answer or refusal."""
    from fedloom.deploy.status import StatusReader

    reader = StatusReader(folder)
    if not watch:
        _print(reader.read(), as_json=as_json)
        return
    with suppress(KeyboardInterrupt):
        if as_json or not out.is_terminal:
            for found in _changes(reader):
                _print(found, as_json=as_json, line=True)
        else:
            with Live(console=out, auto_refresh=False) as live:
                for found in _changes(reader):
                    live.update(view(found, out.width), refresh=True)


def view(found: "ServerStatus", width: int) -> Group:
    """The status as tables of at most `width` columns."""
    if found.run is None:
        return Group("no run is current; `fedloom deploy run` begins one")
    sites = [[s.name, s.last, "—" if s.loss is None else f"{s.loss:.4g}"] for s in found.sites]
    header = ("site", "last answer", "training loss")
    return Group(fitted(("", ""), found.facts(), width, rule=False), "", fitted(header, sites, width))


def _print(found: "ServerStatus", *, as_json: bool, line: bool = False) -> None:
    if as_json:
        typer.echo(found.as_json(indent=None if line else 1))
    else:
        out.print(view(found, out.width))


def _changes(reader: "StatusReader") -> Iterator["ServerStatus"]:
    """The status, at once and whenever it has changed."""
    shown: ServerStatus | None = None
    while True:
        with suppress(ExperimentError):  # settings that are being edited
            found = reader.read()
            if found != shown:
                shown = found
                yield found
        time.sleep(1.0)
