"""What a run writes down for whoever watches it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedloom.core.activity import told_to
from fedloom.core.errors import ExperimentError
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.experiment.watch.folder_view import FolderView
from fedloom.federation.progress import Progress
from tests.experiment.small_run import SETTINGS, kill_in_round_two, quick_runs


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_runs():
        yield


def experiment(**changes: Any) -> Experiment:
    return Experiment.parse(SETTINGS | changes)


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "state" / "events.jsonl").read_text().splitlines()]


def status(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = FolderView(folder).snapshot()["status"]
    return found


def test_a_run_records_its_beginning_its_rounds_and_its_end(tmp_path: Path) -> None:
    heard: list[str] = []
    with told_to(heard.append):
        run(experiment(), tmp_path / "r")
    first, *rounds, last = events(tmp_path / "r")
    assert (first["event"], first["after"]) == ("begun", -1)
    held = {"holds": ["image"], "train": 4, "test": 1}
    assert first["clients"] == {"image-01": held, "image-02": held}
    assert [(e["event"], e["round"], e["rounds"]) for e in rounds] == [("round", n, 2) for n in range(3)]
    assert last["event"] == "ended"
    times = [e["time"] for e in (first, *rounds, last)]
    assert times == sorted(times)
    doing = json.loads((tmp_path / "r" / "state" / "doing.json").read_text())
    assert doing["text"] == "writing model, samples and report"
    assert heard[-1] == doing["text"], "whoever listened before is told, too"
    assert status(tmp_path / "r")["state"] == "ended"


def test_a_killed_run_is_shown_as_killed_and_then_as_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    kill_in_round_two(lambda: run(experiment(), folder))
    lines = (folder / "state" / "events.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["event"] == "stopped"
    (folder / "state" / "events.jsonl").write_text("".join(lines[:-1]))  # SIGKILL leaves no word
    assert status(folder)["headline"].startswith("Killed after round 2 of 2")
    run(experiment(), folder, resume=True)
    assert [e["event"] for e in events(folder)] == ["begun", "round", "round", "resumed", "round", "ended"]
    found = status(folder)
    assert found["headline"] == "Ended: complete; resumed once, after round 1"
    assert found["seams"] == [1]


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        (KeyboardInterrupt(), "stopped", "Stopped after round 1 of 2 (interrupted)"),
        (ExperimentError("a callback said no"), "failed", "Failed after round 1 of 2: a callback said no"),
    ],
)
def test_a_run_that_can_still_say_why_it_stops_does(
    error: BaseException, state: str, words: str, tmp_path: Path
) -> None:
    def refuses(progress: Progress) -> None:
        if progress.round == 1 and progress.client is None:
            raise error

    with pytest.raises(type(error)):
        run(experiment(), tmp_path / "r", callbacks=[refuses])
    found = status(tmp_path / "r")
    assert found["state"] == state
    assert found["headline"].startswith(words)


def test_pictures_are_there_before_the_first_round(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def look(progress: Progress) -> None:
        seen.append(FolderView(tmp_path / "r").snapshot())

    run(experiment(evaluation={"controls": False, "samples": 1}), tmp_path / "r", callbacks=[look])
    [sample] = seen[0]["samples"]
    assert sample["media"] == [{"modality": "image", "sound": False, "href": "media/0"}]
    assert [a["moment"] for a in sample["answers"]] == ["before"]
    assert [s["status"]["state"] for s in seen] == ["running"] * 3
    assert [a["moment"] for a in FolderView(tmp_path / "r").snapshot()["samples"][0]["answers"]] == [
        "before",
        "after",
    ]


def test_a_disk_that_takes_no_events_stops_no_run(tmp_path: Path) -> None:
    (tmp_path / "r" / "state" / "events.jsonl").mkdir(parents=True)
    (tmp_path / "r" / "state" / "doing.json").mkdir()
    assert run(experiment(), tmp_path / "r").summary["status"] == "complete"
