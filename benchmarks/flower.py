"""A whole UniFLoW round beside a Flower simulation of the same work: half of the clients hold images, half speech.

`python -m benchmarks flower [clients] [batch] [repetitions] [workers]` (10 2 3 0 if none are given); needs the extra `bench`.
With workers, our clients train in so many processes; Flower has an actor per core either way.

The rival is idiomatic Flower code: a ClientApp that loads the model and prepares the data once per process (one Ray
actor per core), receives the adapters, trains them as `benchmarks.plain` does and sends them back; and a ServerApp that sends to
every node, waits, and combines by FedA²-LoRA over the clients that trained a tensor. Same samples, same steps, same combining;
telemetry and update checks are off. The two alternate, round by round, inside the ServerApp; the first round of both is not
counted, and Flower's start-up (until the end of its first round) is given separately.
"""

import importlib.util
import json
import os
import tempfile
import time
from functools import cache
from typing import Any

import torch

from benchmarks.cohort import STEPS, Ours, experiment
from benchmarks.plain import Plain, difference, restore
from benchmarks.report import ROOT, Row, all_threads, cores, number_of_workers, tell
from fedloom.experiment.settings import Experiment

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_DOCKER_CPU_WARNING": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@cache
def world(text: str) -> tuple[Plain, list[tuple[str, list[str], list[Any]]]]:
    """The model and every client's name, modalities and examples: once per process."""
    torch.set_flush_denormal(
        True
    )  # as in our runs: denormals would slow the rival through no fault of its framework
    chosen = Experiment.parse(json.loads(text))
    sources = chosen.data.load(chosen.seed)
    plain = Plain(chosen, sorted({m for s in sources for m in s.holds}))
    return plain, [(s.name, sorted(s.holds), [plain.mllm.prepare(x) for x in s.train]) for s in sources]


def client_app(text: str) -> Any:
    """Flower's client."""
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        plain, clients = world(text)
        name, holds, examples = clients[int(context.node_config["partition-id"])]
        start = message.content["arrays"].to_torch_state_dict()
        trained = plain.train(start, examples, holds, name, message.content["config"]["round"])
        answer = {"arrays": ArrayRecord(trained), "config": ConfigRecord({"client": name})}
        return Message(RecordDict(answer), reply_to=message)

    return app


def flower_round(grid: Any, state: dict[str, Any], number: int) -> dict[str, Any]:
    """Send to every node, wait, combine. Raises RuntimeError if a client failed."""
    from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

    content = RecordDict({"arrays": ArrayRecord(state), "config": ConfigRecord({"round": number})})
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    if failed := [r.error.reason for r in replies if r.has_error()]:
        raise RuntimeError(f"{len(failed)} clients of the Flower simulation failed: {failed[0]}")
    replies.sort(key=lambda r: r.content["config"]["client"])
    return {**state, **restore([r.content["arrays"].to_torch_state_dict() for r in replies])}


def measure(clients: int, batch: int, repetitions: int = 3, workers: int | None = None) -> list[Row]:
    """The one row."""
    what = f"UniFLoW round, {clients} clients x batch {batch}, {STEPS} steps each"
    what += f", {workers} workers" if workers else ""
    fields: dict[str, Any] = {
        "name": "flower",
        "what": what,
        "rival": "a Flower simulation",
        "target": "10",
    }
    if importlib.util.find_spec("flwr") is None or importlib.util.find_spec("ray") is None:
        return [Row(**fields, note="flwr[simulation] is not installed; pip install 'fedloom[bench]'")]
    home = tempfile.TemporaryDirectory()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    os.environ.update(QUIET, FLWR_HOME=home.name, PYTHONPATH=paths)
    from flwr.serverapp import ServerApp
    from flwr.simulation import run_simulation

    chosen = experiment("both", clients, batch, repetitions + 2, "feda2-lora", workers)
    text = json.dumps(chosen.as_dict())
    server, seconds, gaps, failures = ServerApp(), [], [], []
    began = time.perf_counter()

    @server.main()
    def main(grid: Any, context: Any) -> None:
        while len(list(grid.get_node_ids())) < clients:
            time.sleep(0.1)
        ours = Ours(chosen)
        state = Plain(
            chosen, sorted({m for c in ours.federation.clients.values() for m in c.data.holds})
        ).read()

        def rival(number: int) -> None:
            with all_threads():
                at = time.perf_counter()
                state.update(flower_round(grid, state, number))
                seconds.append(time.perf_counter() - at)
            gaps.append(difference(ours.federation.state.shared, state))

        ours.between = rival
        try:
            ours.run()
        except RuntimeError as error:
            failures.append(error)
        fields["ours"] = ours.whole[1:]
        fields["started"] = seconds[0] if seconds else 0.0

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    start = {
        "num_cpus": cores(),
        "include_dashboard": False,
        "log_to_driver": False,
        "_node_ip_address": "127.0.0.1",
    }
    run_simulation(
        server, client_app(text), clients, backend_config={"client_resources": resources, "init_args": start}
    )
    if failures:
        raise failures[0]
    first = fields.pop("started")
    note = (
        f"Flower's first round, with the actors' start, {first:.1f} s; the whole simulation {time.perf_counter() - began:.1f} s; "
        f"difference after one round {gaps[0]:.1e}, after {len(gaps)} rounds {gaps[-1]:.1e}"
    )
    return [Row(**fields, of_rival=seconds[1:], difference=gaps[0], note=note)]


def main(arguments: list[str]) -> list[Row]:
    clients, batch, repetitions = (int(a) for a in arguments[:3]) if len(arguments) > 2 else (10, 2, 3)
    rows = measure(clients, batch, repetitions, number_of_workers(arguments[3:]))
    tell(rows)
    return rows
