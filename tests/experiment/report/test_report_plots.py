"""Plots: the least span of an axis, marks and lines, bands of many rows, and what is saved of them."""

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import pytest

from fedloom.experiment.report import figures, plots
from fedloom.experiment.report.axis import least_span
from fedloom.experiment.report.csv_text import text
from fedloom.experiment.report.differences import Difference
from fedloom.experiment.report.forest import forest
from fedloom.experiment.report.load_study import read
from fedloom.experiment.report.page import curve
from fedloom.experiment.report.units import Spread
from fedloom.tasks.metrics.bootstrap import Interval
from tests.experiment.report.report_folders import make_two_rows

LINE = "stroke-width: 1.6"


def drawn(values: Mapping[str, Mapping[int, float]], unit: str = "percent", sd: float | None = None) -> str:
    lines = {row: {r: Spread(v, sd, 2) for r, v in series.items()} for row, series in values.items()}
    return plots.curves("t", lines, unit, "k")  # type: ignore[arg-type]


def row(svg: str, index: int, kind: str = "row") -> str:
    """The group of a row's marks and line, or of its band."""
    found = re.search(rf'<g class="{kind} {kind}-{index}".*?(?=<g class="|<defs><clipPath)', svg)
    assert found is not None
    return found.group(0)


def heights(svg: str, index: int) -> list[float]:
    """The marks' distances from the upper edge, in units of the plot's height, 180."""
    return [float(y) for y in re.findall(r'<use [^>]*\by="([\d.]+)"', row(svg, index))]


def test_a_quarter_of_a_point_is_a_twentieth_of_the_axis_and_the_plot_says_so() -> None:
    narrow = drawn({"a": {0: 0.6, 1: 0.601, 2: 0.6025}})
    assert "narrow range: this axis spans 5 points" in narrow
    low, _, high = heights(narrow, 0)
    assert (low - high) / (0.73 * 180) == pytest.approx(0.25 / 5, abs=0.002)
    wide = drawn({"a": {0: 0.6, 1: 0.62, 2: 0.66}})
    assert "narrow range" not in wide
    low, _, high = heights(wide, 0)
    assert (low - high) / (0.79 * 180) > 0.85  # the whole axis


@pytest.mark.parametrize(
    ("low", "high", "unit", "ends"),
    [
        (60.0, 60.5, "percent", (57.75, 62.75)),
        (99.8, 100.0, "percent", (95.0, 100.0)),
        (0.0, 0.1, "percent", (0.0, 5.0)),
        (-0.1, 0.2, "percent", (-2.45, 2.55)),  # a difference
        (40.0, 46.0, "percent", (40.0, 46.0)),
        (2.0, 2.01, "number", (1.95475, 2.05525)),
        (3.0, 4.0, "count", (1.0, 6.0)),
        (0.0, 0.0, "number", (-0.5, 0.5)),
    ],
)
def test_the_least_span_of_an_axis(low: float, high: float, unit: str, ends: tuple[float, float]) -> None:
    span = least_span(low, high, unit)  # type: ignore[arg-type]
    assert (span.low, span.high) == pytest.approx(ends)
    assert (span.note is None) == (ends == (low, high))


def test_no_line_leads_through_two_points_and_one_through_three() -> None:
    two = drawn({"a": {0: 0.3, 5: 0.9}, "b": {0: 0.3, 5: 0.7}})
    assert LINE not in two
    assert (len(heights(two, 0)), len(heights(two, 1))) == (2, 2)
    mixed = drawn({"a": {0: 0.3, 2: 0.5, 5: 0.9}, "b": {0: 0.3, 5: 0.7}})
    assert LINE in row(mixed, 0)
    assert LINE not in row(mixed, 1)
    assert len(heights(mixed, 0)) == 3  # a mark wherever it was measured


def test_equal_marks_without_lines_stand_beside_each_other() -> None:
    svg = drawn({"a": {0: 0.3, 5: 0.9}, "b": {0: 0.3, 5: 0.9}})
    left, right = (re.findall(r'<use [^>]*\bx="([\d.]+)"', row(svg, i)) for i in (0, 1))
    assert float(left[0]) < float(right[0])
    joined = drawn({"a": {0: 0.3, 1: 0.4, 5: 0.9}, "b": {0: 0.3, 1: 0.4, 5: 0.9}})
    left, right = (re.findall(r'<use [^>]*\bx="([\d.]+)"', row(joined, i)) for i in (0, 1))
    assert left == right


@pytest.mark.parametrize(("rows", "hidden"), [(4, 0), (5, 5), (11, 11)])
def test_more_than_four_bands_are_hidden_until_a_row_is_picked(rows: int, hidden: int) -> None:
    svg = drawn({f"m{i}": {0: 0.3, 1: 0.4, 2: 0.5 + i / 100} for i in range(rows)}, sd=0.02)
    assert len(re.findall(r'<g class="band band-\d+"', svg)) == rows
    assert len(re.findall(r'<g class="band band-\d+" opacity="0"', svg)) == hidden


def test_the_ninth_row_is_dashed_and_every_row_names_itself_below_the_pointer() -> None:
    svg = drawn({f"<m{i}>": {0: 0.3, 1: 0.4, 2: 0.5 + i / 100} for i in range(9)})
    assert "stroke-dasharray" in row(svg, 8)
    assert "stroke-dasharray" not in row(svg, 0)
    assert "<title>&lt;m8&gt; 58.0 %</title>" in row(svg, 8)
    assert "var(--series-0)" in row(svg, 8)


def test_a_plot_of_differences_says_mean_interval_and_has_a_ring_per_seed() -> None:
    found = {"b": Difference(0.02, 3, Interval(0.02, 0.01, 0.03), 0.25, False, {0: 0.01, 1: 0.02, 2: 0.03})}
    svg = forest("accuracy", found, "percent", "k")
    assert "accuracy. b +2.0 [+1.0, +3.0]" in svg
    assert len(re.findall(r"<use ", svg.partition("matplotlib.axis_1")[0])) >= 4
    rings = re.findall(r'<use [^>]*fill: none; stroke: var\(--series-1\)|<use [^>]*style="[^"]*series-1', svg)
    assert len(rings) == 3


def content(link: str) -> str:
    return unquote(link.partition(",")[2])


def test_saved_figures_are_those_of_the_plot(tmp_path: Path) -> None:
    plot = curve(read(make_two_rows(tmp_path / "demo")), "global/image/token_accuracy", "k")
    assert plot is not None
    drawn_file, csv_file = plot.files
    assert (drawn_file.name, csv_file.name) == ("image-token-accuracy.svg", "image-token-accuracy.csv")
    records = list(csv.DictReader(io.StringIO(content(csv_file.link))))
    assert [(r["row"], r["round"], r["seeds"]) for r in records[4:6]] == [
        ("FedAvg-LoRA", "4", "2"),
        ("FedA²-LoRA", "0", "2"),
    ]
    assert float(records[4]["mean"]) == pytest.approx(0.55)  # 0.5 and 0.6
    assert float(records[4]["sd"]) == pytest.approx(0.0707106781)
    assert float(records[9]["mean"]) == pytest.approx(0.71)
    assert len(records) == 10


def test_a_saved_plot_stands_by_itself(tmp_path: Path) -> None:
    plot = curve(read(make_two_rows(tmp_path / "demo")), "global/image/token_accuracy", "k")
    assert plot is not None
    svg = content(plot.files[0].link)
    words = "".join(ET.fromstring(svg).itertext())
    assert "image: token accuracy" in words
    assert "FedAvg-LoRA" in words
    assert "FedA²-LoRA" in words
    assert "var(" not in svg
    assert "currentColor" not in svg
    assert "#0b62a4" in svg  # the light scheme's first colour


def test_bars_and_points_have_their_figures_too() -> None:
    bars = figures.bars("b", {"c0": {"up": Spread(3.0, None, 1), "down": None}}, "bytes", "k")
    assert bars.csv.splitlines() == ["label,series,mean,sd,seeds", "c0,up,3.0,,1"]
    points = figures.points(
        "p", {"a": (Spread(0.5, 0.1, 2), Spread(0.7, None, 1))}, ("x", "percent"), ("y", "percent"), "k"
    )
    assert points.csv.splitlines()[1] == "a,0.5,0.1,2,0.7,,1"


def test_bytes_that_are_far_apart_have_plain_numbers_at_their_axis() -> None:
    far = {f"m{i}": (Spread(10.0 ** (5 + i), None, 1), Spread(0.7, None, 1)) for i in range(3)}
    svg = plots.points("t", far, ("sent", "bytes"), ("accuracy", "percent"), "k")
    assert {"0.1", "1", "10"} <= set(re.findall(r">([\d.]+)</text>", svg))
    assert "math" not in svg
    assert "narrow range: the y axis spans 5 points" in svg


def test_a_name_is_no_formula_in_a_spreadsheet() -> None:
    assert text(("row", "n"), [("=HYPERLINK(1)", -1.0), ("a,b", float("nan"))]).splitlines() == [
        "row,n",
        "'=HYPERLINK(1),-1.0",
        '"a,b",',
    ]
