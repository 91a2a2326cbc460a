"""`scripts/by_question.py`: exact match by kind of question, of a run or of every run in a study."""

import json
from pathlib import Path

import pytest
import yaml

from scripts.by_question import main


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two rows of one seed; of a client's two questions one is answered rightly in row `b`, none in row `a`."""
    silo = tmp_path / "data/north"
    silo.mkdir(parents=True)
    asked = [{"question": "which number is said?"}, {"question": "is a number said?"}]
    (silo / "metadata.jsonl").write_text("\n".join(map(json.dumps, asked)))
    for row, said in (("a", "two"), ("b", "Three.")):
        run = tmp_path / f"runs/study/{row}/seed-0"
        run.mkdir(parents=True)
        (run / "experiment.yaml").write_text(yaml.safe_dump({"data": {"path": str(tmp_path / "data")}}))
        answers = [
            {"uid": "north/1", "kind": "audio", "prediction": said, "reference": "three"},
            {"uid": "north/2", "kind": "audio", "prediction": "no", "reference": "yes"},
        ]
        (run / "predictions-end.jsonl").write_text("\n".join(map(json.dumps, answers)))
    return tmp_path / "runs/study"


def test_a_studys_folder_gives_all_of_its_runs(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([study])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"{study}/{row}/seed-0" for row in ("a", "a", "b", "b")
    ]
    assert [line.rpartition(" ")[2] for line in lines] == ["0.0%", "0.0%", "0.0%", "100.0%"]


def test_one_run_alone(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([study / "b/seed-0"])
    assert "audio which number  n=1  – -> 100.0%" in capsys.readouterr().out


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds no run: name a folder that `fedloom run` wrote"):
        main([tmp_path])
