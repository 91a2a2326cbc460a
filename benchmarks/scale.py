"""Rounds of a hundred clients out of ten thousand, against rounds of a hundred out of a hundred.

`python -m benchmarks scale [many] [sampled] [rounds]` (10000 100 6 if none are given). The local work is the same: clients
with four text samples each train the shipped foundation with FedSA-LoRA, whose B stays with the client. Samples are made
on access, 20 clients are evaluated at the beginning and at the end, and each measurement is a process of its own with a run
folder and a checkpoint after every round. The seconds are of the fastest round without evaluation, wall-clock and processor time
(less sensitive to other load); resident memory is after the last round, and at its peak.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child import child
from benchmarks.peak import most_resident
from benchmarks.report import Row, tell

HELD = 4
"""Training samples of a client."""


@dataclass(frozen=True)
class Sums(Sequence[Any]):
    """Text samples made on access."""

    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        from fedloom.data.sample import Sample

        if not 0 <= index < self.count:
            raise IndexError(index)
        number = self.first + index
        return Sample(f"sum-{number}", {}, f"what is {number % 7} and {number % 5} ?", str(number % 10))


def measure(clients: int, sampled: int, rounds: int) -> dict[str, float]:
    """Run the federation; seconds per round and resident bytes."""
    from fedloom.data.client_data import ClientData
    from fedloom.experiment.run import build_from
    from fedloom.experiment.settings import Experiment
    from fedloom.federation.progress import Progress
    from fedloom.federation.run_folder import RunFolder

    chosen = Experiment.parse(
        {
            "method": "fedsa-lora",
            "rounds": rounds,
            "cohort": {"fraction": sampled / clients},
            "engine": {"threads": 1, "device": "cpu"},
            "training": {"batch_size": HELD, "schedule": "simultaneous"},
            "evaluation": {"generate": False, "controls": False, "clients": 20, "every": 10**6},
        }
    )
    sources = [
        ClientData(f"client-{i:05d}", Sums(i * 100, HELD), Sums(i * 100 + HELD, 1)) for i in range(clients)
    ]
    seconds, processor, resident = [0.0], [0.0], []

    def observe(progress: Progress) -> None:
        if progress.client is None:
            seconds.append(progress.totals.seconds)
            processor.append(time.process_time())
            resident.append(_resident())

    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        build_from(chosen, sources, folder, observe).run()
    return {
        "seconds": _fastest(seconds),
        "processor": _fastest(processor),
        "first": resident[1],
        "last": resident[-1],
        "peak": most_resident(),
    }


def _fastest(ends: list[float]) -> float:
    """The fastest of rounds 1 to the last but one, those without evaluation."""
    return min(after - before for before, after in itertools.pairwise(ends[1:-1]))


def _resident() -> int:
    """Current resident bytes of the process; 0 if the system does not report them."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(*(int(a) for a in arguments[1:]))))
        return []
    many, sampled, rounds = (int(a) for a in arguments) if len(arguments) == 3 else (10_000, 100, 6)
    print(
        f"{sampled} clients a round, {rounds} rounds{'s/round':>12}{'processor':>12}"
        f"{'after round 1':>16}{'at the end':>14}{'peak':>12}"
    )
    figures = []
    for clients in (sampled, many):
        figures.append(child("scale", clients, sampled, rounds))
        sizes = "".join(f"{figures[-1][k] / 1e6:>11.1f} MB" for k in ("first", "last", "peak"))
        print(f"{clients:>8} clients{figures[-1]['seconds']:>21.3f}{figures[-1]['processor']:>12.3f}{sizes}")
    few, lots = figures
    what, rival = f"{sampled} of {many} clients a round", f"{sampled} of {sampled}"
    units = {"seconds": "s", "processor": "s", "last": "MB", "peak": "MB"}
    rows = []
    for name, unit in units.items():
        if not few[name]:  # a system that does not report it
            continue
        ours, theirs = ([f[name] / (1e6 if unit == "MB" else 1)] for f in (lots, few))
        rows.append(Row(f"scale, {name}", what, rival, "1", ours, theirs, unit=unit))
    tell(rows)
    return rows
