"""The values that the specifications give for each method are its defaults (fedlora 3 and 4, pfedmma 3, fedma 5, fedmmkt 6)."""

from typing import Any

import pytest

from fedloom.methods import METHODS
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.models.training.settings import Training

VALUES: dict[str, dict[str, Any]] = {
    "feda2-lora": {
        "mode": "centred",
        "ridge": None,
        "tail": "rescale",
        "download": "svd",
        "weights": "uniform",
    },
    "feddpa-lora": {"variant": "dual", "mix": 0.5, "prompts": 5},
    "fdlora": {"outer_lr": 0.7, "outer_momentum": 0.9},
    "flexlora": {"split": "sqrt"},
    "hetlora": {"kept": 0.99},
    "fedsvd": {"period": 1},
    "fedrot-lora": {"strength": 0.5},
    "fedsa-lora": {"unseen": "clients", "head": "shared"},
    "fedex-lora": {"residual_rank": None},
    "promptfl": {"length": 16, "prox": 0.0, "weights": "examples"},
    "cocoop-fedavg": {"length": 16},
    "fedpgp": {"length": 16, "rank": 8, "con_weight": 0.5, "con_tau": 0.5, "z0": "template"},
    "fedotp": {"ot": "ot", "ot_mass": 0.8, "ot_eps": 0.1, "ot_tolerance": 1e-3, "ot_iterations": 100},
    "pfedmoap": {"contexts": 10, "experts": "nearest", "heads": 8, "mix": 0.5, "gate_lr": 0.01},
    "pfedmma": {
        "blocks": 3,
        "rank": 32,
        "bias": False,
        "scale": 1e-3,
        "grad_rescale": True,
        "activation": "relu",
        "inner_activation": True,
        "branch_input": "ln1",
        "init_up": "kaiming",
        "share": "s",
        "eval_point": "after_broadcast",
        "template": "a photo of a {}.",
    },
    "fedcmp": {
        "beta": 0.2,
        "gamma": 1.0,
        "floor": 1e-3,
        "kappa": 2.0,
        "residual": 1.0,
        "eta": 0.99,
        "space": "weight",
        "momentum": "blend",
        "form": "attach",
        "reliability": "variance",
        "side": "output",
        "momentum_start": 1,
        "bias": "joined",
    },
    "fedmd": {"kd": 0.3, "consensus": "probabilities"},
    "creamfl": {"gamma": 0.5, "temperature": 0.5, "tau": 0.07},
    "fedmmkt": {"kd": 0.3, "pseudo": 0.5, "temperature": 0.1, "labels": "vote", "generator": "voted"},
}


@pytest.mark.parametrize("name", VALUES)
def test_a_methods_defaults(name) -> None:
    method = METHODS[name]()
    assert {field: getattr(method, field) for field in VALUES[name]} == VALUES[name]


def test_fedmmkts_parts_and_training_by_stages() -> None:
    method = METHODS["fedmmkt"]()
    assert method.vote.model_dump() == {
        "weight": "exp",
        "vote": "hard",
        "gate": "share",
        "threshold": 0.5,
        "rejected": "drop",
    }
    fusion = method.fusion
    assert (fusion.temperature, fusion.share, fusion.tau, fusion.tau_agg) == (0.1, 0.5, 0.07, 1.0)
    assert (fusion.attention, fusion.other, fusion.aggregate) == ("identity", "message_mean", "contrastive")
    assert (fusion.anchor, fusion.guard) == ("blip", False)
    made = SynthesisSettings()
    assert (made.per_class, made.every, made.guidance, made.drop) == (10, 1, 3.0, 0.2)
    assert (made.lr, made.batch_size, made.passes, made.anchor_weight) == (1e-5, 16, 1, 0.0)
    training = Training()
    assert (training.schedule, training.tau, training.rho, training.epochs) == ("two_stage", 0.25, 0.5, 1)
    assert (training.projector, training.text_only, training.batch_size) == ("stage1", "llm", 16)
    assert (training.optimizer, training.betas, training.weight_decay) == ("adamw", (0.9, 0.95), 0.0)
    assert (training.clip, training.lr_schedule, training.warmup) == (1.0, "cosine", 0.03)
