"""The estimate of a round's time on many workers."""

import shlex

import pytest

from scripts.scaling_estimate import half_way, main, round_seconds


def test_training_is_shared_and_the_runs_own_work_is_not() -> None:
    assert round_seconds(clients=64, cohort=8, workers=1, seconds=2.0, serial=0.01) == pytest.approx(16.64)
    assert round_seconds(clients=64, cohort=8, workers=8, seconds=2.0, serial=0.01) == pytest.approx(2.64)
    assert round_seconds(clients=64, cohort=8, workers=64, seconds=2.0, serial=0.01) == pytest.approx(2.64)
    assert round_seconds(clients=65, cohort=8, workers=8, seconds=2.0, serial=0.0) == pytest.approx(4.0)
    assert half_way(clients=64, cohort=8, seconds=2.0, serial=0.01) == pytest.approx(25.0)


def test_the_table_names_the_end_of_scaling(capsys) -> None:
    words = "--clients 64 --cohort 8 --seconds 2 --megabytes 2 --serial 0.005 --start 500 --workers 1 8"
    main(*shlex.split(words))
    printed = capsys.readouterr().out
    assert "1              16.6                1.0    96%" in printed
    assert "8               2.6                6.3    76%" in printed
    assert "no gain beyond 8 workers (one cohort each); the run's own work equals training at 25" in printed
    assert "0.5 s a node" in printed
