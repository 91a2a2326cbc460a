"""Object questions and retrieval on the shipped model."""

import pytest
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.tasks.benchmark import answers, retrieval, score, yes_no_scenes


def test_the_shipped_model_finds_captions_and_answers_object_questions(quick, federate) -> None:
    model = federate(quick(data={"clients": {"image": 1}, "train": 2, "test": 1})).engine.model
    asked, captions = yes_no_scenes(40)
    assert {s.meta["truth"] for s in asked} == {"yes", "no"}
    said = answers(model, asked)
    found = score(asked, said)
    assert found["unanswered"] == 0.0
    right = sum(a.split()[0] == s.meta["truth"] for a, s in zip(said, asked, strict=True))
    assert found["accuracy"] == right / 40
    assert found["yes_rate"] == sum(a.startswith("yes") for a in said) / 40
    assert score(asked, [s.answer for s in asked])["accuracy"] == 1.0
    near = retrieval(model, captions[:32], candidates=4)
    assert near["r1_likelihood"] > 0.5  # chance 0.25
    assert near["captions"] == 28  # of 32, without repetitions and in whole groups of 4
    assert 0 <= near["r1_embedding"] <= 1


def test_nothing_to_ask_is_a_sentence(tmp_path, quick) -> None:
    from fedloom.experiment.run import run

    folder = run(
        quick("fedavg", rounds=0, data={"clients": {"image": 1}, "train": 2, "test": 1}), tmp_path / "r"
    ).folder
    with pytest.raises(Exception, match="give --tabletop 200"):
        CliRunner().invoke(app, ["exam", str(folder)], catch_exceptions=False)
    told = CliRunner().invoke(app, ["exam", str(folder), "--tabletop", "8"])
    assert told.exit_code == 0
    assert "tabletop/accuracy" in told.output
