"""Processor time of evaluating clients' personal models together and one after another, per test sample.

    python scripts/personal_models_cost.py [CLIENTS]

The shipped foundations with FedSA-LoRA, after a round of training; medians of five passes that take turns, on one thread. A pass
loads the clients' tensors, answers their test samples and scores the answers.
"""

import sys
import time
from statistics import median
from typing import Any

import torch

from fedloom.experiment.build import build
from fedloom.experiment.settings import Experiment
from fedloom.federation.loop import Federation
from fedloom.tasks.evaluation import assess

PASSES = 5
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], bool]] = {
    "multimodal LLM, generating": ({"source": "tabletop"}, {"schedule": "simultaneous"}, True),
    "multimodal LLM, teacher-forced": ({"source": "tabletop"}, {"schedule": "simultaneous"}, False),
    "text classifier": ({"source": "text", "task": "same"}, {}, False),
}


def trained(data: dict[str, Any], training: dict[str, Any], clients: int, held: int) -> Federation:
    """A federation after one round, whose clients hold so many test samples each."""
    modality = "text" if data["source"] == "text" else "image"
    fields = {
        "method": {"name": "fedsa-lora", "unseen": "mean_b"},
        "rounds": 1,
        "data": {**data, "clients": {modality: clients}, "train": 16, "test": held},
        "training": {"batch_size": 2, "steps": 4, **training},
        "engine": {"threads": 1, "device": "cpu"},
        "evaluation": {"every": 1, "controls": False, "samples": 0, "generate": False},
    }
    federation = build(Experiment.parse(fields), None, lambda progress: None)
    federation.run()
    return federation


def milliseconds(federation: Federation, together: int, generate: bool) -> float:
    """One pass over all clients' models, per test sample."""
    model, evaluator = federation.engine.model, federation.evaluator
    if not model.store.constant:
        model.store.clear()
    began, own = time.process_time(), federation.personal_models()
    settings = federation.experiment.evaluation
    assess(model, {}, own, evaluator.tests, settings, generate=generate, everywhere=False, cohort=together)
    return 1000 * (time.process_time() - began) / len(evaluator.tests.samples)


def main(clients: int) -> None:
    """Print a table: a line per kind and number of test samples."""
    torch.set_num_threads(1)
    print("| model | test samples each | one after another, ms | together, ms |\n|---|---|---|---|")
    for kind, (data, training, generate) in KINDS.items():
        for held in (2, 8, 32):
            federation = trained(data, training, clients, held)
            took: dict[int, list[float]] = {1: [], clients: []}
            for _ in range(1 + PASSES):  # the first reads what later ones have
                for together, passes in took.items():
                    passes.append(milliseconds(federation, together, generate))
            alone, packed = (median(passes[1:]) for passes in took.values())
            print(f"| {kind} | {held} | {alone:.1f} | {packed:.1f} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
