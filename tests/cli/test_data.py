"""`fedloom data`: every part of a file with rows is checked; faults are one sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError


def run(*words: object) -> str:
    """What the command prints; its errors are raised."""
    result = CliRunner().invoke(app, ["data", *map(str, words)], catch_exceptions=False)
    return result.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two silos; the second's third picture cannot be used."""
    for name in ("good", "bad"):
        place = tmp_path / name / "ann"
        place.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(np.full((4, 4), 3000 + i, np.uint16)).save(place / f"{i}.png")
        lines = [{"image": f"{i}.png", "question": "what?", "answer": "x"} for i in range(3)]
        (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (tmp_path / "bad/ann/2.png").write_bytes(b"no picture")
    return tmp_path


def experiment(folder: Path, rows: str = "", **data: object) -> Path:
    fields = json.dumps({"source": "folder", "path": str(folder / "good"), **data})
    (folder / "e.yaml").write_text(
        f"rounds: 0\nmethod: fedavg-lora\ndata: {fields}\n{rows}", encoding="utf-8"
    )
    return folder / "e.yaml"


def test_every_distinct_data_part_of_a_file_with_rows_is_checked(folder: Path) -> None:
    rows = f"rows: {{a: {{method.name: fedavg-lora}}, b: {{data.path: {folder / 'bad'}}}}}"
    with pytest.raises(
        ExperimentError, match=r"bad/ann/metadata.jsonl: the image file '2\.png' cannot be used"
    ):
        run(experiment(folder, rows))
    output = run(
        experiment(folder, "rows: {a: {method.name: fedavg-lora}, b: {rounds: 1}, c: {data.test_share: 0.5}}")
    )
    assert output.count("client  holds") == 2


def test_skipped_samples_and_notes_are_shown(folder: Path) -> None:
    output = run(experiment(folder, path=str(folder / "bad"), skip_bad=True, max_skipped=0.5))
    assert "skipped: Client 'ann', line 3" in output
    assert "note: 2 of the files: 16-bit grey that states no depth" in output


def test_quick_opens_files_only(folder: Path) -> None:
    path = folder / "good/ann/0.png"
    data = path.read_bytes()
    path.write_bytes(data[:-20] + bytes(20))
    with pytest.raises(ExperimentError):
        run(experiment(folder))
    assert "ann" in run(experiment(folder), "--quick", "--show", 0)


def test_a_folder_that_cannot_be_written_is_one_sentence(folder: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot write pictures and sounds to /proc/x"):
        run(experiment(folder), "--out", "/proc/x")
