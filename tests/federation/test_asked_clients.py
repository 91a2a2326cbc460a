"""The clients of a round: how many, each once, and all equally often."""

from collections import Counter

import pytest

from fedloom.experiment.settings import Experiment
from fedloom.federation.cohort import cohort_of


def cohort(clients: int, number: int = 1, **settings: object) -> list[str]:
    names = [f"c{i:03}" for i in range(clients)]
    return cohort_of(Experiment.parse({"method": "fedavg-lora", "cohort": settings}), names, number)


@pytest.mark.parametrize(
    ("fraction", "clients", "size"),
    [(0.25, 30, 8), (0.1, 100, 10), (0.07, 100, 7), (0.3, 10, 3), (0.5, 5, 3), (0.01, 1, 1), (1.0, 7, 7)],
)
def test_a_share_of_the_clients_is_rounded_up(fraction, clients, size) -> None:
    """A quarter of 30 is 8, although the released code of pFedMMA takes 7; 0.07 of 100 is 7, not 8."""
    drawn = cohort(clients, fraction=fraction)
    assert len(drawn) == len(set(drawn)) == size
    assert drawn == sorted(drawn)


def test_a_full_first_round_is_the_first_alone() -> None:
    sizes = [len(cohort(30, number, fraction=0.25, full_first_round=True)) for number in (1, 2, 3)]
    assert sizes == [30, 8, 8]


def test_clients_are_drawn_anew_each_round_and_equally_often() -> None:
    rounds = [tuple(cohort(10, number, fraction=0.3)) for number in range(1, 301)]
    assert rounds[0] == tuple(cohort(10, 1, fraction=0.3))
    assert len(set(rounds)) > 80  # of 120
    times = Counter(name for drawn in rounds for name in drawn)
    assert set(times) == {f"c{i:03}" for i in range(10)}
    assert all(60 < n < 120 for n in times.values())
