"""A complete deployment on this machine, and its difference to a run on the local engine."""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.tensor_files import read_checked
from fedloom.deploy import current_run as current
from fedloom.deploy.processes import Child, environment
from fedloom.deploy.settings import Deployment, Site, read_settings, write_settings
from fedloom.deploy.site_kit import write_kit
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import Checkpoint, RunFolder
from fedloom.federation.settings import EngineSettings

LIMIT = 900.0
"""Timeout of a deployment, in seconds."""


class Loopback:
    """Server and sites of one deployment as processes on this machine, with their files below `folder`."""

    def __init__(self, folder: Path, experiment: Experiment, sites: tuple[str, ...]) -> None:
        self.folder, self.sites = folder, sites
        first, proxy = free_ports(2)
        # Generous timeouts: four processes share what may be a small machine.
        deployment = Deployment(
            sites=sites, port=first, proxy_port=proxy, direct=True, round_timeout=600.0, join_timeout=600.0
        )
        write_kit(folder, experiment, deployment)
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


def largest_difference(one: Path, other: Path) -> float:
    """Largest absolute difference between the shared tensors of two finished runs' last checkpoints."""
    return difference(*(_last(path).state.shared for path in (one, other)))


def largest_difference_of_all(deployment: Path, run: Path, local: Path, sites: Sequence[str]) -> float:
    """The same over the server's own tensors and every site's, too; `deployment` holds the folder `sites`.

    Raises ExperimentError where the two runs have different tensors, or none.
    """
    far, near = _last(run).state, _last(local).state
    pairs = [(far.shared, near.shared), (far.tensors, near.tensors)]
    for site in sites:
        kept = (deployment / "sites" / site).glob("runs/*/personal/*.safetensors")
        own = (local / "state" / "clients" / site).glob("*.safetensors")
        pairs.append((_newest(kept), _newest(own)))
    if not any(one for one, _ in pairs):
        raise ExperimentError("the two runs hold no tensors that could be compared")
    return max(difference(one, other) for one, other in pairs)


def difference(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Largest absolute difference between tensors of the same names; 0 where all bits are equal. Raises ExperimentError."""
    if one.keys() != other.keys():
        raise ExperimentError("the two runs do not share the same tensors")
    unequal = [name for name in one if not torch.equal(one[name], other[name])]
    return max((float((one[n].double() - other[n].double()).abs().max()) for n in unequal), default=0.0)


def _newest(files: Iterable[Path]) -> Mapping[str, Tensor]:
    """The tensors of the last file by name; none without files."""
    last = max(files, default=None)
    return {} if last is None else read_checked(last)


def _last(path: Path) -> Checkpoint:
    checkpoint = RunFolder(path).last()
    if checkpoint is None:
        raise ExperimentError(f"{path} holds no checkpoint")
    return checkpoint
