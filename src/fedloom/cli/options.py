"""Arguments and options shared by several commands."""

from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="settings that win over the file, such as method.ridge=0.1 rounds=10"),
]

Jobs = Annotated[
    int | None,
    typer.Option(
        help="runs side by side, each on its share of the cores; one per core for tiny models if not given",
        min=1,
    ),
]

Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="check the headers of pictures and sounds alone, for files that are known to be whole",
    ),
]
