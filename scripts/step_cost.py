"""Operations of one local step by stage, and the steps of a two-stage round that cost as much as those of one stage.

    python scripts/step_cost.py experiments/uniflow/stages.yaml

PyTorch counts whole runs of one round, forward and backward; the difference of two numbers of steps is that of the steps alone.
"""

import sys
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment, load_rows

TAUS = (0.1, 0.25, 0.5, 0.75, 0.9)
FEW, MANY = 2, 4
STAGES: dict[str, dict[str, Any]] = {
    "one stage": {"training.schedule": "simultaneous"},
    "encoder": {"training.schedule": "two_stage", "training.tau": 1.0},
    "LLM": {"training.schedule": "two_stage", "training.tau": 0.0},
}


def operations(experiment: Experiment, steps: int) -> int:
    """Floating-point operations of a run of one round with so many local steps."""
    settings: dict[str, Any] = {
        "rounds": 1,
        "training.steps": steps,
        "engine.reuse": False,
        "engine.cohort": "off",
        "evaluation": {"every": 1, "generate": False, "controls": False, "samples": 1},
    }
    with FlopCounterMode(display=False) as counter:
        run(experiment.replace(**settings))
    return int(counter.get_total_flops())


def step_costs(experiment: Experiment) -> dict[str, float]:
    """Operations of one local step of all clients, by stage."""
    costs = {}
    for name, settings in STAGES.items():
        of_stage = experiment.replace(**settings)
        costs[name] = (operations(of_stage, MANY) - operations(of_stage, FEW)) / (MANY - FEW)
    return costs


if __name__ == "__main__":
    first = load_rows(sys.argv[1])[0]
    costs = step_costs(first)
    print("one local step of all clients, relative to one stage")
    for name, cost in costs.items():
        print(f"  {name:<10} {cost / 1e6:>10,.0f} MFLOP  {cost / costs['one stage']:.3f}")
    whole = first.training.steps or 0
    print(f"steps of a two-stage round that cost as much as {whole} in one stage")
    for tau in TAUS:
        share = (tau * costs["encoder"] + (1 - tau) * costs["LLM"]) / costs["one stage"]
        print(f"  tau {tau:<5} {whole / share:.2f}")
