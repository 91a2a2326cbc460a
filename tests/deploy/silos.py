"""Sites in this process: the server's engine, the wire and the trainers, and between them what a test puts there."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from fedloom.deploy.settings import Site, tasks_of
from fedloom.deploy.trainer import Trainer
from fedloom.engines.remote import Lost
from fedloom.experiment import Engine, Experiment

Between = Callable[[str, bytes], Iterator[tuple[str, bytes | Lost]]]


class Silos:
    """A carrier to trainers in this process; `between` may do to a site's question what a network or a crash does."""

    def __init__(self, experiment: Experiment, names: tuple[str, ...], folder: Path) -> None:
        self.experiment, self.names, self.folder = experiment, names, folder
        self.trainers: dict[str, Trainer] = {}
        self.asked: list[str] = []
        self.between: Between | None = None

    def trainer(self, name: str) -> Trainer:
        """The site's trainer, started where it is not running."""
        if name not in self.trainers:
            site = Site(
                name=name,
                server="localhost:8000",
                sites=self.names,
                tasks=tasks_of(self.experiment),
                engine=Engine(device="cpu"),
            )
            self.trainers[name] = Trainer(site, self.experiment, self.folder / name)
        return self.trainers[name]

    def exchange(self, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes | Lost]]:
        for name in requests:
            self.asked.append(name)
            question = requests[name]
            if self.between is None:
                yield name, self.trainer(name).answer(question)
            else:
                yield from self.between(name, question)
