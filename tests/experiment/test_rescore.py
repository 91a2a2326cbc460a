"""New metrics on old answers."""

import json
import shutil
from pathlib import Path

import pytest

import fedloom
from fedloom.core.errors import ExperimentError
from fedloom.core.seals import check_files
from fedloom.experiment.report.load_study import read
from fedloom.experiment.rescore import rescore
from fedloom.tasks.metrics.metric import METRICS, Metric

WORDS = Metric("words", score=lambda answer, reference: float(len(answer.split())))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    settings = {
        "rounds": 1,
        "method": "fedavg-lora",
        "data": {"clients": {"text": 2}, "train": 2, "test": 2},
        "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
        "training": {"batch_size": 2},
        "evaluation": {"controls": False, "samples": 1, "max_new_tokens": 4},
    }
    fedloom.run(fedloom.Experiment.parse(settings), folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def answers(run: Path, moment: str) -> list[dict]:
    return [json.loads(line) for line in (run / f"predictions-{moment}.jsonl").read_text().splitlines()]


def test_a_metric_registered_later_is_measured_on_the_kept_answers(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = json.loads((run / "summary.json").read_text())
    assert rescore(run) == {str(run): []}
    monkeypatch.setitem(METRICS, "words", WORDS)
    names = rescore(run)[str(run)]
    assert "global/text/words" in names
    read_back = read(run).runs[0]
    for moment, figure in (("start", read_back.start), ("end", read_back.final)):
        lengths = [len(a["prediction"].split()) for a in answers(run, moment)]
        assert figure("global/text/words") == pytest.approx(sum(lengths) / len(lengths))
    after = json.loads((run / "summary.json").read_text())
    assert {n: after["metrics"][n] for n in before["metrics"] if n != "start"} == {
        n: v for n, v in before["metrics"].items() if n != "start"
    }
    assert all("text/words" in client["metrics"] for client in after["clients"])
    check_files(run, "summary.json", "metrics.jsonl")  # sealed anew
    assert rescore(run) == {str(run): []}


def test_answers_of_another_model_and_a_run_without_answers_are_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "words", WORDS)
    (run / "checksums.json").unlink()
    changed = [a | {"correct": 0, "prediction": "nothing"} for a in answers(run, "end")]
    (run / "predictions-end.jsonl").write_text("".join(json.dumps(a) + "\n" for a in changed))
    with pytest.raises(ExperimentError, match="does not give the run's own figures"):
        rescore(run)
    for file in run.glob("predictions-*"):
        file.unlink()
    with pytest.raises(ExperimentError, match="holds no answers to measure"):
        rescore(run)
