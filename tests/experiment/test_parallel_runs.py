"""Rows side by side: the same bytes as one after the other, errors that arrive, workers that do not outlive their starter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fedloom.core.errors import ExperimentError
from fedloom.experiment.settings import load_rows
from fedloom.experiment.study import planned, run_rows
from tests.processes import processes_below, running

SMALL = {
    "rounds": 1,
    "data": {"clients": {"image": 2}, "train": 6, "test": 2},
    "engine": {"threads": 1},
    "evaluation": {"generate": False, "controls": False, "samples": 0},
    "rows": {"one": {"method.name": "fedavg-lora"}, "two": {"method.name": "feda2-lora"}},
}


def rows(folder: Path, **changes):
    file = folder / "rows.yaml"
    file.write_text(yaml.safe_dump(SMALL | {"method": "feda2-lora"} | changes))
    return load_rows(file)


def models(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.glob("*/seed-0/model/**/*"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in found if p.is_file()}


def test_side_by_side_gives_the_bytes_of_one_after_the_other(tmp_path) -> None:
    heard = []

    def watch(experiment, number, count):
        return lambda told: heard.append((experiment.row, number, count, told.round, told.client))

    experiments = rows(tmp_path)
    side_by_side = run_rows(experiments, tmp_path / "together", watch, jobs=2)
    one_by_one = run_rows(experiments, tmp_path / "alone", lambda *_: lambda told: None)
    assert models(tmp_path / "together") == models(tmp_path / "alone") != {}
    assert (
        [r.summary["row"] for r in side_by_side] == [r.summary["row"] for r in one_by_one] == ["one", "two"]
    )
    assert {(row, number, count) for row, number, count, _, _ in heard} == {("one", 1, 2), ("two", 2, 2)}
    assert {(row, at) for row, _, _, at, client in heard if client is None} == {
        (r, n) for r in ("one", "two") for n in (0, 1)
    }
    assert (tmp_path / "together" / "report.html").is_file()


def test_cores_are_shared_out_and_written_down(tmp_path) -> None:
    experiments = rows(tmp_path, engine={})
    run_rows(experiments, tmp_path / "out", lambda *_: lambda told: None, jobs=2)
    threads = {e.engine.threads for e in planned(tmp_path / "out")}
    assert threads == {max(1, len(os.sched_getaffinity(0)) // 2)}


@pytest.mark.slow
def test_what_was_begun_one_by_one_goes_on_beside_others(tmp_path) -> None:
    """A begun run keeps its threads; rows that follow share the cores."""

    class Killed(BaseException):
        pass

    def killed(experiment, number, count):
        def observe(told) -> None:
            if told.client is not None:
                raise Killed

        return observe

    with pytest.raises(Killed):
        run_rows(rows(tmp_path, engine={}), tmp_path / "out", killed, jobs=1)
    done = run_rows(
        planned(tmp_path / "out"), tmp_path / "out", lambda *_: lambda told: None, resume=True, jobs=2
    )
    assert [result.summary["status"] for result in done] == ["complete", "complete"]
    assert [e.engine.threads is None for e in planned(tmp_path / "out")] == [True, False]


def test_a_workers_error_arrives_in_one_sentence(tmp_path) -> None:
    broken = {"one": {"data.source": "folder", "data.path": str(tmp_path / "nowhere")}, "two": {}}
    with pytest.raises(ExperimentError, match="nowhere"):
        run_rows(
            rows(tmp_path, rows=broken, method="fedavg-lora"),
            tmp_path / "out",
            lambda *_: lambda told: None,
            jobs=2,
        )


def test_workers_end_with_a_killed_starter_and_the_runs_can_be_resumed(tmp_path) -> None:
    rows(tmp_path, rounds=300)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "fedloom", "run", str(tmp_path / "rows.yaml"), "--out", str(out)]
    with (tmp_path / "log").open("w") as log:
        starter = subprocess.Popen([*command, "--jobs", "2"], stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while len(list(out.glob("*/seed-0/state/round-*"))) < 2:
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.2)
    workers = [pid for pid in processes_below(starter.pid) if pid != starter.pid]
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 120
    while any(map(running, workers)):
        assert time.monotonic() < deadline, "a worker outlives its starter"
        time.sleep(0.1)
    assert len(list(out.glob("*/seed-0/metrics.jsonl"))) == 2
