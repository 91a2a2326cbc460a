"""Peak memory of a federation by number of clients: one shared foundation, and the rival, one model copy per client.

`python -m benchmarks memory [few] [many] [kind]` (5 and 50 clients, and both kinds, `shared` and `copies`, if none are given).
Every measurement is a process of its own.

A further client needs its data (training and test samples, raw and prepared) and its adapter, which the server holds until all
clients have answered; the ratio is the slope over these two. Activations and optimiser state exist for one cohort at a time: both
numbers of clients train in cohorts of `few`, because `auto` takes a larger one for more clients, whose activations would count.
Test samples are evaluated in batches of eight, whatever their number.

The rival does the same local work on the same data, but loads the foundation and its adapters once per client, as
frameworks with a model per client do.
"""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.child import child
from benchmarks.peak import most_resident
from benchmarks.report import Row, tell


def experiment(clients: int, cohort: int) -> Any:
    from fedloom.experiment.settings import Experiment

    half = clients // 2
    return Experiment.parse(
        {
            "method": "feda2-lora",
            "rounds": 1,
            "data": {"clients": {"image": clients - half, "audio": half}, "train": 16, "test": 2},
            "training": {"batch_size": 8},
            "engine": {"device": "cpu", "cohort": cohort},
            "evaluation": {"generate": False, "controls": False, "batch_size": 8},
        }
    )


def measure(kind: str, clients: int, cohort: int) -> dict[str, int]:
    """Train every client once; peak resident memory, and the bytes that necessarily grow with the clients."""
    from fedloom.core.payload import Payload, group_of
    from fedloom.experiment.build import build
    from fedloom.federation.settings import Round
    from fedloom.models.example_cache import nbytes
    from fedloom.models.mllm.load import load_model
    from fedloom.models.training.loop import train_one

    chosen = experiment(clients, cohort)
    federation = build(chosen, None, lambda progress: None)
    kept = []
    if kind == "shared":
        federation.run()
    else:
        for client in federation.clients.values():
            held = sorted(g.removeprefix("encoder.") for g in client.groups if g.startswith("encoder."))
            own = load_model(chosen.model, held, "cpu", chosen.seed)
            down = Payload({n: t for n, t in federation.state.shared.items() if group_of(n) in client.groups})
            client.answer(
                chosen.method,
                "train",
                down,
                own,
                chosen.training,
                Round(1, 1, 0),
                partial(train_one, own),
            )
            kept.append(own)
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
    return {"peak": most_resident(), "data": data, "adapters": adapters}


def further(name: str, what: str, slope: Mapping[str, float]) -> Row:
    """The row of a further client's megabytes, beside those of its data and adapters."""
    if slope["peak"] <= 0:  # a few clients are lost in what libraries and allocator take
        return Row(name, what, "its data and adapters", "0.9", note="the peak does not grow with the clients")
    needed = slope["data"] + slope["adapters"]
    return Row(name, what, "its data and adapters", "0.9", [slope["peak"]], [needed], unit="MB")


def main(arguments: list[str]) -> list[Row]:
    if arguments[:1] == ["--child"]:
        print(json.dumps(measure(arguments[1], *map(int, arguments[2:]))))
        return []
    few, many = (int(a) for a in arguments[:2]) if len(arguments) >= 2 else (5, 50)
    kinds = arguments[2:] or ["shared", "copies"]
    print(f"{'':16}{few:>8} clients{many:>8} clients   per extra client   of which data   adapters   ratio")
    slopes: dict[str, float] = {}
    rows = []
    for kind in kinds:
        figures = [child("memory", kind, clients, few) for clients in (few, many)]
        extra = many - few
        slope = {k: (figures[1][k] - figures[0][k]) / extra / 1e6 for k in figures[0]}
        slopes[kind] = slope["peak"]
        print(
            f"{kind:16}{figures[0]['peak'] / 1e6:>13.1f} MB{figures[1]['peak'] / 1e6:>13.1f} MB"
            f"{slope['peak']:>16.2f} MB{slope['data']:>13.2f} MB{slope['adapters']:>8.2f} MB"
            f"{slope['peak'] / (slope['data'] + slope['adapters']):>8.2f}"
        )
        rows.append(further("memory", f"a further client, {few} to {many}, {kind}", slope))
    if len(slopes) == 2 and min(slopes.values()) > 0:
        own, copies = ([slopes[kind]] for kind in ("shared", "copies"))
        what = f"a further client, {few} to {many}, one foundation"
        rows.append(Row("memory", what, "a model copy per client", "10", own, copies, unit="MB"))
    tell(rows)
    return rows
