"""Every figure that is a mean over test samples can be given again from the answers that a run keeps."""

from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.experiment.report.cases import cases
from fedloom.experiment.report.columns import figure_of
from fedloom.experiment.report.read import Run, read_run
from fedloom.experiment.report.sample_values import SampleValues

TEXTS: dict[str, Any] = {
    "rounds": 1,
    "method": "fedavg-lora",
    "data": {"source": "text", "task": "warm", "clients": {"text": 3}, "train": 8, "test": 6},
    "model": {"body_lora": {"rank": 2}},
    "training": {"batch_size": 4, "lr": 0.01},
    "evaluation": {"controls": False, "samples": 1},
}
OWN: dict[str, Any] = {
    "rounds": 1,
    "method": "fedmd",
    "data": {
        "source": "labelled",
        "dataset": "handwriting",
        "clients": {"image": 2, "text": 3},
        "train": 12,
        "test": 8,
    },
    "model": {
        "architectures": {"image": ["tiny-resnet"], "text": ["tiny-bert"]},
        "synthesis": {"per_class": 1, "steps": 2},
    },
    "training": {"batch_size": 8, "epochs": 1},
    "evaluation": {"controls": False, "samples": 1},
}
ALONE = OWN | {"model": {"architectures": OWN["model"]["architectures"]}}
WORDS: dict[str, Any] = {
    "rounds": 1,
    "method": "fedavg-lora",
    "data": {"clients": {"text": 2}, "train": 2, "test": 3},
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
    "training": {"batch_size": 2},
    "evaluation": {"controls": False, "samples": 1, "loss": True},
}


@pytest.fixture(autouse=True)
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures of the generator, and no report."""
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *told: None)
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")


@pytest.mark.parametrize(
    ("settings", "method", "figures"),
    [
        (TEXTS, "fedavg-lora", ("global/text/accuracy", "clients/text/accuracy")),
        (
            TEXTS,
            {"name": "fedsa-lora", "unseen": "mean_b"},
            ("global/text/accuracy", "clients/text/accuracy", "local/text/accuracy"),
        ),
        (TEXTS, "feddpa-lora", ("global/text/accuracy", "clients/text/accuracy", "local/text/accuracy")),
        (TEXTS, "local-only", ("global/text/accuracy", "clients/text/accuracy", "local/text/accuracy")),
        (OWN, "fedmd", ("global/image/accuracy", "global/text/accuracy", "local/text/accuracy")),
        (ALONE, "local-only", ("global/image/accuracy", "clients/text/accuracy")),
        (WORDS, "fedavg-lora", ("global/text/loss", "global/text/token_accuracy")),
    ],
    ids=lambda given: (
        given
        if isinstance(given, str)
        else given["name"]
        if isinstance(given, dict) and "name" in given
        else ""
    ),
)
@pytest.mark.parametrize("generate", [True, False], ids=["generate", "score"])
def test_the_kept_answers_give_the_figures(
    settings: dict[str, Any], method: Any, figures: tuple[str, ...], generate: bool, tmp_path: Path
) -> None:
    own = settings | {"method": method}
    own["evaluation"] = own["evaluation"] | {"generate": generate}
    fedloom.run(fedloom.Experiment.parse(own), tmp_path / "run")
    run, values = read_run(tmp_path / "run"), SampleValues()
    for name in figures:
        found = values.of_run(run, name)
        assert found is not None, name
        assert sum(found.values()) / len(found) == pytest.approx(_figure(run, name), abs=1e-6), name
    counts = {n: len(values.of_run(run, n) or {}) for n in figures}
    tested = settings["data"]["test"]
    clients = settings["data"]["clients"]
    assert counts == {n: tested * clients[n.split("/")[1]] for n in figures}, "a value for every test sample"


def _figure(run: Run, name: str) -> float:
    figure = figure_of(run, name)
    assert figure is not None, name
    return figure


def test_answers_that_nobody_generated_are_no_cases(tmp_path: Path) -> None:
    own = WORDS | {"evaluation": {"controls": False, "samples": 1, "generate": False}}
    fedloom.run(fedloom.Experiment.parse(own), tmp_path / "run")
    assert (tmp_path / "run" / "predictions-end.jsonl").is_file()
    with pytest.raises(
        ExperimentError, match=r"holds no answers to show; run it with evaluation\.generate=true"
    ):
        cases([tmp_path / "run"], 1, lambda *_: None)
