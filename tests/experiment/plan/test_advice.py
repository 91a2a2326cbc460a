"""What would help where a run does not fit, on plans with made-up figures."""

from dataclasses import replace
from typing import Any

import fedloom
from fedloom.experiment.plan.advice import advice
from fedloom.experiment.plan.contents import LoadedPart
from fedloom.experiment.plan.result import Memory, Plan, Seconds
from fedloom.experiment.plan.stopwatch import Time
from fedloom.experiment.plan.survey import Lengths

GB = 10**9
EXPERIMENT = fedloom.Experiment.parse({"method": "fedavg-lora", "rounds": 9})


def plan(**changes: Any) -> Plan:
    weights = LoadedPart("llm", "LlamaForCausalLM", 7 * GB, "float32", 28 * GB)
    memory = Memory(29 * GB, 61 * GB, 40 * GB, 61 * GB, 48 * GB, 40 * GB, "cuda")
    whole = Plan(
        *("p", "FedAvg", None, "fedavg-lora", 9, 4, 4, [weights], [], [], [], []),
        *(Lengths(0), 0, None, None, memory, "rounds 1 in part", (), ()),
    )
    return replace(whole, **changes)


def test_what_does_not_fit_is_named_with_what_each_setting_saves() -> None:
    said = " ".join(advice(plan(), EXPERIMENT))
    assert "61 GB of memory are expected, and the GPU has 48 GB." in said
    assert "engine.dtype: bfloat16 halves the frozen weights, which saves 14 GB." in said
    assert "engine.cohort: off trains one client at a time, which saves about 24 GB." in said  # 32 * 3 / 4
    assert "training.batch_size: 8" in said
    assert "saves about 4 GB more." in said  # half of one client's 8


def test_the_evaluation_is_named_where_it_is_the_largest() -> None:
    memory = Memory(29 * GB, 30 * GB, 61 * GB, 61 * GB, 48 * GB, 40 * GB, "cpu")
    said = " ".join(advice(plan(memory=memory), EXPERIMENT))
    assert "this machine has 48 GB" in said
    assert "evaluation.batch_size: 32 saves about 16 GB and changes no figure." in said
    assert "engine.cohort" not in said


def test_a_run_that_fits_gets_no_advice_on_memory() -> None:
    fitting = Memory(29 * GB, 40 * GB, 30 * GB, 40 * GB, 48 * GB, 40 * GB, "cuda")
    assert advice(plan(memory=fitting), EXPERIMENT) == []


def test_much_evaluation_is_named_with_the_seconds_that_fewer_would_save() -> None:
    fitting = Memory(1, 1, 1, 1, 48 * GB, 40 * GB, "cuda")
    times = Seconds(Time(10), Time(5), Time(5), Time(20), Time(200), Time(260))
    (said,) = advice(plan(memory=fitting, seconds=times), EXPERIMENT)
    assert said.startswith("Evaluation takes 77% of the time; evaluation.every: 2 saves about 80 s")
