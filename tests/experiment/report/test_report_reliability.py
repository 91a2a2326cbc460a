"""Agreement of clients' changes, and the heat map of reliability weights."""

import json
import re

from fedloom.experiment.report import write_report
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.reliability import SHOWN, heat, updates
from tests.experiment.report.report_folders import make_run, write_lines


def told(folder, clients=("image-01", "image-02"), groups=4, rounds=3):
    """A run with Fed-CMP's figures: the second client is trusted more from group to group."""
    make_run(folder, row="Fed-CMP", rounds=rounds)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    final = {}
    for t in range(1, rounds + 1):
        for k, client in enumerate(clients):
            for g in range(groups):
                final[f"reliability/projector/0.weight/{client}/{g:02d}"] = 1.0 + k * g / 4 * t
        final |= {"update/cosine": 0.1 * t, "update/turn": -0.2}
        lines += [{"round": t, "name": n, "value": v} for n, v in final.items()]
    write_lines(folder / "metrics.jsonl", lines)
    return folder


def test_the_last_rounds_weights_are_drawn_client_by_client(tmp_path) -> None:
    study = read(told(tmp_path / "run"))
    (plot,) = heat(study)
    assert plot.title == "Fed-CMP, projector/0.weight"
    assert "image-01: 1.00, 1.00, 1.00, 1.00; image-02: 1.00, 1.75, 2.50, 3.25" in plot.svg
    page = write_report(tmp_path / "run").read_text()
    assert "Reliability by client and direction" in page
    assert not re.search(r"<h\d[^>]*>[^<]*reliability/", page)


def test_agreement_stands_in_a_table_and_curves(tmp_path) -> None:
    drawn, grid = updates(read(told(tmp_path / "run")))
    assert len(drawn) == 2
    assert grid.lines == [["Fed-CMP", "0.3000", "-0.2000"]]
    plain, none = updates(read(make_run(tmp_path / "other")))
    assert (plain, none) == ([], None)
    assert "Agreement" not in write_report(tmp_path / "other").read_text()
    assert heat(read(tmp_path / "other")) == []
    assert SHOWN > 1
