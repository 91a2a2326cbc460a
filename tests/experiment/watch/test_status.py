"""A run's status from its files and its lock."""

import time
from pathlib import Path

import pytest

from fedloom.core.folder_lock import locked
from fedloom.experiment.watch.files import RunFiles
from fedloom.experiment.watch.status import Status, status_of
from tests.experiment.watch.growing_run import GrowingRun


def status(run: GrowingRun, files: RunFiles | None = None) -> Status:
    files = files or RunFiles(run.folder)
    files.read_on()
    return status_of(files)


def test_a_run_from_its_folder_to_its_end(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    files = RunFiles(run.folder)
    assert status(run, files).state == "waiting"
    with locked(run.folder):
        assert status(run, files).state == "preparing"
        run.begin()
        assert status(run, files).headline == "Running: before training, 5 rounds to come"
        for number in range(3):
            run.round(number)
        found = status(run, files)
        assert found.headline == "Running: round 3 of 5"
        assert (found.done, found.rounds, found.each) == (2, 5, pytest.approx(10.0))
        assert found.last == pytest.approx(run.clock, abs=0.01)
        assert found.since == pytest.approx(run.clock - 30, abs=0.01)
        for number in (3, 4, 5):
            run.round(number)
        assert status(run, files).headline == "Running: at its end"
        run.end("complete, but 1 of 10 updates refused")
    found = status(run, files)
    assert (found.state, found.since) == ("ended", None)
    assert found.headline == "Ended: complete, but 1 of 10 updates refused"
    assert found.worked == pytest.approx(70.0)


def test_a_killed_run_and_a_resumed_one(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    files = RunFiles(run.folder)
    with locked(run.folder):
        run.begin()
        run.round(0)
        run.round(1)
        run.round(2)
        assert status(run, files).state == "running"
    found = status(run, files)
    assert found.state == "killed"
    assert found.headline.startswith("Killed after round 2 of 5: its process is gone")
    assert [words for _, words in found.history] == ["begun", "last sign of a process that was killed"]
    kept = (run.folder / "metrics.jsonl").read_text().split("\n")
    (run.folder / "metrics.jsonl").write_text("\n".join(x for x in kept if '"round": 2' not in x))
    with locked(run.folder):
        run.begin("resumed", after=1)
        found = status(run, files)
        assert files.series()["train/loss"] == {1: 1.0}, "the histories were cut"
        assert found.headline == "Running: round 3 of 5; resumed once, after round 1"
        assert found.seams == [1]
        run.round(2, accuracy=0.75)
        status(run, files)
        assert files.series()["global/image/token_accuracy"][2] == 0.75
        run.event("stopped", why="interrupted")
    assert status(run, files).headline.startswith("Stopped after round 2 of 5 (interrupted)")


def test_a_process_that_loads_to_go_on_is_no_running_one(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    run.clock -= 1000
    run.begin()
    run.round(0)
    run.round(1)
    with locked(run.folder):
        found = status(run)
        assert (found.state, found.headline) == ("preparing", "Getting ready to go on after round 1 of 5")
        run.clock = time.time()
        run.begin("resumed", after=1)
        assert status(run).state == "running"


def test_a_failed_run_says_why(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    run.begin()
    run.event("failed", why="No space left on device")
    found = status(run)
    assert found.state == "failed"
    assert "Failed before round 1: No space left on device" in found.headline


def test_fewer_updates_than_asked_are_said_while_it_runs(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r", clients=("ann", "bob", "cat"))
    run.begin()
    run.round(0)
    run.round(1, answered=["ann"], refused={"bob": "not finite"})
    notes = status(run).notes
    assert "Used fewer updates than asked: 1 of 3 were refused." in notes
    assert "Used fewer updates than asked: 1 of 3 were not sent: their clients did not answer." in notes
    run.add("metrics.jsonl", {"round": "x"})
    assert "1 line of metrics.jsonl cannot be read." in status(run).notes


def test_a_run_without_events_is_shown_as_far_as_its_files_go(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "r")
    run.begin()
    run.round(0)
    run.round(1)
    (run.folder / "state" / "events.jsonl").unlink()
    found = status(run)
    assert (found.state, found.done, found.each, found.worked) == ("killed", 1, None, 1.5)
    run.end()
    assert status(run).state == "ended"
