"""UniFLoW Table 9 promises equal traffic: the ledgers of its rows, with hardly any training."""

from pathlib import Path

import pytest

from fedloom.experiment.run import run
from fedloom.experiment.settings import load_rows

LITTLE = ["training.steps=1", "training.batch_size=1", "data.train=2", "data.test=1", "evaluation.every=99"]
LITTLE += ["evaluation.max_new_tokens=1", "evaluation.samples=0"]


def test_the_rows_of_table_9_send_the_same_within_two_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedloom.experiment.report.write_report", lambda folder: folder / "report.html")
    sent = {}
    for experiment in load_rows(Path("experiments/uniflow/table9.yaml"), LITTLE):
        if experiment.row != "FedEx-LoRA, dense":  # the paper's charge is not what travels
            summary = run(experiment, tmp_path / str(len(sent))).summary
            sent[experiment.row] = summary["bytes_up"] + summary["bytes_down"]
    assert len(sent) == 5
    assert max(sent.values()) / min(sent.values()) < 1.02, sent
