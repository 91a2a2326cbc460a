"""`fedloom schema`."""

import json

from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.experiment.schema.json_schema import json_schema
from fedloom.experiment.schema.page import page


def test_it_prints_the_schema_as_json() -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json_schema()


def test_it_prints_the_page_to_the_letter() -> None:
    assert CliRunner().invoke(app, ["schema", "--markdown"]).output == page()
