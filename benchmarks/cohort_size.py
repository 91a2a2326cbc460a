"""Seconds of a client's step by the number of clients that train together: what `engine.cohort: auto` decides by.

`python -m benchmarks cohort_size [models] [batches] [sizes] [seconds]`, lists with commas (tiny,256x6 1,2,8 1,2,4,8,16 20; see
`benchmarks.text_clients` for a model's name). Every cohort trains clients of two steps each, in turns with the other sizes, until
`seconds` have passed for a model and batch; the fastest turn counts. The last columns are what the rule chooses and why.
"""

import tempfile
from pathlib import Path

from benchmarks.report import clock, surroundings
from benchmarks.text_clients import experiment
from fedloom.core.payload import Payload
from fedloom.experiment.build import build
from fedloom.federation.cohort_size import cohort_size
from fedloom.federation.local_engine import LocalEngine
from fedloom.federation.loop import Federation
from fedloom.federation.settings import Round

STEPS = 2


def turn(federation: Federation, size: int) -> float:
    """Seconds of a client's step where `size` clients train together."""
    engine, method = federation.engine, federation.experiment.method
    assert isinstance(engine, LocalEngine)  # the experiment asks for no workers
    engine.cohort = size
    names = federation.names[:size]
    payloads = {name: Payload(federation.state.shared) for name in names}
    began = clock()
    replies = engine.ask(method, "train", payloads, Round(1, 1, 0))
    spent = clock() - began
    if failed := [reply.error for reply in replies if reply.error]:
        raise RuntimeError(failed[0])
    return spent / size / STEPS


def main(arguments: list[str]) -> None:
    lists = [a.split(",") for a in arguments]
    models = lists[0] if lists else ["tiny", "256x6"]
    batches = [int(b) for b in lists[1]] if len(lists) > 1 else [1, 2, 8]
    sizes = [int(s) for s in lists[2]] if len(lists) > 2 else [1, 2, 4, 8, 16]
    patience = float(arguments[3]) if len(arguments) > 3 else 20.0
    print(
        "| model | positions a step | one client, ms | " + " | ".join(f"{s}" for s in sizes[1:]) + " | auto |"
    )
    print("|---" * (len(sizes) + 3) + "|")
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            for batch in batches:
                federation = build(
                    experiment(model, max(sizes), batch, STEPS, Path(scratch), cohort=1), None, lambda p: None
                )
                samples = [s for c in federation.clients.values() for s in c.data.train]
                trainable = federation.engine.model
                positions = (
                    batch * sum(trainable.positions(trainable.prepare(s)) for s in samples) / len(samples)
                )
                spent: dict[int, list[float]] = {size: [] for size in sizes}
                began = clock()
                while clock() - began < patience or not spent[1][1:]:
                    for size in sizes:
                        spent[size].append(turn(federation, size))
                best = {size: min(turns[1:]) for size, turns in spent.items()}  # the first one warms up
                gains = " | ".join(f"{best[1] / best[s]:.2f}" for s in sizes[1:])
                names = [n for n in trainable.tensors if n.startswith("llm")]
                training = federation.experiment.training
                chosen = cohort_size(trainable, names, samples[:16], training).clients
                print(f"| {model} | {positions:.0f} | {1e3 * best[1]:.1f} | {gains} | {chosen} |", flush=True)
    print("\n" + surroundings())
