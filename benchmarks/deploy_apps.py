"""The programs of `benchmarks.deploy`: a ServerApp that times exchanges, a cold ClientApp, and a trainer that echoes."""

import json
import os
import sys
import time
from pathlib import Path

from fedloom.deploy.flower_site import bytes_in, record_of
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedloom.deploy.trainer_link import serve

server = ServerApp()
cold = ClientApp()


@server.main()
def measure(grid: Grid, context: Context) -> None:
    """Exchange each payload with every site, with one uncounted repetition."""
    from benchmarks.deploy import PLAN, SITES, payload
    from fedloom.core.files import write_atomic
    from fedloom.deploy.flower_server import GridCarrier

    plan = json.loads(Path(os.environ[PLAN]).read_text())
    carrier = GridCarrier(grid, timeout=600)
    if missing := carrier.wait_for(SITES, 300):
        raise SystemExit(f"{missing} did not come")
    seconds: dict[str, list[float]] = {}
    for size in plan["sizes"]:
        data = payload(size).encode()
        for _ in range(plan["rounds"] + 1):
            began = time.perf_counter()
            answers = dict(carrier.exchange(dict.fromkeys(SITES, data)))
            seconds.setdefault(str(size), []).append(time.perf_counter() - began)
            if any(answers[site] != data for site in SITES):
                raise SystemExit("an echo is not what was sent")
    write_atomic(Path(plan["out"]) / "seconds.json", json.dumps(seconds).encode())


def load() -> None:
    """Load the model of a trainer."""
    from fedloom.experiment.settings import Experiment
    from fedloom.models.mllm.load import load_model

    chosen = Experiment.parse({"method": "fedavg-lora"})
    load_model(chosen.model, ["image"], "cpu", 0)


@cold.train()
def echo(message: Message, context: Context) -> Message:
    """Load everything, then return the message's bytes."""
    load()
    return Message(record_of(bytes_in(message.content)), reply_to=message)


if __name__ == "__main__":
    load()
    serve(Path(sys.argv[1]), lambda data: data)
