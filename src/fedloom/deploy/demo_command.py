"""`fedloom deploy demo`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.core.errors import ExperimentError
from fedloom.core.new_folder import free_name
from fedloom.core.terminal_tables import fitted
from fedloom.deploy.terminal import out, say


def demo(
    folder: Annotated[
        Path | None, typer.Option("--out", help="folder for everything; a new one in runs/ if none")
    ] = None,
    rounds: Annotated[int, typer.Option(help="communication rounds", min=1)] = 2,
    system: Annotated[
        list[str] | None,
        typer.Option(help="one system: uniflow, pfedmma, fedmmkt or fedma; repeat it. None: all four"),
    ] = None,
) -> None:
    """Four systems, each with a SuperLink and three sites on this machine, TLS and keys on, beside the local engine."""
    from fedloom.deploy.systems import HEADER, SYSTEMS, show

    chosen = [name.lower() for name in system or SYSTEMS]
    if unknown := [name for name in chosen if name not in SYSTEMS]:
        raise ExperimentError(f"--system: {unknown[0]!r} is none of {', '.join(SYSTEMS)}")
    rows = show(folder or free_name(Path("runs/deploy-demo")), dict.fromkeys(chosen), rounds, say)
    out.print(fitted(HEADER, [row.cells for row in rows], out.width))
    failed = [row for row in rows if row.fault is not None]
    for row in failed:
        out.print(Text(f"{row.cells[0]}: {row.fault}"), soft_wrap=True)
    if failed:
        raise typer.Exit(1)
