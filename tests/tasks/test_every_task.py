"""What every task has to do, for all of them: questions, benchmarks, refusals; and no other file asks which task it is."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.core.seals import CHECKSUMS
from fedloom.data.sources import SOURCES
from fedloom.data.sources.own_data import OwnData
from fedloom.experiment.finished_run import load, read_experiment
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.tasks.registry import TASKS

SOURCE = Path("src/fedloom")
TEXT: dict[str, Any] = {
    "rounds": 0,
    "method": "fedavg-lora",
    "evaluation": {"generate": False},
    "model": {"body_lora": {"rank": 2, "targets": ["query"]}},
}


def ask(folder: Path, *options: str) -> str:
    return CliRunner().invoke(app, ["ask", str(folder), *options], catch_exceptions=False).output.strip()


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "pairs"
    data = {"source": "text", "task": "same", "clients": {"text": 2}, "train": 4, "test": 2}
    run(Experiment.parse({**TEXT, "data": data}), folder)
    return folder


def answered(text: str) -> dict[str, float]:
    """The probabilities of an answer, by label, in its order."""
    return {label: float(share) for label, share in map(str.split, text.splitlines()[-2:])}


def test_a_text_classifier_answers_with_labels_and_probabilities(tmp_path: Path, pair_run: Path) -> None:
    shares = answered(ask(pair_run, "--question", "a red cube", "--pair", "a red cube"))
    assert set(shares) == {"same", "different"}
    assert [*shares.values()] == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(1, abs=0.011)
    with pytest.raises(ExperimentError, match="compares two texts; give the second one with --pair"):
        ask(pair_run, "--question", "a red cube")
    data = {"source": "text", "task": "warm", "clients": {"text": 2}, "train": 4, "test": 2}
    run(Experiment.parse({**TEXT, "data": data}), tmp_path / "one")
    assert set(answered(ask(tmp_path / "one", "--question", "a red cube"))) == {"warm", "cold"}
    with pytest.raises(ExperimentError, match="reads one text; leave --pair out"):
        ask(tmp_path / "one", "--question", "a red cube", "--pair", "a blue one")
    picture = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.raises(ExperimentError, match="reads --question, --pair; leave --image out"):
        ask(tmp_path / "one", "--question", "a red cube", "--image", str(picture))


@pytest.mark.parametrize(
    ("method", "title"),
    [("zero-shot", "an image classifier"), ("fedmmkt", "classifiers of the clients' own")],
)
@pytest.mark.parametrize("command", ["benchmark", "exam"])
def test_a_task_without_benchmarks_says_what_the_run_trained(
    method: str, title: str, command: str, quick, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("fedloom.tasks.own_models.GeneratorEvaluator.of", lambda *settings: None)
    run(quick(method, rounds=0), tmp_path / "r")
    with pytest.raises(ExperimentError, match=f"the run trained {title}"):
        CliRunner().invoke(app, [command, str(tmp_path / "r"), "--tabletop", "8"], catch_exceptions=False)


def test_a_benchmark_of_nothing_is_one_sentence(tmp_path: Path, pair_run: Path) -> None:
    with pytest.raises(ExperimentError, match="the run trained a text classifier"):
        CliRunner().invoke(app, ["benchmark", str(pair_run)], catch_exceptions=False)
    with pytest.raises(ExperimentError, match="holds no run"):
        CliRunner().invoke(app, ["benchmark", str(tmp_path)], catch_exceptions=False)


@pytest.mark.parametrize("setting", ["bertscore", "gptscore"])
@pytest.mark.parametrize(
    ("method", "source"), [("fedavg-lora", "text"), ("pfedmma", "classes"), ("fedavg", "labelled")]
)
def test_a_metric_of_sentences_is_refused_where_answers_are_labels(setting, method, source) -> None:
    settings = {"method": method, "data": {"source": source}, "evaluation": {setting: "minilm"}}
    with pytest.raises(ExperimentError, match=f"evaluation.{setting} compares sentences"):
        Experiment.parse(settings)


def test_every_source_is_for_a_task_and_every_task_has_a_source() -> None:
    by_labels = {source.for_labels for source in SOURCES.values() if issubclass(source, OwnData)}
    assert {source.for_task for source in SOURCES.values()} | by_labels == set(TASKS)
    for task in TASKS.values():
        assert task.title
        assert task.headline


def test_a_run_from_before_the_tasks_is_still_read(pair_run: Path) -> None:
    """Its file held the fields of every source, whichever was used."""
    file, seals = pair_run / "experiment.yaml", pair_run / CHECKSUMS
    before, sealed = file.read_text(encoding="utf-8"), seals.read_bytes()
    seals.unlink()  # runs had none then
    old = "data:\n  dataset: tabletop\n  styles: [sketch]\n  partition: {kind: few-shot, shots: 16}\n  test_share: 0.2\n"
    try:
        former = before.replace("  partition: null\n", "").replace("data:\n", old)
        file.write_text(former, encoding="utf-8")
        assert read_experiment(pair_run).data == Experiment.load(file).data
        assert read_experiment(pair_run).data.partition is None
        assert load(pair_run).groups(()) == frozenset({"body", "head"})
        assert "engine:\n  name: local\n" in before
        whole = read_experiment(pair_run)
        file.write_text(before.replace("engine:\n  name: local\n", "engine:\n"), encoding="utf-8")  # 0.2
        assert read_experiment(pair_run).engine == whole.engine == Experiment.load(file).engine
        file.write_text(former.split("versions:")[0], encoding="utf-8")
        with pytest.raises(ExperimentError, match=r"data\.dataset is not read by source text"):
            Experiment.load(file)
    finally:
        file.write_text(before, encoding="utf-8")
        seals.write_bytes(sealed)


def test_no_file_outside_tasks_and_models_asks_which_task_it_is() -> None:
    asking = re.compile(
        r"isinstance\([^)]*\b(ModelBank|AdaptedMLLM|AdaptedCLIP|AdaptedClassifier|KnowledgeServer|QuestionAnswering|"
        r"TextClassification|ImageClassification|OwnModels|\w+Source)\b"
        r"|\b(pictured|own_models|labels\(\)|task\.name|for_task|source_name\(\)|data\.source)"
        r"\b *(==|!=|in\b|and\b|or\b|else\b|:$)"
        r"|if [^\n]*\b(pictured|data\.own_models|data\.labels)\b"
    )
    folders = ("cli", "deploy", "experiment", "federation", "privacy", "aggregation", "core")
    files = [file for folder in folders for file in sorted((SOURCE / folder).rglob("*.py"))]
    assert len(files) > 60
    found = [
        f"{file}: {line.strip()}"
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if asking.search(line)
    ]
    assert found == []
