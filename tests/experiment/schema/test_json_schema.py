"""The JSON schema of experiment files: what `fedloom run` takes passes, and what it refuses by a word does not."""

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from fedloom.core.errors import ExperimentError
from fedloom.core.yaml_text import load_yaml
from fedloom.experiment.schema.json_schema import json_schema
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.methods import METHODS

ROOT = Path(__file__).parents[3]
FILES = [*sorted(ROOT.glob("experiments/*/*.yaml")), ROOT / "src/fedloom/cli/demo.yaml"]


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    found = json_schema()
    Draft7Validator.check_schema(found)
    return Draft7Validator(found)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_every_shipped_experiment_passes(schema: Draft7Validator, file: Path) -> None:
    assert [e.message for e in schema.iter_errors(load_yaml(file.read_text("utf-8")))] == []


RIGHT = {
    "a method's name alone": "method: fedavg-lora",
    "a method with its setting": "method: {name: feda2-lora, ridge: 0.1}",
    "dotted keys": "{method.name: feda2-lora, method.ridge: null, training.lr: 0.1, model.llm_lora.rank: 4}",
    "a dotted key inside of a group": "{method: fedavg-lora, model: {llm_lora.rank: 4}}",
    "an entry of a mapping": "{method: fedavg-lora, data.clients.image: 2, training.rates.head: 0.1}",
    "a switch in words": "{method: fedavg-lora, evaluation: {generate: off}, engine.cohort: off}",
    "an attack by its name": "{method: fedavg-lora, attack: nan}",
    "a rule and its setting": "{method: fedavg-lora, privacy.robust.kind: norm_bound, privacy.robust.bound: 1}",
    "rows": "{method: fedavg-lora, rows: {A: {method: {name: fedprox, mu: 1}}, B: null}, seeds: [0, 1]}",
    "columns": "{method: fedavg-lora, data.source: text, across: {RTE: {data.task: warm}}}",
    "sizes": "{method: fedavg-lora, sizes: {small: {rounds: 9, seeds: [1], rows: {A: {seed: 1}}}}}",
    "another partition": "{method: fedavg-lora, data: {source: tabletop, partition: {kind: dirichlet, beta: 1}}}",
}


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT.keys())
def test_what_run_takes_passes(schema: Draft7Validator, text: str, tmp_path: Path) -> None:
    assert [e.message for e in schema.iter_errors(load_yaml(text))] == []
    if "seeds: [1], rows: {A: {seed" not in text:  # checked when the size is chosen
        (tmp_path / "x.yaml").write_text(text)
        assert load_rows(tmp_path / "x.yaml")


WRONG = {
    "unknown method": "method: fedavg-lorra",
    "unknown method in a mapping": "method: {name: fedavg-lorra}",
    "unknown method by a dotted key": "method.name: fedavg-lorra",
    "another method's field": "method: {name: fedavg-lora, ridge: 0.1}",
    "no field of any method": "method: {rige: 0.1}",
    "unknown setting": "{method: fedavg-lora, roundz: 3}",
    "unknown setting of a group": "{method: fedavg-lora, training: {learning_rate: 0.1}}",
    "unknown dotted key": "{method: fedavg-lora, training.learning_rate: 0.1}",
    "a text for a number": "{method: fedavg-lora, rounds: many}",
    "true for a number": "{method: fedavg-lora, training.lr: true}",
    "a number out of range": "{method: fedavg-lora, training: {lr: 0}}",
    "a number out of range by a dotted key": "{method: fedavg-lora, cohort.fraction: 1.5}",
    "an unknown choice": "{method: fedavg-lora, training.optimizer: adamx}",
    "an unknown source": "{method: fedavg-lora, data: {source: tablet}}",
    "another source's field": "{method: fedavg-lora, data: {source: text, media: {}}}",
    "an unknown attack": "{method: fedavg-lora, attack: {kind: nann}}",
    "an unknown rule": "{method: fedavg-lora, privacy: {robust: {kind: mean}}}",
    "an unknown kind of client": "{method: fedavg-lora, data.clients: {picture: 2}}",
    "a mistake in a row": "{method: fedavg-lora, rows: {A: {training.lrr: 1}}}",
    "a size in a row": "{method: fedavg-lora, rows: {A: {size: small}}}",
    "a mistake in a column": "{method: fedavg-lora, across: {A: {data.clientz: 1}}}",
    "a list of rows": "{method: fedavg-lora, rows: [A, B]}",
    "a seed in words": "{method: fedavg-lora, seeds: [one]}",
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_what_run_refuses_fails(schema: Draft7Validator, text: str, tmp_path: Path) -> None:
    assert not schema.is_valid(load_yaml(text))
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ExperimentError):
        load_rows(tmp_path / "x.yaml")


def test_a_mistake_in_a_size_fails(schema: Draft7Validator) -> None:
    assert not schema.is_valid({"method": "fedavg-lora", "sizes": {"small": {"roundz": 1}}})
    assert not schema.is_valid({"method": "fedavg-lora", "sizes": {"large": {}}})


def test_every_method_has_an_entry_of_its_own_with_its_fields(schema: Draft7Validator) -> None:
    entries: list[dict[str, Any]] = schema.schema["$defs"]["Method"]["oneOf"]
    named = {e["properties"]["name"]["const"]: e for e in entries if "name" in e.get("properties", {})}
    assert list(named) == list(METHODS)
    for name, method in METHODS.items():
        assert set(named[name]["properties"]) == {"name", *method.model_fields}
    ridge = named["feda2-lora"]["properties"]["ridge"]["description"]
    assert ridge.startswith("λ; none = the mode's own")
    assert ridge.endswith("(default: none)")


def test_the_record_of_a_run_passes(schema: Draft7Validator) -> None:
    record = Experiment(method="feda2-lora", row="A").as_dict()
    assert [e.message for e in schema.iter_errors({**record, "versions": {"fedloom": "0.1"}})] == []
