from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.methods import FedA2LoRA, FedAvgLoRA


def write(folder: Path, text: str) -> Path:
    path = folder / "e.yaml"
    path.write_text(text)
    return path


def test_overrides_win_over_the_row_the_size_and_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
rounds: 1
method: {name: feda2-lora, ridge: 0.5}
training: {lr: 0.1}
sizes: {small: {rounds: 20, training.lr: 0.2, training.batch_size: 4}}
rows:
  one: {training.lr: 0.3}
  two: {method.name: fedavg-lora}
seeds: [3, 4]
""",
    )
    runs = load_rows(path, ["size=small", "training.tau=0.5"])
    assert [(r.row, r.seed) for r in runs] == [("one", 3), ("one", 4), ("two", 3), ("two", 4)]
    one, two = runs[0], runs[2]
    assert (one.rounds, one.training.lr, one.training.batch_size, one.training.tau) == (20, 0.3, 4, 0.5)
    assert two.training.lr == 0.2
    assert one.method == FedA2LoRA(ridge=0.5)
    assert two.method == FedAvgLoRA(), "another method does not inherit the fields of the first"
    assert [r.row for r in load_rows(path, only=["two"])] == ["two", "two"]
    assert {r.seed for r in load_rows(path, ["seed=9"])} == {9}


def test_a_resolved_experiment_reads_back_equal() -> None:
    first = Experiment.parse(
        {"method": {"name": "feda2-lora", "mode": "strict"}, "rounds": 7, "data": {"train": 3}}
    )
    assert Experiment.parse(yaml.safe_load(yaml.safe_dump(first.as_dict()))) == first


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rounds: 2", "method is missing"),
        ("method: fedlora", "unknown method 'fedlora'; known are"),
        ("method: feda2-lora\nroundz: 2", "unknown key roundz; did you mean rounds?"),
        ("method: feda2-lora\ntraining: {learning_rate: 1}", "unknown key training.learning_rate"),
        ("method: {name: feda2-lora, rige: 1}", "unknown key method.rige; did you mean ridge?"),
        ("method: feda2-lora\ntraining: {lr: -0.1}", "training.lr: input should be greater than 0, not -0.1"),
        ("method: feda2-lora\nrounds: two", "rounds: input should be a valid integer"),
        ("method: feda2-lora\ndata: {clients: {image: 0}}", "needs at least one client"),
        ("method: feda2-lora\ndata: {clients: {picture: 1}}", "data.clients.picture"),
        (
            "method: feda2-lora\ndata: {source: folder}",
            "data.path is missing; it is the folder of one folder per client",
        ),
        (
            "method: pfedmma\ndata: {source: classes, partition: {shots: 2}}",
            "data.partition must say its kind",
        ),
        (
            "method: fedmd\ndata: {source: labelled, partition: {kind: folder}}",
            "data.partition.classes is missing",
        ),
        (
            "method: feda2-lora\ndata: {partition: {kind: pachinko}}",
            "data.partition.kind: there is no 'pachinko' here; known are column, folder, iid, dirichlet",
        ),
        (
            "method: feda2-lora\ndata: {source: nowhere}",
            "unknown data.source 'nowhere'; known are tabletop, folder",
        ),
        (
            "method: feda2-lora\nmodel: {llm_lora: {rank: 0}}",
            "model.llm_lora.rank: input should be greater than or equal to 1",
        ),
        ("method: [feda2-lora]", "method"),
        ("- a list", "must hold a mapping"),
        ("method: {unclosed", "no valid YAML"),
        ("method: feda2-lora\nrows: [a]", "rows must map"),
        ("method: feda2-lora\nseeds: 3", "seeds must be a list"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_place(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as caught:
        load_rows(write(tmp_path, text))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "e.yaml" in str(caught.value)


@pytest.mark.parametrize("override", ["method.ridge", "=3", "method.ridge=[", "rounds.deep=1"])
def test_a_broken_override_is_named(override: str, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError):
        load_rows(write(tmp_path, "method: feda2-lora\nrounds: 2"), [override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="no experiment file"):
        load_rows(tmp_path / "none.yaml")


@pytest.mark.parametrize("path", sorted(Path("experiments").rglob("*.yaml")), ids=str)
def test_every_shipped_experiment_is_valid_in_every_size_and_says_how_it_is_run(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(f"# fedloom run {path}")
    for size in ("tiny", "small", "paper"):
        assert load_rows(path, [f"size={size}"])


BASE = "rounds: 0\nmethod: fedavg-lora\ndata: {source: tabletop, clients: {image: 2}, train: 5, test: 1}\n"


@pytest.mark.parametrize(
    "row",
    [
        "{data.source: folder, data.path: silos}",
        "{data.path: silos, data.source: folder}",
        "{data: {path: silos, source: folder}}",
        "{data.path: silos, data: {source: folder}}",
    ],
)
def test_another_source_drops_the_fields_that_it_does_not_read(row: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"{BASE}rows: {{own: {row}}}\n")
    [experiment] = load_rows(file)
    assert experiment.data.model_dump(include={"source", "path", "test_share"}) == {
        "source": "folder",
        "path": Path("silos"),
        "test_share": 0.2,
    }
    assert load_rows(file, ["data.test_share=0.5"])[0].data.test_share == 0.5


@pytest.mark.parametrize(
    "row",
    [
        "{data.source: folder, data.path: silos, data.train: 9}",
        "{data.train: 9, data.path: silos, data.source: folder}",
        "{data: {train: 9, path: silos, source: folder}}",
        "{data.train: 9, data: {path: silos, source: folder}}",
    ],
)
def test_a_field_set_beside_the_source_that_does_not_read_it_is_refused(row: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"{BASE}rows: {{own: {row}}}\n")
    with pytest.raises(ExperimentError, match=r"data\.train is not read by source folder"):
        load_rows(file)


@pytest.mark.parametrize("source", ["[folder]", "3", "{a: 1}", "null"])
def test_a_source_that_is_no_name_is_one_sentence(source: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"method: fedavg-lora\ndata: {{source: {source}}}\n")
    with pytest.raises(ExperimentError, match=r"unknown data\.source"):
        load_rows(file)


def test_a_misspelt_field_is_refused_whatever_source_comes_after_it(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    for text in ("rows: {a: {data.source: text}}\n", "versions: {fedloom: 0.1.0}\n"):
        file.write_text(f"method: fedavg-lora\ndata: {{trian: 5}}\n{text}")
        with pytest.raises(ExperimentError, match=r"unknown key data\.trian; did you mean train"):
            load_rows(file)


def test_another_sources_clients_and_files_stay_behind(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"{BASE}rows: {{a: {{data.source: text, data.clients: {{text: 2}}}}}}\n")
    [experiment] = load_rows(file)
    assert (experiment.data.clients, experiment.data.train) == ({"text": 2}, 5)


@pytest.mark.parametrize(
    "order", ["{method.beta: 0.3, method.name: fedavgm}", "{method.name: fedavgm, method.beta: 0.3}"]
)
def test_a_method_is_named_before_its_fields_in_either_order(order: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(f"{BASE}rows: {{a: {order}}}\n")
    assert load_rows(file)[0].method.beta == 0.3
    with pytest.raises(ExperimentError, match="nonsense"):
        load_rows(file, ["method.nonsense=3", "method=fedavgm"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("method: {name: [a]}", "unknown method"),
        ("method: fedavg\nprivacy: {robust: {kind: [a]}}", "there is no rule"),
        ("method: fedavg\nsize: [a]", "size must be tiny"),
        ("method: fedavg\nrows: {a: {2: 3}}", "no setting's name"),
    ],
)
def test_a_value_of_another_type_is_one_sentence(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    file.write_text(text)
    with pytest.raises(ExperimentError, match=says):
        load_rows(file)
