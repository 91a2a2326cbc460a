"""Settings of workers and loaders: old records, old files, contradictions, and threads that are written down."""

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment import workers
from fedloom.experiment.parallel_runs import shared_out, suggested
from fedloom.experiment.provenance import differences
from fedloom.experiment.settings import Experiment


@pytest.mark.parametrize("count", ["auto", 0, 3])
def test_a_record_of_an_earlier_version_names_loaders_by_their_old_name(count) -> None:
    engine = Experiment.from_record(
        {"method": "fedavg-lora", "engine": {"workers": count}}, "a record"
    ).engine
    assert (engine.loaders, engine.workers, engine.name) == (count, None, "local")
    engine = Experiment.from_record(
        {"method": "fedavg-lora", "engine": {"workers": 2, "loaders": count}}, "a record"
    ).engine
    assert (engine.loaders, engine.workers) == (count, 2)


def test_no_workers_are_left_out_and_no_loaders_are_named() -> None:
    with pytest.raises(ExperimentError, match=r"engine\.workers.* are engine\.loaders"):
        Experiment.parse({"method": "fedavg-lora", "engine": {"workers": 0}})


def test_workers_and_a_model_over_all_gpus_contradict_each_other() -> None:
    with pytest.raises(ExperimentError, match=r"engine\.device_map spreads one model over all GPUs"):
        Experiment.parse({"method": "fedavg-lora", "engine": {"workers": 2, "device_map": "auto"}})


@pytest.mark.parametrize(
    ("engine", "count", "threads"),
    [
        ({"workers": 2}, 2, 4),
        ({"workers": "auto"}, 8, 1),
        ({"workers": "auto", "threads": 3}, 2, 3),
        ({"workers": 20}, 20, 1),
        ({"workers": 2, "threads": 1}, 2, 1),
    ],
)
def test_workers_share_the_cores_and_the_threads_are_written_down(
    engine, count, threads, monkeypatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: 8)
    found = workers.with_workers(
        Experiment.parse({"method": "fedavg-lora", "engine": {"device": "cpu", **engine}})
    )
    assert (workers.number_of_workers(found.engine), found.engine.threads) == (count, threads)
    assert found.engine.workers == engine["workers"], "a resume elsewhere counts again"
    assert workers.with_workers(found) == found
    alone = workers.in_one_process(found).engine
    assert (alone.workers, alone.threads) == (None, threads)


def test_rows_side_by_side_share_the_cores_with_their_workers(monkeypatch) -> None:
    monkeypatch.setattr("fedloom.experiment.parallel_runs.cores", lambda: 8)
    rows = [
        Experiment.parse({"method": "fedavg-lora", "engine": {"workers": 2}}),
        Experiment.parse({"method": "fedavg-lora", "engine": {"device": "cpu"}}),
    ]
    assert [e.engine.threads for e in shared_out(rows, 2)] == [2, 4]
    assert suggested(rows) == 1


def test_a_plan_says_that_it_is_of_one_process() -> None:
    [note] = workers.about_workers(
        Experiment.parse({"method": "fedavg-lora", "engine": {"workers": 2, "threads": 1}})
    )
    assert note.startswith("planned for one process: 2 workers train cohorts side by side")
    assert workers.about_workers(Experiment.parse({"method": "fedavg-lora"})) == []


def test_a_resume_may_change_the_processes_and_nothing_else() -> None:
    def begun(**engine: object) -> dict:
        fields = Experiment.parse({"method": "fedavg-lora", "engine": engine}).as_dict()
        return {"experiment": fields, "data": {}, "model": "", "threads": 1, "device": "", "versions": {}}

    assert differences(begun(threads=1), begun(threads=1, workers=2)) == []
    old = begun(threads=1)
    old["experiment"]["engine"]["workers"] = "auto"  # loaders, until 0.2
    del old["experiment"]["engine"]["loaders"]
    assert differences(old, begun(threads=1, workers=2)) == []
    assert differences(begun(cohort=2), begun(cohort=3)) == ["engine.cohort was 2 and is 3"]
