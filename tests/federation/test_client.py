"""A client's own guard: it keeps no tensor that is not finite, and reports no loss of no step."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from fedloom.experiment.settings import Experiment
from fedloom.methods.fedsa_lora import FedSALoRA


def test_a_client_keeps_no_personal_tensor_that_is_not_finite(federate, quick, monkeypatch) -> None:
    original = FedSALoRA.answer

    def spoilt(self: Any, trainer: Any, trained: Mapping[str, torch.Tensor], numbers: Any) -> Any:
        if trainer.client == "image-01":
            trained = {n: t * math.nan if n.endswith("lora_B") else t for n, t in trained.items()}
        return original(self, trainer, trained, numbers)

    monkeypatch.setattr(FedSALoRA, "answer", spoilt)
    data = {"clients": {"image": 2}, "train": 4, "test": 1}
    federation = federate(quick("fedsa-lora", rounds=1, data=data), "run")
    before = federation.clients["image-01"].personal
    federation.run()
    [entry] = federation.folder.history("ledger.jsonl")
    assert list(entry["refused"]) == ["image-01"]
    assert "is not finite after training; a smaller training.lr may help" in entry["refused"]["image-01"]
    after = federation.clients["image-01"].personal
    assert all(torch.equal(after[n], t) for n, t in before.items())


@pytest.mark.parametrize("cohort", ["off", 4])
def test_a_client_that_took_no_step_reports_no_loss_and_the_ledger_says_so(
    cohort, federate, tmp_path
) -> None:
    """Text idles in the encoder's rounds."""
    fields = {
        "rounds": 1,
        "method": "fedavg-lora",
        "data": {"clients": {"image": 1, "text": 2}, "train": 4, "test": 1},
        "model": {"llm_lora": {"rank": 2}, "encoder_lora": {"rank": 2}},
        "training": {"schedule": "rounds", "rho": 1.0, "text_only": "idle"},
        "evaluation": {"generate": False, "controls": False, "samples": 0},
        "engine": {"cohort": cohort},
    }
    federation = federate(Experiment.parse(fields), "run")
    federation.run()
    [entry] = federation.folder.history("ledger.jsonl")
    assert entry["notes"] == ["text-01: took no step", "text-02: took no step"]
    assert entry["refused"] == {}
    assert [n for n in federation.last_metrics if n.startswith("train/") and n != "train/loss"] == [
        "train/image-01/loss"
    ]
    assert federation.last_metrics["train/loss"] > 0
