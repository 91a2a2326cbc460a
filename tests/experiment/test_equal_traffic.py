"""UniFLoW Table 9 promises equal traffic: the ledgers of its rows at tiny, with hardly any training, and the plan at small."""

from pathlib import Path

import pytest

from fedloom.experiment.plan import plan
from fedloom.experiment.run import run
from fedloom.experiment.settings import load_rows

TABLE_9 = Path("experiments/uniflow/table9.yaml")
DENSE = "FedEx-LoRA, dense"
"""The row with the paper's charge, which is not what travels."""
LITTLE = ["training.steps=1", "training.batch_size=1", "data.train=2", "data.test=1", "evaluation.every=99"]
LITTLE += ["evaluation.max_new_tokens=1", "evaluation.samples=0"]


def test_the_rows_of_table_9_send_the_same_within_two_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    sent = {}
    for experiment in load_rows(TABLE_9, LITTLE):
        if experiment.row != DENSE:
            summary = run(experiment, tmp_path / str(len(sent))).summary
            sent[experiment.row] = summary["bytes_up"] + summary["bytes_down"]
            traffic = plan(experiment, probe=False).traffic
            assert sent[experiment.row] == traffic.whole_up + traffic.whole_down
    assert len(sent) == 5
    assert max(sent.values()) / min(sent.values()) < 1.02, sent


def test_the_rows_of_table_9_are_planned_to_send_the_same_at_small() -> None:
    planned = {}
    for experiment in load_rows(TABLE_9, ["size=small"]):
        traffic = plan(experiment, probe=False).traffic
        planned[experiment.row] = traffic.whole_up + traffic.whole_down
    dense = planned.pop(DENSE)
    assert max(planned.values()) / min(planned.values()) < 1.02, planned
    assert dense < min(planned.values())
