"""Figures that a method measures itself: their names, units and directions."""

import json
from pathlib import Path
from typing import Any, ClassVar

from fedloom.experiment.report import comparison, read
from fedloom.experiment.report.own_figures import own_figures
from fedloom.experiment.run import run
from fedloom.methods.base.measure import Measure
from fedloom.methods.fedavg import FedAvg
from tests.experiment.report.report_folders import change, make_run, write_lines

MEASURES = [
    {"name": "energy", "title": "energy held", "unit": "percent", "better": "higher"},
    {"name": "rank", "title": "rank of the basis", "unit": "count", "better": None},
    {"name": "gap", "title": "gap to the bound", "unit": "number", "better": "lower"},
]


def measured(folder: Path, **measures: object) -> Path:
    """A run of a method that measures energy, rank and gap, and `odd/thing` without saying what it is."""
    make_run(folder, rounds=3)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for r in (1, 2, 3):
        own = {"mine/projector/energy": 0.9 + r / 100, "mine/projector/rank": 12.0, "mine/gap": 1.5 / r}
        lines += [{"round": r, "name": n, "value": v} for n, v in {**own, "odd/some_thing": 0.25 * r}.items()]
    write_lines(folder / "metrics.jsonl", lines)
    change(folder / "summary.json", **measures)
    return folder


def test_own_figures_have_the_methods_names_units_and_directions(tmp_path: Path) -> None:
    charts, grid = own_figures(read(measured(tmp_path / "q", measures=MEASURES)))
    assert grid is not None
    assert [list(line) for line in grid.lines] == [
        ["projector: energy held\u00a0↑", "93.0 %"],
        ["projector: rank of the basis", "12"],
        ["gap to the bound\u00a0↓", "0.5000"],
        ["odd: some thing", "0.7500"],
    ]
    assert [chart.title for chart in charts] == [
        "projector: energy held",
        "projector: rank of the basis",
        "gap to the bound",
        "odd: some thing",
    ]


def test_a_column_of_an_own_figure_has_its_title_and_unit(tmp_path: Path) -> None:
    text = comparison(measured(tmp_path / "q", measures=MEASURES), ["mine/projector/energy"]).markdown()
    assert "projector: energy held %" in text
    assert "| 93.0 |" in text


def test_runs_that_declared_nothing_show_their_figures_under_their_names(tmp_path: Path) -> None:
    _, grid = own_figures(read(measured(tmp_path / "q")))
    assert grid is not None
    assert ["mine, projector: energy", "0.9300"] in [list(line) for line in grid.lines]
    assert own_figures(read(make_run(tmp_path / "plain"))) == ([], None)


class Telling(FedAvg):
    """FedAvg that says how many rounds it has seen."""

    name: ClassVar[str] = "telling"
    measures: ClassVar[tuple[Measure, ...]] = (Measure("seen", "rounds seen", "count", "higher"),)

    def measured(self, state: Any) -> dict[str, float]:
        """One figure."""
        return {"telling/seen": 132.0}


def test_a_run_keeps_what_its_method_declares(tmp_path: Path, quick: Any) -> None:
    data = {"clients": {"text": 2}, "train": 2, "test": 1}
    run(quick(Telling(), data=data, rounds=1, training={"steps": 1}), tmp_path / "r")
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert summary["measures"] == [
        {"name": "seen", "title": "rounds seen", "unit": "count", "better": "higher"}
    ]
    page = (tmp_path / "r" / "report.html").read_text(encoding="utf-8")
    assert "rounds seen\u00a0↑</th><td>132</td>" in page
