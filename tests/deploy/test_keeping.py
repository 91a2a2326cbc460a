"""When a process is started again: pauses that grow, and no last try. The clock moves by hand."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.deploy.keeping import FACTOR, FIRST, LONGEST, SETTLED, SPREAD, Keeper, Pauses
from tests.deploy.silos import said_into


class Stub:
    """A child that ends `lasts` seconds after each start."""

    def __init__(self, now: list[float], lasts: list[float]) -> None:
        self.now, self.lasts = now, lasts
        self.starts: list[float] = []
        self.log = Path("logs/stub.log")

    def start(self) -> None:
        self.starts.append(self.now[0])

    @property
    def lasted(self) -> float:
        return self.now[0] - self.starts[-1]

    @property
    def alive(self) -> bool:
        return bool(self.starts) and self.lasted < self.lasts[min(len(self.starts), len(self.lasts)) - 1]


def kept(lasts: list[float], hours: float) -> tuple[Stub, list[str]]:
    now, said = [0.0], []
    child: Any = Stub(now, lasts)
    keeper = Keeper(child, lambda: "refused", said_into(said), Pauses(lambda low, high: 1.0), lambda: now[0])
    while now[0] < hours * 3600:
        keeper.tend()
        now[0] += 1.0
    return child, said


def test_a_site_that_is_refused_for_a_day_is_still_trying() -> None:
    child, said = kept([3.0], hours=24)
    between = [b - a for a, b in pairwise(child.starts)]
    assert between[0] < FIRST + 6
    assert all(b >= a - 1 for a, b in pairwise(between)), "the pauses grow"
    assert between[-1] == pytest.approx(LONGEST + 3, abs=2), "and are bounded"
    assert 24 * 3600 / (LONGEST + 5) < len(child.starts) < 24 * 3600 / LONGEST + 20
    assert len(said) == pytest.approx(len(child.starts), abs=1)
    assert said[0] == f"refused; started again in {FIRST:.0f} s"


def test_a_killed_site_is_back_soon_after_the_minute_of_its_heartbeats() -> None:
    child, _ = kept([3.0], hours=1)
    assert any(60 < start < 90 for start in child.starts)


def test_a_process_that_ran_well_begins_with_the_first_pause_again() -> None:
    child, _ = kept([1.0] * 15 + [SETTLED + 5] + [1e9], hours=3)
    last = child.starts[-1] - child.starts[-2] - SETTLED - 5
    assert last < FIRST + 3
    assert len(child.starts) == 17, "nothing is started beside one that runs"


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(0, 3 * SETTLED), min_size=1, max_size=20))
def test_however_often_and_whenever_a_process_ends_it_is_started_again_within_the_longest_pause(
    lasts,
) -> None:
    child, _ = kept(lasts, hours=1)
    ends = [start + lasts[min(n, len(lasts) - 1)] for n, start in enumerate(child.starts)]
    waits = [start - end for end, start in zip(ends, child.starts[1:], strict=False)]
    assert all(0 <= wait <= LONGEST + 2 for wait in waits)
    assert child.alive or 3600 - ends[-1] <= LONGEST + 2


def test_the_pauses_of_many_sites_differ_within_bounds() -> None:
    firsts = {Pauses().next() for _ in range(20)}
    assert len(firsts) > 1
    assert all(FIRST * (1 - SPREAD) <= p <= FIRST * (1 + SPREAD) for p in firsts)
    pauses = Pauses(lambda low, high: high)
    long = [pauses.next() for _ in range(50)]
    assert max(long) == LONGEST
    assert long[1] == pytest.approx(long[0] * FACTOR)


def test_the_pause_begins_when_the_reason_is_known() -> None:
    now = [0.0]
    child: Any = Stub(now, [1.0])

    def why() -> str:
        now[0] += 30.0  # the server takes its time to answer
        return "refused"

    keeper = Keeper(child, why, said_into([]), Pauses(lambda low, high: 1.0), lambda: now[0])
    keeper.tend()
    now[0] += 2.0
    keeper.tend()
    assert not keeper.tend()
    now[0] += FIRST
    assert keeper.tend()
