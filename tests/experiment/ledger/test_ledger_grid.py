"""The ledger's page of a study over a grid: a line per cell, the rows and their differences in columns."""

import json
from pathlib import Path

import pytest
import yaml

from fedloom.experiment.settings import load_rows
from tests.experiment.ledger.ledger_folders import ledger, make_repository
from tests.experiment.report.report_folders import write_lines

FILE = """\
# fedloom run experiments/small/map.yaml --out runs/map
name: map
description: A map of four cells.
rounds: 1
data: {clients: {image: 1}, train: 8, test: 8}
method: fedavg-lora
columns: [global/image/exact_match]
grid:
  lr: {0.1: {training.lr: 0.1}, 1: {training.lr: 1}}
  steps: {2: {training.steps: 2}, 4: {training.steps: 4}}
rows:
  LoRA: {}
  FedEx: {method.name: fedex-lora}
"""


def make_map(tmp_path: Path) -> Path:
    """The study `map`: LoRA is right in 2 of 8, FedEx with 4 steps in all."""
    file = tmp_path / "experiments/small/map.yaml"
    file.write_text(FILE)
    folder, entries = tmp_path / "runs/map", []
    for number, experiment in enumerate(load_rows(file)):
        path = f"run-{number}"
        (folder / path).mkdir(parents=True)
        record = experiment.as_dict() | {"versions": {"fedloom": "0.1.0", "commit": "a" * 12}}
        (folder / path / "experiment.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
        for name in ("metrics.jsonl", "ledger.jsonl"):
            (folder / path / name).write_text("")
        hits = 2 if experiment.row == "LoRA" else 2 + 6 * (experiment.training.steps == 4)
        summary = {"name": "map", "row": experiment.row, "rounds": 1, "seconds": 30.0, "status": "complete"}
        summary |= {"metrics": {"global/image/exact_match": hits / 8}}
        (folder / path / "summary.json").write_text(json.dumps(summary))
        answers = [
            {"client": "image-01", "kind": "image", "uid": str(i), "reference": "red", "tokens": 1}
            | {"prediction": "red" if i < hits else "blue", "correct": int(i < hits)}
            for i in range(8)
        ]
        write_lines(folder / path / "predictions-end.jsonl", answers)
        entries.append({"row": experiment.row, "across": experiment.across, "seed": 0, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


def test_a_study_over_a_grid_has_a_line_per_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_repository(tmp_path))
    folder = make_map(tmp_path)
    result = ledger("add", folder)
    assert result.exit_code == 0, (result.output, result.exception)
    page = (tmp_path / "docs/reproduction/others.md").read_text()
    assert "| cell | LoRA | FedEx | FedEx less LoRA |" in page
    line = next(x for x in page.splitlines() if x.startswith("| lr 1, steps 4 |"))
    _, _, lora, fedex, gap, _ = (field.strip() for field in line.split("|"))
    assert lora.startswith("25.0 [")
    assert fedex.startswith("100.0 [")
    assert gap.startswith("+75.0 [")
    assert gap.endswith("ahead")
    assert "+0.0" not in next(x for x in page.splitlines() if x.startswith("| lr 1, steps 2 |"))
    assert "| average |" not in page
    index = (tmp_path / "docs/reproduction/README.md").read_text()
    assert "| [map](others.md) | 2 × 4 | its own | 8 | 0 | 4.0 |" in index, (
        "minutes are those of the runs' summaries"
    )
    assert ledger("--check").exit_code == 0


def test_what_is_no_better_than_the_commonest_answer_is_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_repository(tmp_path))
    with (tmp_path / "docs/reproduction/papers.yaml").open("a") as papers:
        papers.write(
            "    - {place: Map, title: a map, experiment: map, commonest: {global/image/exact_match: {lr 1: 0.25}}}\n"
        )
    assert ledger("add", make_map(tmp_path)).exit_code == 0
    page = (tmp_path / "docs/reproduction/small.md").read_text()
    marked = {
        line.split("|")[1].strip(): line.count("‡") for line in page.splitlines() if line.startswith("| lr")
    }
    assert marked == {"lr 0.1, steps 2": 0, "lr 0.1, steps 4": 0, "lr 1, steps 2": 2, "lr 1, steps 4": 1}
    assert (
        "‡ no better than always saying the commonest answer of all test samples: 25.0 % in cells of lr 1."
        in page
    )
