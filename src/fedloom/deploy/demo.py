"""`fedloom deploy demo`: a complete deployment on this machine, compared with the local engine."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import torch

from fedloom.core.errors import ExperimentError
from fedloom.deploy import current_run as current
from fedloom.deploy.processes import Child, environment
from fedloom.deploy.settings import Deployment, Site, read_settings, write_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.settings import EngineSettings

LIMIT = 900.0
"""Timeout of the demo, in seconds."""


class Loopback:
    """Server and sites of one deployment as processes on this machine, with their files below `folder`."""

    def __init__(self, folder: Path, experiment: Experiment, sites: tuple[str, ...]) -> None:
        self.folder, self.sites = folder, sites
        first, proxy, *others = free_ports(len(sites) + 2)
        # Generous timeouts: every round starts three Flower processes, which is slow on a small machine.
        deployment = Deployment(
            sites=sites, port=first, proxy_port=proxy, round_timeout=600.0, join_timeout=600.0
        )
        ports = dict(zip(sites, others, strict=True))
        write_kit(folder, experiment, deployment, direct=True, node_ports=ports)
        for name in sites:
            settings = folder / "sites" / name / "site.yaml"
            site = read_settings(Site, settings)
            engine = EngineSettings(device="cpu", threads=1)
            write_settings(site.model_copy(update={"engine": engine}), settings)
        self.env = environment(folder / "home")
        self.children = {"server": self._child("server", "server", str(folder / "server"))}
        for name in sites:
            self.add(name)

    @property
    def server(self) -> Path:
        """The server's folder."""
        return self.folder / "server"

    def add(self, name: str) -> None:
        """Know a site's process, not yet started."""
        self.children[name] = self._child(name, "site", str(self.folder / "sites" / name), "--accept")

    def _child(self, name: str, *arguments: str) -> Child:
        command = [sys.executable, "-m", "fedloom", "deploy", *arguments]
        return Child(command, self.env, self.folder / "logs" / f"{name}.log")

    def start(self) -> None:
        """Start all stopped processes; the sites after the server has registered their keys."""
        registered = self.server / "state" / "registered.json"
        until = time.monotonic() + LIMIT
        for child in self.children.values():
            if not child.alive:
                child.start()
            while not registered.is_file() or len(json.loads(registered.read_text())) < len(self.sites):
                if not self.children["server"].alive or time.monotonic() > until:
                    raise ExperimentError(f"the server did not start: {self.children['server'].last_words()}")
                time.sleep(0.5)

    def stop(self) -> None:
        """End all processes."""
        for child in reversed(self.children.values()):
            child.stop(20.0)

    def wait(self, path: Path, enough: Callable[[], bool] = lambda: False) -> None:
        """Wait until the run in `path` is finished or `enough()` is true. Raises ExperimentError on failure or timeout."""
        until = time.monotonic() + LIMIT
        while not current.finished(path) and not enough():
            if (why := current.failure(path)) is not None:
                raise ExperimentError(why)
            for name, child in self.children.items():
                if child.process is not None and not child.alive and child.code not in (None, -9, -15):
                    raise ExperimentError(f"{name} ended: {child.last_words()}; see {child.log}")
            if time.monotonic() > until:
                raise ExperimentError(f"nothing came of it in {LIMIT:g} s; the logs are in {self.folder}")
            time.sleep(0.5)


@contextmanager
def loopback(folder: Path, experiment: Experiment, sites: tuple[str, ...]) -> Iterator[Loopback]:
    """A deployment on this machine, not yet started; its processes are ended on exit."""
    deployment = Loopback(folder, experiment, sites)
    try:
        yield deployment
    finally:
        deployment.stop()


def free_ports(count: int) -> list[int]:
    """Free ports, each with a free successor."""
    ports: list[int] = []
    while len(ports) < count:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        if all(abs(port - other) > 1 for other in ports) and port < 65_000:
            ports.append(port)
    return ports


def show(folder: Path, rounds: int, say: Callable[[str], None]) -> list[tuple[str, str]]:
    """Run the demo below `folder`; returns its results as table rows. Raises ExperimentError."""
    experiment = Experiment.load(Path(str(files("fedloom") / "deploy" / "demo.yaml")), [f"rounds={rounds}"])
    sites = tuple(client.name for client in experiment.data.load(experiment.seed))
    began = time.monotonic()
    with loopback(folder, experiment, sites) as deployment:
        path = current.begin(deployment.server, "demo")
        deployment.start()
        say(f"a server and {len(sites)} sites start: TLS, a key for each")
        seen = -1

        def report_progress() -> bool:
            nonlocal seen
            ledger = RunFolder(path).history("ledger.jsonl") if path.is_dir() else []
            if (done := len(ledger)) != seen:
                seen = done
                for entry in ledger[-1:]:
                    say(
                        f"round {entry['round']}, {entry['request']}: {', '.join(entry['answered'])} answered"
                    )
            return False

        deployment.wait(path, report_progress)
    seconds = time.monotonic() - began
    say("the same experiment on the local engine")
    run(experiment, folder / "local")
    difference = largest_difference(path, folder / "local")
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    local = json.loads((folder / "local" / "summary.json").read_text(encoding="utf-8"))
    trains = [e["seconds"] for e in RunFolder(path).history("ledger.jsonl") if e["request"] == "train"]
    return [
        ("status", summary["status"]),
        (
            "largest difference to the local engine",
            "none: equal bits" if difference == 0 else f"{difference:.2e}",
        ),
        ("seconds a round, Flower with warm trainers", f"{sum(trains) / len(trains):.1f}"),
        ("seconds a round, local engine", f"{local['seconds'] / rounds:.1f}"),
        ("seconds in all, starts and ends included", f"{seconds:.0f}"),
        ("report", str(path / "report.html")),
    ]


def largest_difference(one: Path, other: Path) -> float:
    """Largest absolute difference between the shared tensors of two finished runs' last checkpoints."""
    shared = []
    for path in (one, other):
        checkpoint = RunFolder(path).last()
        if checkpoint is None:
            raise ExperimentError(f"{path} holds no checkpoint")
        shared.append(checkpoint.state.shared)
    if shared[0].keys() != shared[1].keys():
        raise ExperimentError("the two runs do not share the same tensors")
    pairs = [(shared[0][n], shared[1][n]) for n in shared[0] if not torch.equal(shared[0][n], shared[1][n])]
    return max((float((a.double() - b.double()).abs().max()) for a, b in pairs), default=0.0)
