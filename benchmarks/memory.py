"""Peak memory of a federation by number of clients: one shared foundation, and the rival, one model copy per client.

`python -m benchmarks memory [few] [many] [kind]` (5 and 50 clients, and both kinds, `shared` and `copies`, if none are given).
Every measurement is a process of its own.

A further client needs its data (training and test samples, raw and prepared) and its adapter, which the server holds until all
clients have answered; the ratio is the slope over these two. Optimiser state is excluded: it exists for one client at a time.
Test samples are evaluated in batches of eight, whatever their number.

The rival does the same local work on the same data, but loads the foundation and its adapters once per client, as
frameworks with a model per client do.
"""

import json
import resource
import subprocess
import sys
from functools import partial
from typing import Any


def experiment(clients: int) -> Any:
    from fedloom.experiment.settings import Experiment

    half = clients // 2
    return Experiment.parse(
        {
            "method": "feda2-lora",
            "rounds": 1,
            "data": {"clients": {"image": clients - half, "audio": half}, "train": 16, "test": 2},
            "training": {"batch_size": 8},
            "evaluation": {"generate": False, "controls": False, "batch_size": 8},
        }
    )


def measure(kind: str, clients: int) -> dict[str, int]:
    """Train every client once; peak resident memory, and the bytes that necessarily grow with the clients."""
    from fedloom.core.payload import Payload, group_of
    from fedloom.experiment.run import build
    from fedloom.federation.settings import Round
    from fedloom.models.example_cache import nbytes
    from fedloom.models.mllm.load import load_model
    from fedloom.models.training.loop import train_one

    chosen = experiment(clients)
    federation = build(chosen, None, lambda progress: None)
    kept = []
    if kind == "shared":
        federation.run()
    else:
        for client in federation.clients.values():
            held = sorted(g.removeprefix("encoder.") for g in client.groups if g.startswith("encoder."))
            model = load_model(chosen.model, held, "cpu", chosen.seed)
            down = Payload({n: t for n, t in federation.state.shared.items() if group_of(n) in client.groups})
            client.answer(
                chosen.method,
                "train",
                down,
                model,
                chosen.training,
                Round(1, 1, 0),
                partial(train_one, model),
            )
            kept.append(model)
    model = federation.engine.model
    data = nbytes(federation.evaluator.tests.examples) + sum(
        nbytes([*client.data.train, *client.data.test, *client.examples(model)])
        for client in federation.clients.values()
    )
    adapters = sum(
        t.numel() * t.element_size()
        for client in federation.clients.values()
        for n, t in federation.state.shared.items()
        if group_of(n) in client.groups
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak, "data": data, "adapters": adapters}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(arguments[1], int(arguments[2]))))
        return
    few, many = (int(a) for a in arguments[:2]) if len(arguments) >= 2 else (5, 50)
    kinds = arguments[2:] or ["shared", "copies"]
    print(f"{'':16}{few:>8} clients{many:>8} clients   per extra client   of which data   adapters   ratio")
    slopes = {}
    for kind in kinds:
        figures = []
        for clients in (few, many):
            command = [sys.executable, "-m", "benchmarks", "memory", "--child", kind, str(clients)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
        extra = many - few
        slope = {k: (figures[1][k] - figures[0][k]) / extra for k in figures[0]}
        slopes[kind] = slope["peak"]
        print(
            f"{kind:16}{figures[0]['peak'] / 1e6:>13.1f} MB{figures[1]['peak'] / 1e6:>13.1f} MB"
            f"{slope['peak'] / 1e6:>16.2f} MB{slope['data'] / 1e6:>13.2f} MB{slope['adapters'] / 1e6:>8.2f} MB"
            f"{slope['peak'] / (slope['data'] + slope['adapters']):>8.2f}"
        )
    if len(slopes) == 2:
        print(f"ratio of the slopes, copies to shared: {slopes['copies'] / slopes['shared']:.1f}")
