"""Real runs in processes of their own, watched over HTTP: running, killed, resumed, ended."""

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_going_on import started, wait_for
from tests.experiment.watch.growing_run import data, served

RUN = """
name: watched
rounds: 20
data: {clients: {image: 2}, train: 8, test: 1}
method: fedavg-lora
training: {batch_size: 4}
evaluation: {generate: false, controls: false, samples: 1, diagnostics: off}
"""


@pytest.mark.slow
def test_a_run_is_watched_through_kill_and_resume_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    with served(tmp_path / "out") as server:
        states: list[str] = []

        def page() -> dict[str, Any]:
            found = data(server)
            state = found["status"]["state"]
            if states[-1:] != [state]:
                states.append(state)
            return found

        assert page()["status"]["state"] == "waiting"
        with started("run", "run.yaml", "--out", "out", cwd=tmp_path) as process:
            wait_for(lambda: page()["status"].get("done", 0) >= 2, process)
            running = page()
            assert running["status"]["headline"].startswith("Running: round ")
            assert running["status"]["each"] > 0
            assert running["samples"][0]["media"]
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=30)
        killed = page()["status"]
        assert killed["headline"].startswith(f"Killed after round {killed['done']} of 20")
        points = _points(page())
        with started("run", "--resume", "out", cwd=tmp_path) as process:
            wait_for(lambda: page()["status"]["seams"] != [], process)
            after = page()["status"]["seams"][0]
            assert after in (killed["done"], killed["done"] - 1)  # its checkpoint may have been under way
            assert f"resumed once, after round {after}" in page()["status"]["headline"]
            wait_for(lambda: page()["status"]["state"] == "ended", process)
            assert process.wait(timeout=240) == 0
        ended = page()
        assert ended["status"]["headline"] == f"Ended: complete; resumed once, after round {after}"
        # preparing may be over between two looks
        without = [state for state in states if state != "preparing"]
        assert without == ["waiting", "running", "killed", "running", "ended"]
        assert _points(ended)[: after + 1] == points[: after + 1]
        assert [p[0] for p in _points(ended)] == list(range(21))
        assert ended["report"]


def _points(page: dict[str, Any]) -> list[Any]:
    [chart] = [c for c in page["charts"] if c["title"] == "token accuracy"]
    points: list[Any] = chart["lines"][0]["points"]
    return points
