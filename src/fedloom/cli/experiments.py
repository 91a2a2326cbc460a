"""`fedloom experiments`: the shipped experiments, one line each, and copies of them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fedloom.cli.output import out

app = typer.Typer(
    invoke_without_command=True,
    help="List the shipped experiments; copy one.",
    epilog="Example: fedloom experiments copy uniflow/quickstart my-experiments",
)


@app.callback()
def experiments(context: typer.Context) -> None:
    """List the shipped experiments, one line each."""
    if context.invoked_subcommand is not None:
        return
    from fedloom.experiment.shipped import experiment_files, sentence

    listed = experiment_files()
    width = max(map(len, listed))
    for name, file in listed.items():
        line = Text(f"{name:<{width}}  {sentence(file)}")
        if out.is_terminal:
            out.print(line, no_wrap=True, overflow="ellipsis")
        else:
            out.print(line, soft_wrap=True)


@app.command(epilog="Example: fedloom experiments copy uniflow/quickstart")
def copy(
    name: Annotated[str, typer.Argument(help="its name in the list, such as uniflow/quickstart")],
    folder: Annotated[Path, typer.Argument(help="the folder to write it to")] = Path(),
) -> None:
    """Write a shipped experiment into a folder, to run it as it is or changed."""
    from fedloom.experiment.shipped import copy_experiment

    out.print(Text(str(copy_experiment(name, folder))), soft_wrap=True)
