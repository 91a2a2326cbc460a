"""The user's own files of every row are read before the first row trains, whatever their source."""

from pathlib import Path
from typing import Any

import pytest

from fedloom.core.errors import ExperimentError
from fedloom.experiment import study
from fedloom.experiment.settings import load_rows

SOURCES: dict[str, dict[str, Any]] = {
    "folder": {"method": "fedavg-lora"},
    "captions": {"method": "fedavg"},
    "text": {"method": "fedavg-lora", "data.task": "sst2", "data.clients": "{image: 0, text: 1}"},
    "classes": {"method": "promptfl", "data.dataset": "mine"},
    "labelled": {"method": "fedavg", "data.dataset": "mine"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_mistake_in_the_last_rows_files_comes_before_the_first_row(
    source, tmp_path: Path, monkeypatch
) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(study, "run_jobs", lambda *jobs: begun.append(jobs))
    row = {"data.source": source, "data.path": str(tmp_path / "nowhere"), **SOURCES[source]}
    lines = [f"    {key}: {value}" for key, value in row.items()]
    file = tmp_path / "e.yaml"
    file.write_text(
        "rounds: 1\nmethod: fedavg-lora\ndata: {clients: {image: 1}, train: 2, test: 1}\nrows:\n  good: {}\n  bad:\n"
        + "\n".join(lines)
    )
    with pytest.raises(ExperimentError, match="nowhere"):
        study.run_rows(load_rows(file), tmp_path / "out", lambda *_: lambda progress: None)
    assert begun == []
