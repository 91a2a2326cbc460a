"""An experiment, its run and its model from Python alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fedloom as fl
from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import Result
from fedloom.federation.progress import Progress
from fedloom.models.asking import Asked

RED = Image.new("RGB", (32, 32), "red")
SETTINGS: dict[str, Any] = {
    "rounds": 1,
    "method": "fedavg-lora",
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
    "training": {"batch_size": 2, "steps": 1},
    "evaluation": {"controls": False, "max_new_tokens": 2, "samples": 1},
    "engine": {"cohort": "off"},
}


def data() -> Any:
    """Two clients with four pictures each."""
    rows = [
        {"image": Image.new("RGB", (32, 32), (60 * i, 0, 0)), "question": "what colour?", "answer": "red"}
        for i in range(4)
    ]
    return fl.clients({"a": rows, "b": rows})


@pytest.fixture(scope="module")
def seen() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def in_memory(seen: list[Progress]) -> Result:
    return fl.run(fl.Experiment(**SETTINGS, data=data()), callbacks=[seen.append])


@pytest.fixture(scope="module")
def in_folder(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return fl.run(fl.Experiment(**SETTINGS, data=data()), tmp_path_factory.mktemp("runs") / "r")


def test_importing_and_listing_fedloom_loads_no_torch() -> None:
    code = "import sys, fedloom; print(*dir(fedloom), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [*sorted(fl.__all__), "False"]


def test_plain_keywords_are_the_settings_of_a_file() -> None:
    written = fl.Experiment.parse({"method": {"name": "feda2-lora", "ridge": 0.1}, "training": {"lr": 0.2}})
    assert fl.Experiment(method="feda2-lora", **{"method.ridge": 0.1, "training.lr": 0.2}) == written
    assert fl.Experiment(method=written.method, training=written.training) == written


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "method is missing"),
        ({"rounds": -1}, "rounds: input should be greater than or equal to 0, not -1"),
        ({"roundz": 1}, "did you mean rounds"),
        ({"training": {"lr": True}}, "training.lr: should be a number, not true"),
        ({"training": {"momentum": 0.5}}, "training.momentum is read only with training.optimizer"),
        ({"method.ridge": 0.1, "method": "fedavg-lora"}, "unknown key method.ridge"),
        ({"data": {"source": "python", "clients": {"a": []}}}, "should come from fedloom.clients"),
    ],
)
def test_a_wrong_keyword_is_one_sentence(settings: dict[str, Any], says: str) -> None:
    usual = {} if not settings else {"method": "fedavg-lora"}
    with pytest.raises(ExperimentError, match=says):
        fl.Experiment(**{**usual, **settings})


def test_replace_follows_the_rules_of_overrides() -> None:
    first = fl.Experiment(method={"name": "feda2-lora", "ridge": 0.5}, training={"lr": 0.2}, data=data())
    second = first.replace(**{"method.ridge": 0.1, "data.question": "what?"})
    assert (second.method.ridge, second.training.lr, second.data.question) == (0.1, 0.2, "what?")  # type: ignore[attr-defined]
    assert second.data.clients is first.data.clients  # type: ignore[attr-defined]
    assert first.replace() == first
    other = second.replace(method="fedavg-lora")
    assert (other.method.name, other.training.lr) == ("fedavg-lora", 0.2)
    for changes, says in (
        ({"method.ridge": "x"}, "method.ridge: input should be a valid number"),
        ({"training.momentum": 0.5}, "training.momentum is read only with"),
        ({"size": "small"}, "size chooses among the sizes of a file"),
    ):
        with pytest.raises(ExperimentError, match=f"replace: {says}"):
            first.replace(**changes)


def test_a_callback_gets_round_figures_and_ledger(in_memory: Result, seen: list[Progress]) -> None:
    assert [p.round for p in seen] == [0, 1]
    assert "train/loss" in seen[1].metrics
    assert [entry["answered"] for entry in seen[1].ledger] == [["a", "b"]]
    with pytest.raises(ExperimentError, match="callbacks should be a list of functions"):
        fl.run(fl.Experiment(**SETTINGS), callbacks=[3])  # type: ignore[list-item]
    with pytest.raises(ExperimentError, match=r"needs an Experiment, not a dict; Experiment\.load"):
        fl.run(SETTINGS)  # type: ignore[arg-type]


def test_a_run_in_memory_has_the_figures_and_answers_of_one_in_a_folder(
    in_memory: Result, in_folder: Result
) -> None:
    here, there = in_memory.metrics(), in_folder.metrics()
    assert list(here.index) == [0, 1]
    assert here.index.name == "round"
    assert here.equals(there)
    assert here["global/image/token_accuracy"].notna().all()
    predictions = in_memory.predictions()
    assert predictions.equals(in_folder.predictions())
    assert {*predictions["client"]} == {"a", "b"}
    with pytest.raises(ExperimentError, match="start or end"):
        in_memory.predictions("middle")  # type: ignore[arg-type]


def test_the_model_answers_alike_from_memory_and_folder_alone_and_in_batches(
    in_memory: Result, in_folder: Result, tmp_path: Path
) -> None:
    assert in_folder.folder is not None
    here, there = in_memory.model(), fl.load(in_folder.folder)
    RED.save(tmp_path / "red.png")
    array = np.asarray(RED)
    answer = here.ask("what colour?", image=RED)
    assert answer
    assert (
        there.ask("what colour?", image=[RED, array, array.transpose(2, 0, 1), tmp_path / "red.png"])
        == [answer] * 4
    )
    assert there.ask(["what colour?", "what?"], image=RED)[0] == answer
    with pytest.raises(ExperimentError, match=r"^the run has no personal model of a client 'a'"):
        in_memory.model("a")
    for asked, says in (
        ({}, "there is no question; give question, or audio"),
        (
            {"question": "what?", "audio": np.zeros(1600), "rate": 16000},
            "held data of the kind audio.*leave audio out",
        ),
        ({"question": "what?", "pair": "this"}, "leave pair out"),
        ({"question": ["a", "b"], "image": [RED] * 3}, "2 for question and 3 for image"),
        ({"question": "what?", "image": array / 255}, "ask: image is an array of float64"),
        ({"question": "what?", "image": "nowhere.png"}, "image: there is no file nowhere.png"),
        ({"question": 3}, "question should be a text"),
        ({"question": "what?", "smell": "x"}, "there is no smell to ask about"),
        ({"question": "what?", "rate": 8000}, "rate belongs to audio"),
        ({"question": "what?", "max_new_tokens": 0}, "a whole number from 1"),
    ):
        with pytest.raises(ExperimentError, match=says):
            here.ask(**asked)
    with pytest.raises(ExperimentError, match="knows no run's task"):
        Asked().ask("what?")


def test_a_finished_run_is_read_without_its_samples(in_folder: Result) -> None:
    assert in_folder.folder is not None
    text = (in_folder.folder / "experiment.yaml").read_text()
    assert "source: python" in text
    with pytest.raises(ExperimentError, match="lie in the program that gave them"):
        fl.run(fl.Experiment.load(in_folder.folder / "experiment.yaml"))
