"""`fedloom plan`: its tables, its JSON, and what it refuses."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.plan.make import make_plan

SMALL = """
rounds: 3
data: {clients: {text: 2}, train: 2, test: 1}
model: {llm_lora: {rank: 2}, encoder_lora: null}
training: {batch_size: 2}
evaluation: {generate: false, controls: false, samples: 0}
engine: {threads: 1}
rows:
  FedAvg: {method.name: fedavg-lora}
  FedSA: {method.name: fedsa-lora}
seeds: [0, 1]
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def test_rows_are_planned_in_processes_of_their_own_and_nothing_is_left(file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["plan", str(file), "--row", "FedSA", "--no-probe", "--json"])
    assert done.exit_code == 0, done.output
    (plan,) = json.loads(done.stdout)
    assert (plan["row"], plan["runs"], plan["rounds"]) == ("FedSA", 2, 3)
    assert plan["seconds"] is None
    assert plan["kinds"][0]["personal"] == plan["kinds"][0]["shared"]  # B and A of layers of 128 x 128
    assert plan["traffic"]["whole_up"] == 3 * 2 * 4 * plan["kinds"][0]["shared"]  # rounds, clients, bytes
    assert [p.name for p in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize("override", ["method.nope=1", "training.momentum=0.5", "data.clients.text=0"])
def test_a_faulty_file_gets_the_sentence_of_run(file: Path, override: str) -> None:
    said = [CliRunner().invoke(app, [command, str(file), override]).exception for command in ("plan", "run")]
    assert [type(error) for error in said] == [ExperimentError, ExperimentError]
    assert str(said[0]) == str(said[1])


def test_a_fault_that_shows_in_the_data_comes_out_of_the_process(file: Path) -> None:
    words = [str(file), "data.source=folder", "data.path=nowhere", "--row", "FedAvg"]
    said = [CliRunner().invoke(app, [command, *words]).exception for command in ("plan", "run")]
    assert isinstance(said[0], ExperimentError)
    assert str(said[0]) == str(said[1])


def test_tables_fit_into_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from fedloom.cli.plan_tables import show, whole_file

    settings = {
        "rounds": 2,
        "method": "feda2-lora",
        "data": {"clients": {"both": 1, "text": 1}, "train": 2, "test": 1},
        "evaluation": {"generate": False, "controls": False, "samples": 0},
        "engine": {"threads": 1},
    }
    plan = make_plan(fedloom.Experiment.parse(settings), time.time(), how="short", limit=600)
    show(plan, 2)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for words in (
        "LlamaForCausalLM",
        "encoder.audio",
        "a client with image+audio",
        "at the highest",
        "It fits",
    ):
        assert words in printed
    assert whole_file([(plan, 2)], 1).startswith("2 runs: ")
