"""`fedloom card`: the model card of a finished run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.output import out
from fedloom.core.errors import ExperimentError


def card(
    run_dir: Annotated[Path, typer.Argument(help="the folder of a finished run")],
    target: Annotated[
        Path | None,
        typer.Option(
            "--out", help="the file or folder to write to; README.md beside the run's model if none"
        ),
    ] = None,
    client: Annotated[str | None, typer.Option(help="of this client's personal model")] = None,
    license: Annotated[
        str | None,
        typer.Option("--license", help="of the published model, by its name on the hub: apache-2.0"),
    ] = None,
    clients: Annotated[
        bool, typer.Option("--clients", help="a table of the clients by name; they are left out if none")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a card that was edited by hand")] = False,
) -> None:
    """Write a model card: data, method, figures with intervals, privacy spent, limits, licence of the base, checksums."""
    from fedloom.experiment.export.card import Card, card_text
    from fedloom.experiment.export.finished import read_finished
    from fedloom.experiment.export.signature import write, write_in_run
    from fedloom.experiment.finished_run import model_folder

    folder = model_folder(run_dir, client)
    text = card_text(folder, read_finished(run_dir), Card(client, license=license, names=clients))
    if target is None:
        file = folder / "README.md"
        write_in_run(run_dir, file, text, force=force)
    else:
        file = target if target.suffix == ".md" else target / "README.md"
        if file.is_dir() or (target.exists() and target.suffix != ".md" and not target.is_dir()):
            raise ExperimentError(
                f"--out: {target} cannot hold a card; name a folder, or a file that ends in .md"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, text, force=force)
    out.print(Text(f"card {file}"), soft_wrap=True)
