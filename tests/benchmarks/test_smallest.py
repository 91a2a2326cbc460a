"""Benchmarks at their smallest size, through their `main`: each runs to its end and prints its rows. No figure is looked at."""

import io
import json
import math
import re
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import overhead, scaling
from benchmarks.__main__ import PLOTS, ROWS
from fedloom.federation import exchange

pytestmark = pytest.mark.slow

RATIOS = {
    "aggregation": ("16 2 2 1", 3),
    "canonical": ("2 2", 4),
    "clip_evaluation": ("tiny 2 1 1 1", 2),
    "cohort": ("2 1 text 1", 2),
    "features": ("1 4 1", 4),
    "gpu": ("--size tiny --clients 2 --repetitions 1", 1),
    "memory": ("1 2", 2),
    "overhead": ("2 1 1 1", 3),
    "real_round": ("tiny 2 1 1 1", 2),
    "samples": ("--pictures 2 --megabytes 0.02 --workers 0 --repetitions 1", 2),
    "scale": ("4 2 3", 4),
    "uploads": ("1 2 1", 2),
    "further_client": ("tiny 1,2 auto 1", 1),
}
"""Arguments and the least number of rows of those that compare two sides."""
TABLES = {
    "checkpointing": ("tiny 2 1", r"\| (no|yes) \| [12] \|.*\d", 4),
    "clip": ("tiny 2 1 2", r"\| \w[\w-]+ \| \d.*\d \|", 7),
    "cohort_size": ("tiny 1 1,2 0", r"\| tiny \| \d.*\d \|", 1),
    "loading": ("0.2", r"(float|bfloat|auto).* MB.*\d", 6),
    "secure_sum": ("10 4", r" +4 +[01] +\d.*%", 2),
}
"""Arguments, and pattern and number of the lines of those that print a table of their own."""
OWN_TESTS = {"flower", "gpu_proof", "nvflare_simulator", "pfl_research", "real_base"}
"""Those that need rivals or models: test_benchmarks.py, test_gpu.py, test_real_base.py."""
NOT_RUN = {"deploy", "missing", "plan"}
"""No test runs these: they start Flower, read finished runs, or start commands of minutes."""


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children run in this process, which spares each the seconds that importing the libraries takes."""
    monkeypatch.setenv("FEDLOOM_CACHE", str(tmp_path))  # `samples` sets others; this restores the one before

    def here(name: str, *arguments: object) -> Any:
        printed = io.StringIO()
        with redirect_stdout(printed):
            import_module(f"benchmarks.{name}").main(["--child", *map(str, arguments)])
        return json.loads(printed.getvalue().splitlines()[-1])

    for name in (*ROWS, *PLOTS):
        module = import_module(f"benchmarks.{name}")
        if hasattr(module, "child"):
            monkeypatch.setattr(module, "child", here)


def test_every_benchmark_is_run_by_a_test_or_named() -> None:
    assert {*RATIOS, *TABLES, *OWN_TESTS, *NOT_RUN, "scaling"} == {*ROWS, *PLOTS}


@pytest.mark.parametrize("name", RATIOS)
def test_a_benchmark_returns_and_prints_its_rows(name: str, in_process: None, capsys: Any) -> None:
    arguments, least = RATIOS[name]
    rows = import_module(f"benchmarks.{name}").main(arguments.split())
    told = capsys.readouterr().out
    assert len(rows) >= least
    for row in rows:
        assert row.name in told
        assert row.what in told
        # A client's share of the peak is lost in the test's own process.
        lost = name in ("memory", "further_client") and "does not grow" in row.note
        assert lost or (math.isfinite(row.ratio) and row.ratio > 0)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_lines(name: str, in_process: None, capsys: Any) -> None:
    arguments, pattern, lines = TABLES[name]
    import_module(f"benchmarks.{name}").main(arguments.split())
    told = capsys.readouterr().out.splitlines()
    assert sum(re.match(pattern, line) is not None for line in told) == lines, told


def test_scaling_measures_and_draws(in_process: None, monkeypatch: Any, tmp_path: Path, capsys: Any) -> None:
    monkeypatch.setattr(scaling, "AXES", {"clients": (1, 2)})
    scaling.main(["1", str(tmp_path / "plot.svg")])
    assert re.findall(r"clients (\d): \d+\.\d+ s per round, peak \d+ MB", capsys.readouterr().out) == [
        "1",
        "2",
    ]
    assert (tmp_path / "plot.svg").stat().st_size > 0


def test_every_point_of_a_row_of_plots_lies_within_its_scale(tmp_path: Path) -> None:
    """The later columns have the largest values, and all columns share the first one's scale."""
    measured = {
        "clients": {5: {"seconds": 0.1, "peak": 5e8}},
        "width": {64: {"seconds": 0.7, "peak": 7e8}},
    }
    figure = scaling.draw(measured, tmp_path / "plot.svg")
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert all(low <= y <= high for line in axes.lines for y in line.get_ydata())
    assert figure.axes[0].get_ylim()[1] > 0.7


def test_the_engine_without_checks_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    inspect = exchange.inspect
    monkeypatch.setattr(exchange, "inspect", lambda *a, **k: asked.append(1) or inspect(*a, **k))
    overhead.measure("engine, without checks", 2, 1, 1)
    assert not asked
    overhead.measure("engine", 2, 1, 1)
    assert asked
