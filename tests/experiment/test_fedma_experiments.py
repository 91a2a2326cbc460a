"""The files of experiments/fedma."""

from pathlib import Path

import pytest

from fedloom.experiment.build import build
from fedloom.experiment.settings import load_rows
from fedloom.experiment.study import place

FEDMA = Path("experiments/fedma")


@pytest.mark.parametrize("size", ["tiny", "small", "paper"])
@pytest.mark.parametrize("name", sorted(p.stem for p in FEDMA.glob("*.yaml")))
def test_a_file_is_valid_in_every_size(name: str, size: str) -> None:
    text = (FEDMA / f"{name}.yaml").read_text()
    assert text.startswith("# fedloom run experiments/fedma/")
    runs = load_rows(FEDMA / f"{name}.yaml", [f"size={size}"])
    assert len({place(run) for run in runs}) == len(runs)
    for run in runs:
        assert run.size == size
        if run.data.source == "captions":
            assert run.training.one_pass
            assert run.training.lr_schedule == "run_cosine"
            assert run.model.llm_lora is None
            assert run.model.encoder_lora is None
            assert run.data.captions.least >= run.rounds


def test_scenarios_holds_every_method_in_four_scenarios_and_three_seeds() -> None:
    runs = load_rows(FEDMA / "scenarios.yaml")
    assert len({r.row for r in runs}) == 11
    assert {r.data.captions.scenario for r in runs} == {"iid", "topic", "source", "quality"}
    assert {r.seed for r in runs} == {0, 1, 2}
    cut = next(r for r in runs if r.row == "Fed-CMP")
    federation = build(cut.model_copy(update={"rounds": 1}), None, lambda told: None)
    assert len(federation.clients) == 6
