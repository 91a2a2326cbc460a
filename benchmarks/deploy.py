"""Overhead of one phase of a deployment without training: three sites echo their payload.

`python -m benchmarks deploy [rounds] [MB ...]` (2 1 40 if none are given); needs the extra `flower`, and minutes.

Seconds from the first message to the last reply, on one machine. `local` encodes and decodes every payload in one process, as
`engine.wire` does; `warm` is a SuperLink and three SuperNodes with TLS and keys, with persistent trainers; `cold` is the
same with a ClientApp that imports torch and loads the tiny foundation for every message, as without a trainer. The first phase of
each kind is not counted.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

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
clientapp = "{client}"
[tool.flwr.app.config]
"""
CLIENTS = {"warm": "fedloom.deploy.flower_site:app", "cold": "benchmarks.deploy_apps:cold"}


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


def deployed(folder: Path, sizes: Sequence[int], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of each phase, by kind and size."""
    from fedloom.deploy.demo import free_ports
    from fedloom.deploy.processes import Child, environment, program
    from fedloom.deploy.settings import Deployment
    from fedloom.deploy.site_kit import write_kit
    from fedloom.experiment.settings import Experiment

    port, *ports = free_ports(len(SITES) + 1)
    write_kit(
        folder, Experiment.parse({"method": "fedavg-lora"}), Deployment(sites=SITES, port=port), direct=True
    )
    plan = folder / "plan.json"
    plan.write_text(json.dumps({"sizes": sizes, "rounds": rounds, "out": str(folder)}))
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    more = {PLAN: str(plan), "PYTHONPATH": path}
    server = Child(
        [sys.executable, "-m", "fedloom", "deploy", "server", str(folder / "server")],
        environment(folder / "home", more),
        folder / "server.log",
    )
    children = [server]
    try:
        server.start()
        _until(
            lambda: len(_json(folder / "server" / "state" / "registered.json") or ()) == len(SITES), server
        )
        for site, own in zip(SITES, ports, strict=True):
            place = folder / "sites" / site
            env = environment(place / "flower", {**more, "FEDLOOM_TRAINER": str(place / "trainer.json")})
            echo = [sys.executable, "-m", "benchmarks.deploy_apps", str(place / "trainer.json")]
            node = [program("flower-supernode"), "--root-certificates", str(place / "ca.pem")]
            node += [
                "--superlink",
                f"localhost:{port}",
                "--auth-supernode-private-key",
                str(place / "node.key"),
            ]
            node += ["--host", "127.0.0.1", "--port", str(own)]
            children += [Child(echo, env, place / "echo.log"), Child(node, env, place / "node.log")]
        for child in children[1:]:
            child.start()
        seconds = {}
        env = environment(folder / "server" / "flower", more)
        for kind, client in CLIENTS.items():
            app = folder / kind
            app.mkdir()
            (app / "pyproject.toml").write_text(APP.format(client=client))
            (app / "README.md").write_text("An echo.\n")
            subprocess.run([program("flwr"), "run", str(app), "fedloom"], env=env, check=True, timeout=120)
            _until(lambda: (folder / "seconds.json").exists(), server)
            seconds[kind] = json.loads((folder / "seconds.json").read_text())
            (folder / "seconds.json").unlink()
        return seconds
    finally:
        for child in reversed(children):
            child.stop()


def _json(file: Path) -> object:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return None


def _until(true: object, server: object, seconds: float = 900.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        if not server.alive or time.monotonic() > until:
            raise SystemExit(f"the deployment did not come up: {server.last_words()}")
        time.sleep(0.5)


def main(arguments: Sequence[str]) -> None:
    """Measure and print the table."""
    numbers = [int(a) for a in arguments] or [2, 1, 40]
    rounds, sizes = numbers[0], numbers[1:] or [1, 40]
    with tempfile.TemporaryDirectory(prefix="fedloom-bench-") as folder:
        far = deployed(Path(folder) / "kit", sizes, rounds)
    print("| payload | local, s a phase | Flower, warm trainer | Flower, cold |\n|---|---|---|---|")
    for size in sizes:
        cells = [local(size, rounds), *(far[kind][str(size)][1:] for kind in CLIENTS)]
        texts = [f"{median(c):.2f} ({min(c):.2f} to {max(c):.2f})" for c in cells]
        print(f"| {size} MB | {' | '.join(texts)} |")
    print("\n" + surroundings())
