"""Options that a run, a method or a table cannot use are refused, not ignored."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fedloom
from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError


def refused(*args: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert isinstance(result.exception, ExperimentError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose clients hold no pictures and no sounds."""
    settings: dict[str, Any] = {
        "rounds": 1,
        "method": "fedavg-lora",
        "data": {"clients": {"text": 2}, "train": 2, "test": 1},
        "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
        "training": {"batch_size": 2},
        "evaluation": {"generate": False, "controls": False, "samples": 1},
    }
    folder = tmp_path_factory.mktemp("runs") / "text"
    fedloom.run(fedloom.Experiment.parse(settings), folder)
    return folder


def test_a_question_with_what_the_model_was_not_trained_on_is_refused(text_run: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    said = refused("ask", text_run, "--image", tmp_path / "x.png", "--question", "what is it?")
    assert "no client of the run held data of the kind image" in said
    assert "leave --pair out" in refused("ask", text_run, "--question", "a", "--pair", "b")
    said = refused("ask", text_run, "--question", "a", "--client", "../../x")
    assert "has no personal model of a client '../../x'; the run has the common model alone" in said


def test_a_column_that_no_run_has_is_refused(text_run: Path) -> None:
    said = refused("compare", text_run, "--column", "global/text/token_acuracy")
    assert "no run has the figure global/text/token_acuracy; there are global/text/token_accuracy" in said


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["methods", "nope", "--cost", "uniflow"], "unknown method nope"),
        (["methods", "pfedmma", "--cost", "llava-projector"], "pfedmma has no cost on llava-projector"),
        (["methods", "fedavg-lora", "--cost", "clip-vit-b16"], "fedavg-lora has no cost on clip-vit-b16"),
    ],
)
def test_a_cost_that_no_model_has_is_refused(args: list[str], says: str) -> None:
    assert says in refused(*args)
