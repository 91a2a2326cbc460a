"""`fedloom schema`: all settings of experiment files, as a JSON schema for editors or as a page."""

import json
from typing import Annotated

import typer

from fedloom.cli.output import echo


def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print the settings reference as Markdown instead")
    ] = False,
) -> None:
    """Print a JSON schema of experiment files, with which editors complete and check settings."""
    from fedloom.experiment.schema.json_schema import json_schema
    from fedloom.experiment.schema.page import page

    if markdown:
        echo(page().rstrip("\n"))
        return
    echo(json.dumps(json_schema(), ensure_ascii=False))
