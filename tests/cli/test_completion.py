"""Completion of commands and options in the three shells."""

import pytest
from typer.testing import CliRunner

from fedloom.cli.main import app

ASKED = {
    "bash": {"COMP_WORDS": "fedloom re", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "fedloom re"},
    "fish": {"_TYPER_COMPLETE_ARGS": "fedloom re", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", ASKED)
def test_commands_are_completed(shell: str) -> None:
    env = {"_FEDLOOM_COMPLETE": f"complete_{shell}", **ASKED[shell]}
    offered = CliRunner().invoke(app, [], prog_name="fedloom", env=env).output
    assert "rescore" in offered
    assert "report" in offered
    assert "compare" not in offered
