"""Peak memory by number of clients on an LLM of any size, and the part of its slope that a client needs.

`python -m benchmarks further_client [model] [clients] [cohort] [batch]` (tiny, 2,6,20, auto and 2 if none are given; see
`benchmarks.text_clients` for a model's name). Every number of clients is a process of its own: one round of FedAvg-LoRA over two
steps of each client, with minimal evaluation. The slope is that of a straight line through the peaks.

A further client needs its adapter, which the server holds until all clients have answered, and its data, raw and prepared.
Optimiser state exists for one cohort at a time, so that it is in no slope once there are more clients than a cohort has.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.child import child
from benchmarks.memory import further
from benchmarks.peak import most_resident
from benchmarks.report import Row, tell
from benchmarks.text_clients import experiment
from fedloom.experiment.build import build
from fedloom.models.example_cache import nbytes

STEPS = 2


def measure(model: str, clients: int, cohort: Any, batch: int, scratch: Path) -> dict[str, float]:
    """One round of all clients: peak resident memory, and the bytes that necessarily grow with the clients."""
    federation = build(experiment(model, clients, batch, STEPS, scratch, cohort=cohort), None, lambda p: None)
    federation.run()
    trainable = federation.engine.model
    data = sum(
        nbytes([*c.data.train, *c.data.test, *c.examples(trainable)]) for c in federation.clients.values()
    )
    adapter = sum(nbytes(t) for n, t in trainable.tensors.items() if n.startswith("llm"))
    chosen = federation.experiment.engine.cohort
    return {
        "peak": most_resident(),
        "data": data,
        "adapters": clients * adapter,
        "cohort": float(chosen),
    }


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        model, clients, cohort, batch, scratch = arguments[1:]
        size = cohort if cohort == "auto" else int(cohort)
        print(json.dumps(measure(model, int(clients), size, int(batch), Path(scratch))))
        return []
    usual = ["tiny", "2,6,20", "auto", "2"]
    model, counts, cohort, batch = [*arguments, *usual[len(arguments) :]]
    print("| clients | cohort | peak, MB | data, MB | adapters, MB |\n|---|---|---|---|---|")
    figures: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number in map(int, counts.split(",")):
            figures[number] = own = child("further_client", model, number, cohort, batch, scratch)
            sizes = " | ".join(f"{own[n] / 1e6:.1f}" for n in ("peak", "data", "adapters"))
            print(f"| {number} | {own['cohort']:.0f} | {sizes} |", flush=True)
    if len(figures) < 2:
        return []
    names = ("peak", "data", "adapters")
    slope = {n: float(np.polyfit(list(figures), [f[n] for f in figures.values()], 1)[0]) / 1e6 for n in names}
    print(
        f"\nper further client {slope['peak']:.2f} MB, of which data {slope['data']:.2f} MB and adapter "
        f"{slope['adapters']:.2f} MB"
    )
    rows = [further("further_client", f"{model}, {counts} clients, cohort {cohort}, batch {batch}", slope)]
    tell(rows)
    return rows
