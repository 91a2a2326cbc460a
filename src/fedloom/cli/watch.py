"""`fedloom watch`: a page on loopback that grows with a run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.output import out


def watch(
    folder: Annotated[
        Path, typer.Argument(help="a run, a study or a deployment; or where one is about to begin")
    ],
    port: Annotated[
        int, typer.Option(help="the page's port on 127.0.0.1; 0: a free one", min=0, max=65535)
    ] = 0,
    browser: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
) -> None:
    """Show a run while it goes on: curves, ledger, clients, samples. Ctrl-C ends the page, not the run."""
    from fedloom.deploy.watched import deployment
    from fedloom.experiment.registry import load_entry_points
    from fedloom.experiment.watch.folder_view import FolderView
    from fedloom.experiment.watch.server import Server

    load_entry_points()
    view = FolderView(folder, deployment)
    with Server(view, port) as server:
        waiting = "; no run has begun there yet" if view.waits else ""
        out.print(
            Text(f"watching {folder} at {server.address} (Ctrl-C ends the page{waiting})"), soft_wrap=True
        )
        if browser:
            typer.launch(server.address)
        server.serve_forever(poll_interval=0.2)
