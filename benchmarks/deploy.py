"""Overhead of one phase of a deployment without training: three sites echo their payload.

`python -m benchmarks deploy [rounds] [MB ...]` (2 1 40 if none are given); needs the extra `flower`, and minutes.

Seconds from the first message to the last answer, on one machine with TLS and keys. `local` encodes and decodes every payload in
one process, as `engine.wire` does; `node` is fedloom's node with a trainer that stays; `SuperNode` is Flower's, which starts a
process for every message, with the same trainer behind it; `cold` is a SuperNode whose ClientApp imports torch and loads the tiny
foundation for every message. *Down* is from the question's first byte to the trainer, *up* from the trainer to the server: means
over sites. The first phase of each kind and size is not counted.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from benchmarks.report import ROOT, surroundings
from fedloom.core.payload import Payload

SITES = ("north", "south", "west")
PLAN = "FEDLOOM_BENCH_PLAN"
APP = """[project]
name = "fedloom-bench"
version = "1.0.0"
description = "Echoes payloads"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "fedloom"
fab-include = ["*.md"]
[tool.flwr.app.components]
serverapp = "benchmarks.deploy_apps:server"
clientapp = "benchmarks.deploy_apps:{client}"
[tool.flwr.app.config]
"""
KINDS = {"node": "stub", "SuperNode": "stub", "cold": "cold"}
"""Kinds of deployment, and the ClientApp of each, which a node does not run."""


def payload(megabytes: int) -> Payload:
    """Ten float32 tensors of `megabytes` MB in total, incompressible."""
    generator = torch.Generator().manual_seed(0)
    return Payload(
        {f"llm/{i}": torch.randn(megabytes * 25_000, generator=generator) for i in range(10)}, {"round": 1}
    )


def local(megabytes: int, rounds: int) -> list[float]:
    """Seconds of each phase in one process."""
    sent, seconds = payload(megabytes), []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for _ in SITES:
            Payload.decode(Payload.decode(sent.encode()).encode())
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


class Kit:
    """A server and the folders of three sites; `deployed` runs them in one of the kinds."""

    def __init__(self, folder: Path, sizes: Sequence[int], rounds: int) -> None:
        from fedloom.deploy.demo import free_ports
        from fedloom.deploy.settings import Deployment
        from fedloom.deploy.site_kit import write_kit
        from fedloom.experiment.settings import Experiment

        self.folder, (self.port, *self.ports) = folder, free_ports(len(SITES) + 1)
        deployment = Deployment(sites=SITES, port=self.port, direct=True)
        write_kit(folder, Experiment.parse({"method": "fedavg-lora"}), deployment)
        plan = folder / "plan.json"
        plan.write_text(json.dumps({"sizes": sizes, "rounds": rounds, "out": str(folder)}))
        path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        self.more = {PLAN: str(plan), "PYTHONPATH": path}

    def measured(self) -> dict[str, list[dict[str, Any]]]:
        """The phases by kind."""
        from fedloom.deploy.processes import Child, environment

        command = [sys.executable, "-m", "fedloom", "deploy", "server", str(self.folder / "server")]
        server = Child(command, environment(self.folder / "home", self.more), self.folder / "server.log")
        registered = self.folder / "server" / "state" / "registered.json"
        trainers = [
            Child([sys.executable, "-m", "benchmarks.deploy_apps", str(p)], self._env(p), p / "echo.log")
            for p in map(self._place, SITES)
        ]
        with running([server, *trainers]):
            until(lambda: len(read(registered) or ()) == len(SITES), server)
            return {kind: self._phases(kind, server) for kind in KINDS}

    def _phases(self, kind: str, server: Any) -> list[dict[str, Any]]:
        from fedloom.deploy.processes import Child, environment, program

        app = self.folder / kind
        app.mkdir()
        (app / "pyproject.toml").write_text(self.app(kind))
        (app / "README.md").write_text("An echo.\n")
        places = {site: self._place(site) for site in SITES}
        for place in places.values():
            (place / "times.jsonl").write_text("")
        nodes = [
            Child(self._node(kind, place, port), self._env(place), place / f"{kind}.log")
            for place, port in zip(places.values(), self.ports, strict=True)
        ]
        with running(nodes):
            env = environment(self.folder / "server" / "flower", self.more)
            subprocess.run(
                [program("flwr"), "run", str(app), "fedloom"],
                env=env,
                check=True,
                timeout=120,
                capture_output=True,
            )
            until(lambda: (self.folder / "phases.json").exists(), server)
        phases: list[dict[str, Any]] = json.loads((self.folder / "phases.json").read_text())
        (self.folder / "phases.json").unlink()
        for site, place in places.items():
            times = [float(line) for line in (place / "times.jsonl").read_text().splitlines()]
            for phase, at in zip(phases, times, strict=False):  # none where no trainer is asked
                phase.setdefault("trained", {})[site] = at
        return phases

    @staticmethod
    def app(kind: str) -> str:
        """The settings of the app of one kind of deployment."""
        return APP.format(client=KINDS[kind])

    def _node(self, kind: str, place: Path, port: int) -> list[str]:
        from flwr.cli.build import build_fab_from_disk

        from fedloom.deploy.processes import program

        server = f"localhost:{self.port}"
        if kind == "node":
            pin = hashlib.sha256(build_fab_from_disk(self.folder / kind)).hexdigest()
            trainer = str(place / "trainer.json")
            return [sys.executable, "-m", "fedloom.deploy.flower_node", str(place), server, pin, trainer]
        options = {
            "--root-certificates": str(place / "ca.pem"),
            "--superlink": server,
            "--auth-supernode-private-key": str(place / "node.key"),
            "--host": "127.0.0.1",
            "--port": str(port),
        }
        return [program("flower-supernode"), *(word for pair in options.items() for word in pair)]

    def _place(self, site: str) -> Path:
        return self.folder / "sites" / site

    def _env(self, place: Path) -> dict[str, str]:
        from benchmarks.deploy_apps import TRAINER
        from fedloom.deploy.processes import environment

        return environment(place / "flower", {**self.more, TRAINER: str(place / "trainer.json")})


@contextmanager
def running(children: Sequence[Any]) -> Any:
    """These processes, from here to the end of the block."""
    try:
        for child in children:
            child.start()
        yield
    finally:
        for child in reversed(children):
            child.stop()


def read(file: Path) -> Any:
    """The JSON in a file, or None."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def until(true: Callable[[], bool], server: Any, seconds: float = 900.0) -> None:
    """Wait until something is true. Exits if the server ends, or after `seconds`."""
    end = time.monotonic() + seconds
    while not true():
        if not server.alive or time.monotonic() > end:
            raise SystemExit(f"the deployment did not come up: {server.last_words()}")
        time.sleep(0.5)


def cells(phases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whole, down and up of some phases of one kind and size."""
    whole = [max(p["ended"].values()) - p["began"] for p in phases]
    parts = ["", ""]
    if all("trained" in p for p in phases):
        down = [fmean(p["trained"][s] - p["began"] for s in SITES) for p in phases]
        up = [fmean(p["ended"][s] - p["trained"][s] for s in SITES) for p in phases]
        parts = [f"{median(down):.2f}", f"{median(up):.2f}"]
    return [f"{median(whole):.2f} ({min(whole):.2f} to {max(whole):.2f})", *parts]


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    numbers = [int(a) for a in arguments] or [2, 1, 40]
    rounds, sizes = numbers[0], numbers[1:] or [1, 40]
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        far = Kit(Path(folder) / "kit", sizes, rounds).measured()
    print("| payload | kind | s a phase | down | up |\n|---|---|---|---|---|")
    for size in sizes:
        alone = local(size, rounds)
        print(f"| {size} MB | local | {median(alone):.2f} ({min(alone):.2f} to {max(alone):.2f}) | | |")
        for kind, phases in far.items():
            counted = [p for p in phases if p["size"] == size][1:]
            print(f"| {size} MB | {kind} | {' | '.join(cells(counted))} |")
    print("\n" + surroundings())
