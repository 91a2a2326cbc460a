"""Peak memory of the server by number of clients of a round: uploads in memory, and uploads spilled to files.

`python -m benchmarks uploads [few] [many] [MB]` (5 40 25 if none are given). Every client answers with MB
megabytes of new tensors; `engine.memory` is either large or 0. Every line is a process of its own; seconds are of the faster of
two rounds.
"""

import json
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from benchmarks.child import child
from benchmarks.overhead import Echo, engine
from benchmarks.peak import most_resident
from benchmarks.report import Row, tell
from fedloom.core.payload import Payload
from fedloom.methods import Trainer


class Fresh(Echo):
    """Clients return slightly scaled tensors in new memory."""

    name: ClassVar[str] = "fresh"

    def client(self, task: str, payload: Payload, trainer: Trainer) -> Payload:
        """New tensors."""
        return Payload({n: t * 1.001 for n, t in payload.tensors.items()}, {"examples": 1})


def measure(memory: int, clients: int, megabytes: int) -> dict[str, float]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        seconds = engine(
            clients, megabytes, 2, checked=True, folder=Path(place), method=Fresh(), memory=memory
        )
    return {"peak": most_resident(), "seconds": min(seconds)}


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(*(int(a) for a in arguments[1:]))))
        return []
    few, many, megabytes = (int(a) for a in arguments) if len(arguments) == 3 else (5, 40, 25)
    print(f"{'uploads':12}{few:>10} clients{many:>10} clients   per further client   s/round")
    measured = []
    for kind, memory in (("in memory", 10**6), ("in files", 0)):
        figures = [child("uploads", memory, clients, megabytes) for clients in (few, many)]
        measured.append(figures[1])
        slope = (figures[1]["peak"] - figures[0]["peak"]) / (many - few) / 1e6
        peaks = "".join(f"{f['peak'] / 1e6:>15.1f} MB" for f in figures)
        print(f"{kind:12}{peaks}{slope:>17.2f} MB{figures[1]['seconds']:>13.2f}")
    what = f"uploads in files, {many} clients x {megabytes} MB"
    rows = []
    for name, unit in (("peak", "MB"), ("seconds", "s")):
        rival, ours = ([f[name] / (1e6 if unit == "MB" else 1)] for f in measured)
        rows.append(Row(f"uploads, {name}", what, "uploads in memory", "none", ours, rival, unit=unit))
    tell(rows)
    return rows
