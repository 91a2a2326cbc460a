"""Cost of secure aggregation: CPU seconds of one client and of the server, and a client's bytes beside its masked vector.

`python -m benchmarks secure_sum [numbers] [clients ...]` (1000000 4 10 30 if none are given). Every client holds the same group.
`lost` clients drop out after their shares, the most expensive moment for the server: it reconstructs a mask key for each, and
recomputes its masks with all others.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from fedloom.privacy.keystream import KEY
from fedloom.privacy.secure.collector import Collector
from fedloom.privacy.secure.member import Member

SESSION = bytes(16)
GROUPS = ("llm",)
T = TypeVar("T")


def measure(clients: int, numbers: int, lost: int) -> dict[str, float]:
    """One session; seconds are process time, the client's those of the first one."""
    names = [f"client-{i:03d}" for i in range(clients)]
    members = {c: Member(c) for c in names}
    collector = Collector(SESSION, names, 2 / 3, 3)
    spent = {"client": 0.0, "server": 0.0}

    def timed(who: str, work: Callable[[], T]) -> T:
        began = time.process_time()
        result = work()
        spent[who] += time.process_time() - began
        return result

    def of_all(chosen: Sequence[str], work: Callable[[str], T]) -> dict[str, T]:
        return {c: timed("client" if c == names[-1] else "others", partial(work, c)) for c in chosen}

    spent["others"] = 0.0
    keys = of_all(names, lambda c: members[c].keys())
    roster = timed("server", lambda: collector.keys(keys, dict.fromkeys(names, GROUPS)))
    shares = of_all(names, lambda c: members[c].shares(roster))
    sealed = timed("server", lambda: collector.shares(shares))
    rng = np.random.default_rng(0)
    words = {c: {"llm": rng.integers(0, 2**31, numbers, dtype=np.uint32)} for c in names[lost:]}
    masked = of_all(names[lost:], lambda c: members[c].masked(sealed[c], words[c]))
    survivors = timed("server", lambda: collector.masked(masked))
    revealed = of_all(survivors, lambda c: members[c].unmask(survivors))
    opened = timed("server", lambda: collector.opened(revealed))
    total = np.zeros(numbers, np.uint64)
    for c in survivors:
        total += words[c]["llm"]
    if not np.array_equal(opened["llm"], total.astype(np.uint32)):
        raise SystemExit("the opened sum is not the sum")
    own = names[-1]
    beside = 2 * KEY + sum(map(len, shares[own].values())) + sum(map(len, revealed[own].values()))
    return {
        "client": spent["client"],
        "server": spent["server"],
        "beside": beside,
        "share": beside / (4 * numbers),
    }


def main(arguments: list[str]) -> None:
    numbers, *counts = (int(a) for a in arguments or ["1000000", "4", "10", "30"])
    print("clients  lost  s per client  s server  bytes beside  of the vector")
    for clients in counts or [4, 10, 30]:
        for lost in (0, clients // 3):
            figures = measure(clients, numbers, lost)
            print(
                f"{clients:7d}  {lost:4d}  {figures['client']:12.2f}  {figures['server']:8.2f}  "
                f"{figures['beside']:12,}  {figures['share']:12.2%}",
                flush=True,
            )
