"""A run leaves no tensor behind: a table of hundreds of runs takes no more memory than one of them."""

import gc

import pytest
import torch

from fedloom.experiment.run import run

TEXT = {"data": {"source": "text", "clients": {"text": 2}, "train": 12, "test": 2, "task": "entailment"}}
KINDS = {
    "words and pictures": ("fedsa-lora", {}),
    "texts": ("fedex-lora", {**TEXT, "model": {"body_lora": {"rank": 2}}}),
    "pictures by class": ("pfedmma", {}),
    "learned prompts": ("cocoop-fedavg", {}),
    "models of the clients' own": ("fedmmkt", {}),
    "checkpointed": ("feda2-lora", {"engine": {"checkpointing": True}}),
}


def tensors() -> int:
    gc.collect()
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of objects that the count touches
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_leaves_no_tensor_behind(kind, quick, tmp_path) -> None:
    method, settings = KINDS[kind]
    experiment = quick(method, rounds=1, **settings)
    run(experiment, tmp_path / "first")  # caches of the process are filled
    before = tensors()
    run(experiment, tmp_path / "second")
    assert tensors() == before
