"""Paths of accuracies over the rounds, and the rule by which a row has settled."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from fedloom.experiment.report import write_report
from fedloom.experiment.report.accuracy_paths import BASE, LOCAL, NOVEL, paths_of, section, verdict
from fedloom.experiment.report.load_study import read
from tests.experiment.report.report_folders import make_run, write_lines

Series = dict[int, tuple[float, float, float]]
STILL: Series = {
    0: (0.5, 0.5, 0.5),
    20: (0.8, 0.6, 0.55),
    40: (0.9, 0.6, 0.5),
    60: (0.9, 0.605, 0.5),
    80: (0.91, 0.6, 0.5),
}
MOVING: Series = {**STILL, 80: (0.9, 0.58, 0.5)}


def study(folder: Path, rows: dict[str, list[Series]]) -> Path:
    """(local, base, novel) by round, of every seed of every row."""
    entries = []
    for row, seeds in rows.items():
        for seed, series in enumerate(seeds):
            path = f"{row[:3]}/{seed}"
            run = make_run(folder / path, row=row, seed=seed, rounds=1)
            (run / "experiment.yaml").write_text(yaml.safe_dump({"name": "c", "row": row, "seed": seed}))
            lines = [
                {"round": r, "name": key, "value": value}
                for r, values in series.items()
                for key, value in zip((LOCAL, BASE, NOVEL), values, strict=True)
            ]
            write_lines(run / "metrics.jsonl", lines)
            entries.append({"row": row, "seed": seed, "path": path})
    (folder / "rows.json").write_text(json.dumps(entries))
    return folder


def test_a_row_has_settled_when_no_mean_moves_by_more_than_a_point_in_the_last_quarter(
    tmp_path: Path,
) -> None:
    start = {0: STILL[0]}
    still, moving, clip = paths_of(read(study(tmp_path / "s", {"a": [STILL], "b": [MOVING], "c": [start]})))
    assert still.last_quarter == [60, 80]
    assert still.drift() == pytest.approx({LOCAL: 0.01, BASE: 0.005, NOVEL: 0.0})
    assert (still.settled, moving.settled, clip.settled) == (True, False, None)
    settled, sentence = verdict([still, clip])
    assert settled
    assert "Every trained row has settled" in sentence
    settled, sentence = verdict([still, moving])
    assert not settled
    assert "Not settled: b (base moves by 2.5, its fitted line by -2.5)." in sentence


def test_a_row_that_moves_by_little_more_than_a_point_is_not_said_to_move_by_one(tmp_path: Path) -> None:
    near = {**STILL, 80: (0.9104, 0.6, 0.5)}
    _, sentence = verdict(paths_of(read(study(tmp_path / "c", {"a": [near]}))))
    assert "Not settled: a (local moves by 1.04, its fitted line by +1.0)." in sentence


def test_ups_and_downs_have_no_trend_and_a_steady_way_is_one(tmp_path: Path) -> None:
    waves = (0.80, 0.82, 0.80, 0.82, 0.80)
    series: Series = {75 + 25 * i: (v, 0.6, 0.5 + 0.025 * i) for i, v in enumerate(waves)}
    [path] = paths_of(read(study(tmp_path / "s", {"a": [series]})))
    assert path.last_quarter == [125, 150, 175]
    assert path.drift() == pytest.approx({LOCAL: 0.02, BASE: 0.0, NOVEL: 0.05})
    assert [path.trend(key) for key in (LOCAL, BASE, NOVEL)] == pytest.approx([0.0, 0.0, 0.05])


def test_the_mean_over_the_seeds_decides(tmp_path: Path) -> None:
    other: Series = {**STILL, 80: (0.92, 0.62, 0.5)}
    [path, _] = paths_of(read(study(tmp_path / "s", {"a": [MOVING, other], "b": [STILL]})))
    assert path.rounds[80][BASE] == pytest.approx(0.6)
    assert path.settled is True


def test_the_plots_have_a_line_per_row_a_point_per_round_and_contours(tmp_path: Path) -> None:
    folder = study(tmp_path / "s", {"a": [STILL], "b <i>": [MOVING], "CLIP": [{0: STILL[0]}]})
    text = section(read(folder))
    plots = re.findall(r"<svg role.*?</svg>", text)
    assert len(plots) == 2
    for plot, x in zip(plots, ("base", "local"), strict=True):
        root = ElementTree.fromstring(plot)
        marks = [e for e in root.iter() if e.tag == "g"]
        assert len(marks) == 5 + 5 + 1
        lines = [e for e in root.iter() if e.tag == "polyline" and str(e.get("stroke")).startswith("var")]
        assert len(lines) == 3
        assert any(e.get("stroke") == "currentColor" for e in root.iter() if e.tag == "polyline"), "contours"
        assert f"CLIP: {x} 50.0 %, novel 50.0 %" in str(root.get("aria-label"))
    assert "<i>" not in text
    assert '<th scope="row">CLIP</th><td>50.0 / 50.0 / 50.0</td><td>—</td>' in text
    page = write_report(folder).read_text()
    assert 'id="paths"' in page


def test_runs_without_common_classes_have_no_paths(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r")
    assert section(read(run)) == ""
