"""Tables that are counted, not trained: our counts beside the paper's figures."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloom.cli.counted import PARTS, counted
from fedloom.cli.main import app
from fedloom.experiment.ledger.papers import PaperTable
from fedloom.experiment.ledger.tables import counts
from tests.experiment.ledger.ledger_folders import ledger, make_repository


def test_the_pages_counts_are_those_of_the_command() -> None:
    found = counted("fedloom methods --cost roberta-large --clients 4")
    result = CliRunner().invoke(app, ["methods", "--cost", "roberta-large", "--clients", "4", "--json"])
    listed = {line.pop("method"): line for line in json.loads(result.output)}
    assert found.keys() - {PARTS} == listed.keys()
    for method, line in listed.items():
        assert all(line[name] == number for name, number in found[method].items())
    assert sum(found[PARTS].values()) == found["FedAvg-LoRA"]["trained"]


def test_sums_pairs_and_millions() -> None:
    table = PaperTable(
        place="Table 1",
        title="costs",
        command="fedloom methods --cost small",
        columns={"size, M": "a + b", "sent": "up / down", "time": None, "order": None},
        rows={"one": (1.5, "8K / 8K", 3.0, "O(Kr)"), "the parts": (7000.0, None, None, None)},
    )
    found = {
        "": {"a": 1e6, "b": 2e6, "up": 0, "down": 0},
        "one": {"a": 2e6, "b": 5e5, "up": 8192, "down": 9000},
    }
    _, _, one, parts = counts(table, found).splitlines()
    assert one == "| one | 1.50 | 2.50 | 8K / 8K | 8,192 / 9,000 | 3.00 | O(Kr) |"
    assert parts == "| the parts | 7,000.00 | 3.00 |  | 0 / 0 |  |  |"


def test_an_experiment_of_two_tables_is_listed_with_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_repository(tmp_path))
    with (tmp_path / "docs/reproduction/papers.yaml").open("a") as papers:
        papers.write("    - {place: Table 2, title: the same runs, experiment: table1}\n")
    assert ledger().exit_code == 0
    index = (tmp_path / "docs/reproduction/README.md").read_text()
    assert "| [Table 1](small.md), [Table 2](small.md) | 2 |" in index
