"""The ledger's page of a study whose report draws paths of accuracies: plots as files, a verdict and a table per part."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from fedloom.experiment.ledger.traces import thinned
from fedloom.experiment.report.accuracy_paths import BASE, LOCAL, NOVEL
from fedloom.experiment.settings import load_rows
from tests.experiment.ledger.ledger_folders import ledger, make_repository
from tests.experiment.report.report_folders import write_lines

FILE = """\
# fedloom run experiments/small/curves.yaml --out runs/curves
name: curves
description: Two rows on two kinds of pictures.
rounds: 8
data: {source: classes, dataset: tabletop48, clients: {image: 2}, train: 8, test: 8, partition: {kind: few-shot, shots: 2}}
method: pfedmma
training: {optimizer: sgd, lr: 0.001, clip: null}
columns: [local/image/accuracy, base/image/accuracy, novel/image/accuracy]
across:
  all: {}
  sketches: {data.styles: [sketch]}
rows:
  PromptFL: {method.name: promptfl}
  pFedMMA: {method.name: pfedmma}
"""
LAST = {"PromptFL": 0.5, "pFedMMA": 0.75}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger's folder after the study was added: every row rises to LAST at round 6; on sketches pFedMMA moves on."""
    monkeypatch.chdir(make_repository(tmp_path))
    file = tmp_path / "experiments/small/curves.yaml"
    file.write_text(FILE)
    folder, entries = tmp_path / "runs/curves", []
    for number, experiment in enumerate(load_rows(file)):
        run = folder / f"run-{number}"
        run.mkdir(parents=True)
        record = experiment.as_dict() | {"versions": {"fedloom": "0.1.0", "commit": "a" * 12}}
        (run / "experiment.yaml").write_text(yaml.safe_dump(record, sort_keys=False))
        (run / "ledger.jsonl").write_text("")
        last = LAST[str(experiment.row)]
        by_round = {0: 0.25, 4: (0.25 + last) / 2, 6: last, 8: last}
        if experiment.across == "sketches" and experiment.row == "pFedMMA":
            by_round[8] = last + 0.125
        write_lines(
            run / "metrics.jsonl",
            [{"round": r, "name": k, "value": v} for r, v in by_round.items() for k in (LOCAL, BASE, NOVEL)],
        )
        summary = {
            "name": "curves",
            "row": experiment.row,
            "rounds": 8,
            "seconds": 30.0,
            "status": "complete",
        }
        summary |= {"metrics": dict.fromkeys((LOCAL, BASE, NOVEL), by_round[8])}
        (run / "summary.json").write_text(json.dumps(summary))
        entries.append({"row": experiment.row, "across": experiment.across, "seed": 0, "path": run.name})
    (folder / "rows.json").write_text(json.dumps(entries))
    result = ledger("add", folder)
    assert result.exit_code == 0, (result.output, result.exception)
    return tmp_path / "docs/reproduction"


def test_the_page_has_plots_a_verdict_and_a_table_for_each_part(added: Path) -> None:
    page = (added / "others.md").read_text()
    everything, sketches = page.split("Over the rounds, all:")[1].split("Over the rounds, sketches:")
    assert "Every trained row has settled" in everything
    assert "Not settled: pFedMMA (local moves by 12.5, its fitted line by +12.5)." in sketches
    assert "| pFedMMA | 25.0 / 25.0 / 25.0 | 50.0 / 50.0 / 50.0 | 75.0 / 75.0 / 75.0 |" in everything
    for name in ("curves-1-base", "curves-1-local", "curves-2-base", "curves-2-local"):
        assert f"({name}.svg)" in page
        text = (added / f"{name}.svg").read_text()
        ElementTree.fromstring(text)
        assert "PromptFL" in text
        assert "var(" not in text, "a file has no style sheet"
    assert "pFedMMA: local 87.5 %, novel 87.5 %" in (added / "curves-2-local.svg").read_text()


def test_a_plot_that_was_changed_or_is_gone_is_stale(added: Path) -> None:
    assert ledger("--check").exit_code == 0
    plot = added / "curves-1-base.svg"
    text = plot.read_text()
    plot.write_text(text.replace("PromptFL", "Prompt"))
    assert ledger("--check").exit_code == 1
    plot.unlink()
    assert ledger("--check").exit_code == 1
    assert ledger().exit_code == 0
    assert plot.read_text() == text


@pytest.mark.parametrize(
    ("evaluated", "shown"),
    [
        ([0], [0]),
        (list(range(0, 110, 10)), list(range(0, 110, 10))),
        (list(range(0, 210, 10)), list(range(0, 220, 20))),
        (list(range(0, 120, 10)), [*range(0, 120, 20), 110]),
    ],
)
def test_a_table_shows_eleven_rounds_at_most_with_the_first_and_the_last(evaluated, shown) -> None:
    assert thinned(evaluated) == shown
