"""Plans of small runs, beside the runs themselves."""

import time
from pathlib import Path
from typing import Any

import pytest

import fedloom
from fedloom.experiment.plan.make import How, make_plan
from fedloom.experiment.plan.process import distinct
from fedloom.experiment.plan.result import Plan

SETTINGS: dict[str, Any] = {
    "rounds": 4,
    "data": {"clients": {"text": 3}, "train": 3, "test": 2},
    "model": {"llm_lora": {"rank": 2}, "encoder_lora": None},
    "training": {"batch_size": 2},
    "evaluation": {"generate": False, "controls": False, "samples": 0, "every": 4},
    "engine": {"cohort": "off", "threads": 1},
}


def planned(settings: dict[str, Any], *, how: How = "none") -> tuple[Plan, fedloom.Experiment]:
    experiment = fedloom.Experiment.parse(SETTINGS | settings)
    return make_plan(experiment, time.time(), how=how, limit=600), experiment


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "fedavg-lora"},
        {"method": "fedsa-lora"},  # keeps B
        {"method": "rolora"},  # one factor a round, in turns
        {"method": "flora"},  # sends the stack of all clients
        {"method": "fedavg-lora", "privacy": {"secure": {}}},
        {"method": "fedavg-lora", "privacy": {"robust": {"kind": "median"}}},
        {"method": "flexlora", "cohort": {"ranks": {"llm": [1, 2]}}},
    ],
    ids=lambda s: "-".join(map(str, (s["method"], *s.get("privacy", ())))),
)
def test_the_bytes_are_those_of_the_run(settings: dict[str, Any]) -> None:
    plan, experiment = planned(settings)
    done = fedloom.run(experiment).summary
    assert plan.traffic is not None
    assert plan.traffic.exact
    assert (plan.traffic.whole_up, plan.traffic.whole_down) == (done["bytes_up"], done["bytes_down"])
    assert 0 < plan.traffic.up <= plan.traffic.whole_up / 4 * 2


def test_a_probe_measures_and_counts_what_the_run_does() -> None:
    plan, experiment = planned(
        {"method": "feda2-lora", "training": {"batch_size": 2, "epochs": 2}}, how="whole"
    )
    done = fedloom.run(experiment).summary
    assert plan.seconds is not None
    assert plan.memory is not None
    assert 0 < plan.seconds.round.clock < plan.seconds.whole.clock
    assert 0 < plan.memory.start <= plan.memory.peak
    assert plan.steps == 4 * 3 * 2 * 2  # rounds, clients, epochs, batches
    assert [kind.clients for kind in plan.kinds] == [("text-01", "text-02", "text-03")]
    assert plan.kinds[0].shared == plan.kinds[0].trained == 6144  # rank 2 on 12 layers of 128 x 128
    assert plan.traffic is not None
    assert plan.traffic.whole_up == done["bytes_up"]
    assert plan.probed == "rounds 1, 2, 3, 4 in full"


def test_a_short_probe_counts_the_same_and_says_that_it_saw_a_part() -> None:
    settings = {"method": "feda2-lora", "training": {"batch_size": 1, "epochs": 4}}
    plan, experiment = planned(settings, how="short")
    done = fedloom.run(experiment).summary
    assert plan.traffic is not None
    assert (plan.traffic.whole_up, plan.steps) == (done["bytes_up"], 4 * 3 * 4 * 3)
    assert plan.seconds is not None
    assert plan.seconds.whole.clock > 4 * plan.seconds.round.clock > 0
    assert plan.probed == "rounds 1, 2, 3 in part"
    assert plan.whole_probe is not None


def test_a_probe_without_time_is_ended_and_says_so() -> None:
    experiment = fedloom.Experiment.parse(SETTINGS | {"method": "fedavg-lora"})
    plan = make_plan(experiment, time.time() - 100, how="short", limit=50)
    assert plan.stopped
    assert plan.seconds is None
    assert "ended by --limit" in plan.probed


def test_rounds_with_other_clients_are_counted_by_their_clients() -> None:
    plan, experiment = planned({"method": "fedavg-lora", "cohort": {"fraction": 0.5}})
    done = fedloom.run(experiment).summary
    assert plan.asked == 2
    assert plan.traffic is not None
    assert plan.traffic.whole_up == done["bytes_up"]
    assert plan.steps == 4 * 2 * 2


def test_without_a_probe_time_and_memory_stay_open_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan, _ = planned({"method": "fedavg-lora"})
    assert plan.seconds is None
    assert plan.memory is None
    assert plan.probed == "not measured, by --no-probe"
    assert not list(tmp_path.iterdir())


def test_cut_samples_are_counted_for_training_and_test() -> None:
    whole, _ = planned({"method": "fedavg-lora"})
    model = SETTINGS["model"] | {"max_text_tokens": 8}
    short, _ = planned({"method": "fedavg-lora", "model": model})
    assert sum(d.train.cut for d in whole.data) == whole.tests.cut == 0
    assert sum(d.train.cut for d in short.data) == 3 * 3
    assert short.tests.cut == 3 * 2
    assert any("100% of the training samples are cut" in sentence for sentence in short.advice)


def test_seeds_are_planned_once() -> None:
    one = fedloom.Experiment.parse(SETTINGS | {"method": "fedavg-lora", "seed": 1})
    two = fedloom.Experiment.parse(SETTINGS | {"method": "fedavg-lora", "seed": 2})
    other = fedloom.Experiment.parse(SETTINGS | {"method": "fedsa-lora", "seed": 1})
    assert distinct([one, two, other]) == [(one, 2), (other, 1)]
