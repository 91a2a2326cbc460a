"""What a folder is taken for, and a study's table."""

import json
from pathlib import Path

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import locked
from fedloom.core.seals import write_sealed
from fedloom.experiment.watch.folder_view import FolderView
from tests.experiment.report.report_folders import make_two_rows
from tests.experiment.watch.growing_run import GrowingRun, data, get, served


def test_a_folder_without_a_run_is_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    with served(folder) as server:
        page = data(server)
        assert page["status"]["headline"] == f"Waiting: no run has begun in {folder} yet"
        with locked(folder):
            assert data(server)["status"]["state"] == "preparing"
            run = GrowingRun(folder)
            run.begin()
            run.round(0)
            assert data(server)["status"]["headline"] == "Running: round 1 of 5"


def test_a_folder_of_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no run")
    with pytest.raises(
        ExperimentError, match=r"holds no run, study or deployment, but 1 other files, such as notes.txt"
    ):
        FolderView(tmp_path)
    with pytest.raises(ExperimentError, match=r"notes.txt is no folder"):
        FolderView(tmp_path / "notes.txt")


def test_a_study_is_a_table_of_rows_and_seeds(tmp_path: Path) -> None:
    entries = [
        {"row": row, "seed": seed, "path": f"{row.lower()}/seed-{seed}"}
        for row in ("A", "B")
        for seed in (0, 1)
    ]
    write_sealed(tmp_path / "plan.json", {"experiments": [], "runs": entries})
    first, second, third = (GrowingRun(tmp_path / e["path"]) for e in entries[:3])
    for run in (first, second):
        run.begin(row="A")
        run.round(0, accuracy=0.25)
    first.round(1, accuracy=0.5)
    first.end("complete, but 1 of 2 updates refused")
    with locked(tmp_path), served(tmp_path) as server:
        with locked(second.folder), locked(third.folder):
            page = data(server)
            assert page["status"]["headline"] == "Running: 1 of 4 runs have ended, 2 at work"
            [table] = page["tables"]
            assert table["header"] == ["row", "seed 0", "seed 1"]
            a, b = table["lines"]
            assert a[1] == {"text": "ended, 50.0 %", "href": "run/0/", "state": "ended"}
            assert a[2] == {"text": "round 0 of 5, 25.0 %", "href": "run/1/", "state": "running"}
            assert [cell["text"] for cell in b[1:]] == ["getting ready", "not begun"]
            [chart] = page["charts"]
            assert [p[:2] for p in chart["lines"][0]["points"]] == [[0, 0.25], [1, 0.5]]
            assert chart["lines"][1] == {"name": "B", "points": []}
            one = data(server, "run/1/data")
            assert (one["title"], one["status"]["state"]) == ("growing: A, seed 3", "running")
            assert get(server, "run/1/").status == get(server, "run/1/watch.js").status == 200
            assert get(server, "run/4/data").status == 404
        assert data(server)["tables"][0]["lines"][0][2]["text"] == "killed after round 0 of 5, 25.0 %"
    with served(tmp_path) as server:
        assert data(server)["status"]["headline"].startswith(
            "Killed: 1 of 4 runs had ended; fedloom run --resume"
        )


def test_a_finished_study_and_its_samples(tmp_path: Path) -> None:
    make_two_rows(tmp_path / "s")
    with served(tmp_path / "s") as server:
        page = data(server)
        assert page["status"]["headline"] == "Ended: all 4 runs"
        assert "1 of the ended runs used fewer updates" in page["status"]["notes"][0]
        run = data(server, "run/2/data")
        assert run["samples"][0]["media"][0]["href"] == "media/0"
        assert get(server, "run/2/media/0").read()[:4] == b"\x89PNG"


def test_paths_that_lead_out_of_a_study_are_left_out(tmp_path: Path) -> None:
    GrowingRun(tmp_path / "other").begin()
    (tmp_path / "s").mkdir()
    entries = [{"row": "a", "seed": 0, "path": "../other"}, {"row": "b", "seed": 0, "path": "b/seed-0"}]
    (tmp_path / "s" / "rows.json").write_text(json.dumps(entries))
    with served(tmp_path / "s") as server:
        [table] = data(server)["tables"]
    assert [line[0] for line in table["lines"]] == ["b"]
