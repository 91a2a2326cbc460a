"""Sites in this process: the server's engine, the wire and the trainers, and between them what a test puts there."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedloom.core.tensor_files import digest_of
from fedloom.deploy.certificates import write_signing_key, write_tls
from fedloom.deploy.logs import Log
from fedloom.deploy.remote_engine import Lost
from fedloom.deploy.settings import Site, requests_of
from fedloom.deploy.site_list import SiteList, server_list, signed
from fedloom.deploy.trainer import SiteTrainer
from fedloom.deploy.wire import Request
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder
from fedloom.federation.settings import EngineSettings

Between = Callable[[str, bytes], Iterator[tuple[str, bytes | Lost]]]


class Silos:
    """A carrier to trainers in this process; `between` may do to a site's question what a network or a crash does."""

    def __init__(self, experiment: Experiment, names: tuple[str, ...], folder: Path) -> None:
        self.experiment, self.names, self.folder = experiment, names, folder
        self.trainers: dict[str, SiteTrainer] = {}
        self.asked: list[str] = []
        self.between: Between | None = None
        if experiment.privacy.secure is not None:
            self.write_kit()

    def write_kit(self) -> None:
        """What a kit holds for secure sums: the CA, its signed list of sites, and each site's signing key."""
        server = self.folder / "server"
        (server / "tls").mkdir(parents=True)
        write_tls(server / "tls", server / "ca.key", "localhost")
        keys = {}
        for name in self.names:
            (self.folder / name).mkdir()
            (self.folder / name / "ca.pem").write_bytes((server / "tls" / "ca.pem").read_bytes())
            keys[name] = write_signing_key(self.folder / name / "signing.key")
        listed = signed(keys, 1, server / "ca.key")
        for folder in (server, *(self.folder / name for name in self.names)):
            (folder / "sites.json").write_text(listed.text)

    def site_list(self) -> SiteList | None:
        """The server's list of sites."""
        return server_list(self.folder / "server")

    def trainer(self, name: str) -> SiteTrainer:
        """The site's trainer, started where it is not running."""
        if name not in self.trainers:
            site = Site(
                name=name,
                server="localhost:8000",
                sites=self.names,
                requests=requests_of(self.experiment),
                engine=EngineSettings(device="cpu"),
            )
            self.trainers[name] = SiteTrainer(site, self.experiment, self.folder / name)
        return self.trainers[name]

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        for name in requests:
            self.asked.append(name)
            question = requests[name]
            if self.between is None:
                yield name, self.trainer(name).answer(question)
            else:
                yield from self.between(name, question)


def said_into(lines: list[str]) -> Log:
    """A log that keeps the lines for people alone."""

    def log(line: str, *event: str, **fields: object) -> None:
        if line:
            lines.append(line)

    return log


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def reboot(silos: Silos, name: str) -> None:
    """Restart a site's trainer: only its state on disk is left."""
    silos.trainers[name]._states = {}


def outcome(silos: Silos, path: Path) -> str:
    """One hash of the server's tensors and of every site's own."""
    checkpoint = RunFolder(path).last()
    assert checkpoint is not None
    tensors = {**checkpoint.state.shared, **checkpoint.state.tensors}
    for name, trainer in silos.trainers.items():
        [state] = [trainer._state(folder.name) for folder in (trainer.folder / "runs").iterdir()]
        state.look_at(2)
        tensors |= {f"{name}:{n}": t for n, t in (state.read(name) or {}).items()}
    return digest_of(tensors)


def question_of(data: bytes, request: str = "train", round: int | None = None) -> bool:
    asked = Request.decode(data)
    return asked.name == request and round in (None, asked.round)
