"""The programs of `benchmarks.deploy`: a ServerApp that times exchanges, two ClientApps, and a trainer that echoes."""

import json
import os
import sys
import time
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fedloom.deploy.flower_message import bytes_in, record_of
from fedloom.deploy.flower_node import answered
from fedloom.deploy.trainer_link import ADDRESS, serve

server = ServerApp()
stub = ClientApp()
cold = ClientApp()
TRAINER = "FEDLOOM_BENCH_TRAINER"
TIMES = "times.jsonl"
"""In a site's folder: when the trainer had each question and when it had its answer, Unix seconds."""


@server.main()
def measure(grid: Grid, context: Context) -> None:
    """Exchange each payload with every site, with one uncounted repetition; when each was sent and answered."""
    from benchmarks.deploy import PLAN, SITES, payload
    from fedloom.core.files import write_atomic
    from fedloom.deploy.flower_server import GridCarrier

    plan = json.loads(Path(os.environ[PLAN]).read_text())
    carrier = GridCarrier(grid, timeout=600)
    if missing := carrier.wait_for(SITES, 300):
        raise SystemExit(f"{missing} did not come")
    phases = []
    for size in plan["sizes"]:
        data = payload(size).encode()
        for _ in range(plan["rounds"] + 1):
            began, ended = time.time(), {}
            for site, answer in carrier.exchange(dict.fromkeys(SITES, data)):
                ended[site] = time.time()
                if answer != data:
                    raise SystemExit(f"the echo of {site} is not what was sent")
            phases.append({"size": size, "began": began, "ended": ended})
    write_atomic(Path(plan["out"]) / "phases.json", json.dumps(phases).encode())


@stub.train()
def forward(message: Message, context: Context) -> Message:
    """The trainer's answer, as a process of its own for every message."""
    return answered(message, Path(os.environ[TRAINER]))


@cold.train()
def echo(message: Message, context: Context) -> Message:
    """Load everything, then return the message's bytes."""
    load()
    return Message(record_of(bytes_in(message.content)), reply_to=message)


def load() -> None:
    """Load the model of a trainer."""
    from fedloom.experiment.settings import Experiment
    from fedloom.models.mllm.load import load_model

    chosen = Experiment.parse({"method": "fedavg-lora"})
    load_model(chosen.model, ["image"], "cpu", 0)


def train(folder: Path) -> None:
    """A trainer that echoes, and notes when."""
    load()

    def answer(data: bytes) -> bytes:
        with (folder / TIMES).open("a") as file:
            file.write(json.dumps(time.time()) + "\n")
        return data

    serve(folder / ADDRESS, answer)


if __name__ == "__main__":
    train(Path(sys.argv[1]))
