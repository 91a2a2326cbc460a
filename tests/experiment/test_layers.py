"""Layers of settings: what the user set last holds, or the experiment is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.methods import METHODS, Method


def rows(tmp_path: Path, text: str, *overrides: str) -> list[Experiment]:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    return load_rows(file, overrides)


def test_a_group_is_merged_and_a_value_replaces(tmp_path: Path) -> None:
    text = "method: fedavg-lora\ntraining: {lr: 0.1, tau: 0.3}\ndata: {clients: {image: 3, audio: 3}}\n"
    [one] = rows(tmp_path, text, "training={lr: 0.2}", "data.clients={image: 2}")
    assert (one.training.lr, one.training.tau, one.data.clients) == (0.2, 0.3, {"image": 2})
    [two] = rows(tmp_path, text, "data.clients.image=2")
    assert two.data.clients == {"image": 2, "audio": 3}


def test_another_method_keeps_what_every_method_has(tmp_path: Path) -> None:
    shared = "method: {name: feda2-lora, ridge: 0.5, weights: examples}\n"
    named = "rows: {a: {method: fedavg-lora}, b: {method: {name: feda2-lora, mode: strict}}}\n"
    a, b = rows(tmp_path, shared + named)
    assert (a.method.name, a.method.weights) == ("fedavg-lora", "examples")
    assert (b.method.ridge, b.method.mode, b.method.weights) == (0.5, "strict", "examples")


MEDIAN = {"kind": "median", "claims": 3.0}
INFLATE = {"kind": "inflate", "clients": ["a"], "examples": 10_000_000, "share": 0.25}


@pytest.mark.parametrize(
    ("text", "override", "place", "expected"),
    [
        (
            "privacy: {robust: {kind: trimmed_mean, byzantine: 3, claims: 2}}",
            "privacy.robust.kind=median",
            "privacy.robust",
            {**MEDIAN, "claims": 2.0},
        ),
        ("privacy: {robust: null}", "privacy.robust.kind=median", "privacy.robust", MEDIAN),
        ("attack: {kind: scale, factor: 3, clients: [a]}", "attack.kind=inflate", "attack", INFLATE),
    ],
)
def test_another_kind_drops_the_fields_that_it_has_not(tmp_path, text, override, place, expected) -> None:
    [one] = rows(tmp_path, f"method: fedavg\n{text}\n", override)
    value: Any = one.as_dict()
    for part in place.split("."):
        value = value[part]
    assert value == expected


def test_a_partition_of_another_kind_and_its_errors_name_what_the_user_wrote(tmp_path: Path) -> None:
    text = "method: promptfl\ndata: {source: classes, partition: {kind: few-shot, shots: 2}}\n"
    [one] = rows(tmp_path, text, "data.partition.kind=labeldir")
    assert one.data.partition.kind == "labeldir"
    with pytest.raises(ExperimentError, match=r"unknown key data\.partition\.shots; known here: beta, kind"):
        rows(tmp_path, text, "data.partition.kind=labeldir", "data.partition.shots=3")
    with pytest.raises(ExperimentError, match=r"data\.partition\.beta: input should be greater than 0"):
        rows(tmp_path, text, "data.partition={kind: labeldir, beta: -1}")
    with pytest.raises(
        ExperimentError, match=r"engine\.cohort: input should be 'auto' or 'off', or .* 'maybe'$"
    ):
        rows(tmp_path, "method: fedavg\n", "engine.cohort=maybe")
    with pytest.raises(ExperimentError, match=r"training: should be a mapping, such as .*, not 3$"):
        rows(tmp_path, "method: fedavg\n", "training=3")


@pytest.mark.parametrize(
    "overrides",
    [["method.step=0.3", "method=scaffold"], ["method=scaffold", "method.step=0.3"]],
)
def test_an_override_that_the_method_beside_it_lacks_is_refused(tmp_path, overrides) -> None:
    with pytest.raises(ExperimentError, match=r"unknown key method\.step"):
        rows(tmp_path, "method: fedavg\n", *overrides)
    [one] = rows(tmp_path, "method: fedavg\n", *(o.replace("step", "lr") for o in overrides))
    assert (one.method.name, one.method.lr) == ("scaffold", 0.3)


@pytest.mark.parametrize(
    ("text", "overrides", "says"),
    [
        ("", ["rounds=3", "rounds=4"], "rounds is given twice, as 3 and as 4"),
        ("", ["method.name=fedavgm", "method=scaffold"], "method is given twice"),
        ("", ["privacy.robust=null", "privacy.robust.kind=median"], "privacy.robust is given twice"),
        ("rows: {a: {data: {train: 2}, data.train: 3}}", [], "rows: a: data.train is given twice"),
        ("seed: 1\nseeds: [1, 2]", [], "sets seed"),
        ("seeds: [1, 2]\nrows: {a: {seed: 3}}", [], "rows: a sets seed"),
        ("rows: {a: {size: small}}", [], "rows: a sets size, which it cannot change"),
        ("sizes: {tiny: {size: small}}", [], "sets size"),
        ("rows: {a: {row: b}}", [], "rows: a sets row"),
        ("rows: {a: {}}", ["row=b"], "the override row=b"),
        ("", ["seed=1", "seeds=[2]"], "both seed and seeds"),
        ("sizes: {huge: {rounds: 1}}", [], "size must be tiny, small or paper, not 'huge'"),
        ("", ["rounds=true"], "rounds: should be a number, not true"),
        ("", ["training.betas=[true, 0.9]"], "training.betas.0: should be a number, not true"),
        ("", ["training.lr=.inf"], "no number that a setting can have"),
        ("", ["training.lr=1e999"], "training.lr: should be a finite number"),
        ("", ["training.lr=infinity"], "training.lr: should be a finite number"),
        ("", ["rounds.deep=1"], "rounds: input should be a valid integer"),
        ("rounds: 2", ["rounds.deep=1"], "cannot set rounds.deep: rounds is 2"),
        ("training: {lr: .nan}", [], "e.yaml is no valid YAML: line 2"),
        ("rounds: 1\nrounds: 2", [], "line 3: the key 'rounds' stands twice"),
        ("3: 4", [], "which is no setting's name"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, text: str, overrides: list[str], says: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        rows(tmp_path, f"method: fedavg\n{text}\n", *overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds_among_the_overrides_replace_the_files_seed(tmp_path: Path) -> None:
    text = "method: fedavg\nseed: 3\n"
    assert [e.seed for e in rows(tmp_path, text, "seeds=[0, 7]")] == [0, 7]
    assert [e.seed for e in rows(tmp_path, text, "seed=5")] == [5]
    with pytest.raises(ExperimentError, match="rows: a sets seed"):
        rows(tmp_path, "method: fedavg\nrows: {a: {seed: 3}}\n", "seeds=[0, 7]")


def test_a_row_of_a_file_without_rows_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("method: fedavg\n")
    with pytest.raises(ExperimentError, match="has no row 'x'; it has no rows; leave --row out"):
        load_rows(tmp_path / "e.yaml", only=["x"])


@pytest.mark.parametrize("content", [b"\xff\xfe", "name: ä".encode("latin-1")])
def test_a_file_of_another_encoding_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "e.yaml").write_bytes(content)
    with pytest.raises(ExperimentError, match="it is not in UTF-8"):
        load_rows(tmp_path / "e.yaml")


SHIPPED = [yaml.safe_load(Path(f"experiments/{n}.yaml").read_text()) for n in (
    "uniflow/quickstart", "uniflow/attacks", "uniflow/table4", "pfedmma/main", "fedmmkt/main", "privacy/compared")]  # fmt: skip
LEAVES: dict[str, list[Any]] = {
    "rounds": [1, 7],
    "method": sorted(METHODS),
    "method.name": sorted(METHODS),
    "method.weights": ["uniform", "examples"],
    "method.ridge": [0.25],
    "method.beta": [0.5],
    "method.gamma": [0.5],
    "data.source": ["tabletop", "folder", "text", "classes", "labelled", "captions"],
    "data.path": ["silos"],
    "data.train": [11],
    "data.clients": [{"image": 2}, {"text": 2}],
    "data.clients.image": [5],
    "data.partition.kind": ["labeldir", "few-shot"],
    "data.partition.shots": [3],
    "data.partition": [{"kind": "labeldir", "beta": 0.25}],
    "training": [{"lr": 0.25}, {"optimizer": "sgd", "momentum": 0.5}],
    "training.schedule": ["simultaneous", "rounds"],
    "training.tau": [0.125],
    "training.rho": [0.75],
    "training.optimizer": ["sgd", "adamw"],
    "training.momentum": [0.5],
    "privacy.robust": [None, {"kind": "multi_krum"}],
    "privacy.robust.kind": ["median", "trimmed_mean"],
    "privacy.robust.byzantine": [2],
    "attack": [{"kind": "scale", "factor": 3.0}],
    "attack.kind": ["inflate"],
    "model.width": [32],
    "model.clip": ["some"],
    "model.llm_lora.rank": [4],
    "model.body_lora": [{"rank": 4}],
    "evaluation.loss": [True],
    "evaluation.generate": [False],
    "cohort.alpha": ["fixed"],
    "seed": [5],
}
LAYER = st.lists(
    st.sampled_from(sorted(LEAVES)).flatmap(lambda n: st.sampled_from(LEAVES[n]).map(lambda v: (n, v))),
    max_size=3,
)


def leaves(name: str, value: Any) -> list[tuple[str, Any]]:
    """The settings in a value; a mapping of counts is one."""
    if isinstance(value, dict) and name != "data.clients":
        return [leaf for inner, v in value.items() for leaf in leaves(f"{name}.{inner}", v)]
    return [(name.replace("method.name", "method") if name == "method.name" else name, value)]


def held(experiment: Experiment, name: str) -> Any:
    value: Any = experiment.as_dict()
    for part in ("method.name" if name == "method" else name).split("."):
        value = value[part]
    return value


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0, len(SHIPPED) - 1), LAYER, LAYER)
def test_what_is_set_last_holds_or_is_refused(tmp_path: Path, number: int, row: list, options: list) -> None:
    file = {k: v for k, v in SHIPPED[number].items() if k not in ("rows", "across", "seeds", "sizes")}
    text = yaml.safe_dump({**file, "rows": {"a": dict(row)}}, sort_keys=False, allow_unicode=True)
    given = [f"{n}={yaml.safe_dump(v, default_flow_style=True).split(chr(10))[0]}" for n, v in options]
    fault, found = "", []
    try:
        found = rows(tmp_path, text, *given)
    except ExperimentError as error:
        fault = str(error)
    assert "\n" not in fault
    if not found:
        return
    [experiment] = found
    for name, value in (leaf for option in options for leaf in leaves(*option)):
        assert held(experiment, name) == value, "an override holds as it was given"
    silent = experiment.unread()
    assert not [n for n, _ in options if n in silent], "and something reads it"


def test_every_method_has_the_fields_that_pass_from_one_to_another() -> None:
    for kind in METHODS.values():
        assert {n for n in kind.model_fields if kind.carries(n)} == {*Method.model_fields}


def test_one_row_of_a_file_is_loaded_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("method: fedavg\nrows: {a: {rounds: 1}, b: {rounds: 2}}\n")
    assert Experiment.load(tmp_path / "e.yaml", row="b").rounds == 2
    with pytest.raises(ExperimentError, match="describes 2 runs; name one of its rows: a, b"):
        Experiment.load(tmp_path / "e.yaml")
    (tmp_path / "e.yaml").write_text("method: fedavg\nseeds: [0, 1]\n")
    with pytest.raises(ExperimentError, match="describes 2 runs; give it one seed"):
        Experiment.load(tmp_path / "e.yaml")
