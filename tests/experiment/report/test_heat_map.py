"""Studies over a grid: figures by cell, differences from one row, maps in the report and tables in the terminal."""

import json
import re
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from fedloom.cli.main import app
from fedloom.core.errors import ExperimentError
from fedloom.experiment.report import write_report
from fedloom.experiment.report.grid_cells import grids_of
from fedloom.experiment.report.heat_map import section
from fedloom.experiment.report.load_study import read
from tests.experiment.report.report_folders import change, make_run, write_lines

MATCH, ERROR = "global/image/exact_match", "restoration_error"
HITS = {"Avg": {("4", "low"): 20, ("4", "high"): 24, ("16", "low"): 10, ("16", "high"): 30},
        "Ex & <b>": {("4", "low"): 20, ("4", "high"): 40, ("16", "low"): 0, ("16", "high"): 30}}  # fmt: skip


def grid_study(folder: Path, facets: tuple[str, ...] = ("2", "32")) -> Path:
    """Two rows, two seeds, 40 samples a run: HITS by steps and rate, one fewer at rank 32, except the last cell's."""
    entries = []
    for row, steps, rate, rank, seed in product(HITS, ("4", "16"), ("low", "high"), facets, (0, 1)):
        place = {"steps": steps, "rate": rate, "rank": rank}
        name = ", ".join(f"{axis} {label}" for axis, label in place.items())
        path = f"{row[:2]}/{name.replace(', ', '-').replace(' ', '-')}/seed-{seed}"
        run = make_run(folder / path, row=row, seed=seed, rounds=1)
        experiment = {"name": "g", "row": row, "across": name, "coordinates": place, "seed": seed}
        (run / "experiment.yaml").write_text(
            yaml.safe_dump(experiment | {"columns": [MATCH, ERROR]}, sort_keys=False)
        )
        hits = max(HITS[row][steps, rate] - (rank == "32"), 0)
        answers = [
            {"client": "c0", "kind": "image", "uid": str(i), "reference": "red", "prediction": p}
            for i, p in enumerate(["red"] * hits + ["blue"] * (40 - hits))
        ]
        write_lines(run / "predictions-end.jsonl", answers)
        error = 0.25 if row == "Avg" else 1e-7
        change(run / "summary.json", name="g", row=row, metrics={MATCH: hits / 40, ERROR: error})
        write_lines(run / "metrics.jsonl", [{"round": 1, "name": MATCH, "value": hits / 40}])
        entries.append({"row": row, "across": name, "seed": seed, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


def test_a_figure_has_a_cell_for_every_row_and_combination(tmp_path: Path) -> None:
    match, error = grids_of(read(grid_study(tmp_path / "s")))
    assert match.axes == {"steps": ("4", "16"), "rate": ("low", "high"), "rank": ("2", "32")}
    assert match.facets == [("2",), ("32",)]
    means = [[c.figure.mean for c in line] for line in match.of("Avg", ("32",)) if line[0].figure]
    assert means == [[19 / 40, 9 / 40], [23 / 40, 29 / 40]], "a list for each rate, from steps 4 to 16"
    marks = [[c.mark for c in line] for line in match.of("Ex & <b>", ("2",))]
    assert marks == [["", "−"], ["+", ""]]
    assert {c.mark for c in error.cells.values()} == {""}, "without samples nothing is called ahead"
    gap = match.cells["Ex & <b>", ("4", "high", "2")].difference
    assert gap is not None
    assert gap.mean == pytest.approx(16 / 40)
    assert error.table()[1][0] == ["Avg", "2", "low", "0.2500 ± 0.0000", "0.2500 ± 0.0000"]


def test_a_cell_without_runs_stays_open(tmp_path: Path) -> None:
    folder = grid_study(tmp_path / "s")
    entries = json.loads((folder / "rows.json").read_text())
    kept = [e for e in entries if not (e["row"] == "Avg" and e["across"] == "steps 4, rate low, rank 2")]
    (folder / "rows.json").write_text(json.dumps(kept))
    [match, _] = grids_of(read(folder))
    assert match.table()[1][0] == ["Avg", "2", "low", "—", "25.0 ± 0.0"]
    assert match.cells["Ex & <b>", ("4", "low", "2")].difference is None
    assert "—" in section(read(folder))


def test_the_maps_hold_every_figure_and_frame_what_the_interval_decides(tmp_path: Path) -> None:
    text = section(read(grid_study(tmp_path / "s")))
    assert "<b>" not in text, "texts from data are escaped"
    svgs = re.findall(r"<svg role.*?</svg>", text)
    assert len(svgs) == 2 * (4 + 2), "two figures: two rows of two facets, and one row's differences"
    for svg in svgs:
        root = ElementTree.fromstring(svg)
        assert len([e for e in root.iter() if e.tag == "rect"]) == 4
        assert not re.search(r"#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", svg)), "colours come from the page"
        top = [e.text for e in root.iter() if e.tag == "text"]
        assert {"steps", "rate", "4", "16", "low", "high"} <= set(top)
    of_ex = next(s for s in svgs if "less Avg, rank 2:" in s)
    assert "steps 4, rate high: +40.0, interval excludes zero" in of_ex
    assert "steps 16, rate high: 0.0;" in of_ex or of_ex.count("rate high: 0.0") == 1
    assert of_ex.count("stroke-width") == 2
    colours = re.findall(r'fill="(var\(--series-\d)', of_ex)
    assert sorted(set(colours)) == ["var(--series-0", "var(--series-1"], "ahead and behind differ"
    assert "Colour scale from 0.0 % to 100.0 %" in text


def test_the_report_shows_the_maps_instead_of_a_column_for_every_cell(tmp_path: Path) -> None:
    page = write_report(grid_study(tmp_path / "s", ("2",))).read_text()
    assert page.count('class="maps"') == 2
    assert "steps 4, rate low, rank 2, exact match" not in page.partition('id="curves"')[0]


def test_compare_prints_the_grid_within_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = grid_study(tmp_path / "s")
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["compare", str(folder), "--against", "Avg"])
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.output.splitlines() if "/" not in line)
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "Avg 2 low 50.0±0.0 25.0±0.0" in lines
    assert "Ex & <b> 2 high 100.0±0.0 + 75.0±0.0" in lines
    assert any(line.startswith("+ −: ahead of, or behind Avg") for line in lines)
    assert "image: exact match %, difference from Avg" in lines
    markdown = CliRunner().invoke(app, ["compare", str(folder), "--markdown", "--column", ERROR]).output
    assert "| Avg | 2 | low | 0.2500 ± 0.0000 | 0.2500 ± 0.0000 |" in markdown
    with pytest.raises(ExperimentError, match="there is no row 'x'"):
        grids_of(read(folder), None, "x")
