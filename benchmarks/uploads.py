"""Peak memory of the server by number of clients of a round: uploads in memory, and uploads spilled to files.

`python -m benchmarks uploads [few] [many] [MB]` (5 40 25 if none are given). Every client answers with MB
megabytes of new tensors; `engine.memory` is either large or 0. Every line is a process of its own; seconds are of the faster of
two rounds.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import torch

from benchmarks.overhead import Echo, engine
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
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak, "seconds": min(seconds)}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(*(int(a) for a in arguments[1:]))))
        return
    few, many, megabytes = (int(a) for a in arguments) if len(arguments) == 3 else (5, 40, 25)
    print(f"{'uploads':12}{few:>10} clients{many:>10} clients   per further client   s/round")
    for kind, memory in (("in memory", 10**6), ("in files", 0)):
        figures = []
        for clients in (few, many):
            command = [sys.executable, "-m", "benchmarks", "uploads", "--child"]
            command += [str(a) for a in (memory, clients, megabytes)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
        slope = (figures[1]["peak"] - figures[0]["peak"]) / (many - few) / 1e6
        peaks = "".join(f"{f['peak'] / 1e6:>15.1f} MB" for f in figures)
        print(f"{kind:12}{peaks}{slope:>17.2f} MB{figures[1]['seconds']:>13.2f}")
