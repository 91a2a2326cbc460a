"""Rounds of a hundred clients out of ten thousand, against rounds of a hundred out of a hundred.

`python -m benchmarks scale [many] [sampled] [rounds] [workers]` (10000 100 6 0 if none are given). The local work is the same:
clients with four text samples each train the shipped foundation with FedSA-LoRA, whose B stays with the client. Samples are made
on access, 20 clients are evaluated at the beginning and at the end, and each measurement is a process of its own with a run
folder and a checkpoint after every round. The seconds are of the fastest round without evaluation, wall-clock and processor time
(less sensitive to other load); resident memory is after the last round, and at its peak. With workers, their memory and processor
time count as well; what processes share is divided among them, but for the peaks, which are added up.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
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
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        from fedloom.data.sample import Sample

        if not 0 <= index < self.size:
            raise IndexError(index)
        number = self.first + index
        return Sample(f"sum-{number}", {}, f"what is {number % 7} and {number % 5} ?", str(number % 10))


def sources(clients: int, experiment: Any = None) -> list[Any]:
    """The clients, also for a worker's process."""
    from fedloom.data.client_data import ClientData

    return [
        ClientData(f"client-{i:05d}", Sums(i * 100, HELD), Sums(i * 100 + HELD, 1)) for i in range(clients)
    ]


def measure(clients: int, sampled: int, rounds: int, workers: int = 0) -> dict[str, float]:
    """Run the federation; seconds per round and resident bytes."""
    from fedloom.experiment.build import build_from
    from fedloom.experiment.settings import Experiment
    from fedloom.federation.process_pool import ProcessPool
    from fedloom.federation.progress import Progress
    from fedloom.federation.run_folder import RunFolder
    from fedloom.federation.workers_engine import WorkersEngine

    chosen = Experiment.parse(
        {
            "method": "fedsa-lora",
            "rounds": rounds,
            "cohort": {"fraction": sampled / clients},
            "engine": {"threads": 1, "device": "cpu"} | ({"workers": workers} if workers else {}),
            "training": {"batch_size": HELD, "schedule": "simultaneous"},
            "evaluation": {"generate": False, "controls": False, "clients": 20, "every": 10**6},
        }
    )
    seconds, processor, peaks = [0.0], [0.0], [0.0]
    resident: list[int] = []
    pids: list[int] = []

    def observe(progress: Progress) -> None:
        if progress.client is None:
            seconds.append(progress.totals.seconds)
            processor.append(time.process_time() + sum(map(_processor_of, pids)))
            resident.append(sum(_share_of(p) for p in (os.getpid(), *pids)) if pids else _resident())
            peaks.append(sum(map(_peak_of, pids)))

    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder(Path(place) / "run")
        folder.create()
        federation = build_from(chosen, sources(clients), folder, observe, load=partial(sources, clients))
        if workers:
            engine = federation.engine
            assert isinstance(engine, WorkersEngine)
            assert isinstance(engine.pool, ProcessPool)
            pids += engine.pool.pids()
        with closing(federation.engine):
            federation.run()
    return {
        "seconds": _fastest(seconds),
        "processor": _fastest(processor),
        "first": resident[1],
        "last": resident[-1],
        "peak": most_resident() + max(peaks),
    }


def _fastest(ends: list[float]) -> float:
    """The fastest of rounds 1 to the last but one, those without evaluation."""
    return min(after - before for before, after in itertools.pairwise(ends[1:-1]))


def _resident() -> int:
    """Current resident bytes of the process; 0 if the system does not report them."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else 0


def _processor_of(pid: int) -> float:
    """Processor seconds of a process, by Linux's `/proc`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _share_of(pid: int) -> int:
    """Resident bytes of a process, those that it shares divided by the number of sharers."""
    return _kilobytes(pid, "smaps_rollup", "Pss:") * 1024


def _peak_of(pid: int) -> int:
    """Resident bytes of a process at its peak, those that it shares included."""
    return _kilobytes(pid, "status", "VmHWM:") * 1024


def _kilobytes(pid: int, file: str, name: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(*(int(a) for a in arguments[1:]))))
        return []
    many, sampled, rounds = (int(a) for a in arguments[:3]) if len(arguments) > 2 else (10_000, 100, 6)
    workers = int(arguments[3]) if len(arguments) > 3 else 0
    beside = f", {workers} workers" if workers else ""
    print(
        f"{sampled} clients a round, {rounds} rounds{beside}{'s/round':>12}{'processor':>12}"
        f"{'after round 1':>16}{'at the end':>14}{'peak':>12}"
    )
    figures = []
    for clients in (sampled, many):
        figures.append(child("scale", clients, sampled, rounds, workers))
        sizes = "".join(f"{figures[-1][k] / 1e6:>11.1f} MB" for k in ("first", "last", "peak"))
        print(f"{clients:>8} clients{figures[-1]['seconds']:>21.3f}{figures[-1]['processor']:>12.3f}{sizes}")
    few, lots = figures
    what, rival = f"{sampled} of {many} clients a round{beside}", f"{sampled} of {sampled}"
    units = {"seconds": "s", "processor": "s", "last": "MB", "peak": "MB"}
    rows = []
    for name, unit in units.items():
        if not few[name]:  # a system that does not report it
            continue
        ours, theirs = ([f[name] / (1e6 if unit == "MB" else 1)] for f in (lots, few))
        rows.append(Row(f"scale, {name}", what, rival, "1", ours, theirs, unit=unit))
    tell(rows)
    return rows
