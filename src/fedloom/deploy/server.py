"""The server's side of a deployed run: learn what the sites hold, then go on with the run folder from wherever it stands.

Flower cannot resume a run, and does not have to: a new Flower run that opens the same run folder goes on at the last finished
round. The run's own name, `run.json`, is what the sites know it by.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.payload import Payload, PayloadError
from fedloom.data.client_data import ClientData
from fedloom.data.sample import MODALITIES
from fedloom.deploy.evaluation import SiteEvaluator
from fedloom.deploy.remote_engine import Carrier, Lost, RemoteEngine
from fedloom.deploy.settings import check_deployable, experiment_digest
from fedloom.deploy.wire import DESCRIBE, Answer, Request, fingerprint
from fedloom.experiment.build import check_clients, client_shapes
from fedloom.experiment.run import Result, finish, read_experiment, versions
from fedloom.experiment.settings import Experiment
from fedloom.federation.client import Client
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer
from fedloom.federation.run_folder import RunFolder


class Described(BaseModel):
    """What a site tells of itself."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    holds: tuple[str, ...]
    train: int = Field(ge=0)
    test: int = Field(ge=0)
    versions: dict[str, str] = {}


class Elsewhere:
    """Stands for personal tensors that lie at a site."""

    def read(self, client: str) -> dict[str, Tensor] | None:
        """Nobody can. Raises ExperimentError."""
        raise ExperimentError(
            f"the personal tensors of {client} stay there; this method needs them on the server"
        )

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Nobody can. Raises ExperimentError."""
        self.read(client)


def go_on(
    experiment: Experiment,
    sites: tuple[str, ...],
    path: Path,
    carrier: Carrier,
    observe: Observer = lambda progress: None,
) -> Result:
    """Begin the run in `path`, or go on with the one that lies there; all sites must answer once before round 0.

    Raises ExperimentError for a site that does not, for another experiment's folder and for a damaged checkpoint.
    """
    check_deployable(experiment)
    torch.set_flush_denormal(True)  # as everywhere: see runner.build
    if experiment.engine.threads is not None:
        torch.set_num_threads(experiment.engine.threads)
    folder, digest = RunFolder(path), experiment_digest(experiment)
    begun = (path / "experiment.yaml").exists()
    if begun and experiment_digest(read_experiment(path)) != digest:
        raise ExperimentError(f"{path} holds a run of another experiment; name another run")
    if not begun:
        folder.create()
    run = _run_name(path)
    described = _described(path, carrier, run, digest, sites)
    federation = build_server(experiment, described, carrier, folder, run, observe)
    if begun:
        checkpoint = folder.last()
        folder.cut_histories(-1 if checkpoint is None else checkpoint.round)
        if checkpoint is not None:
            federation.resume(checkpoint)
    else:
        folder.write_experiment(experiment.as_dict() | {"versions": versions()})
    federation.run()
    return finish(federation, [_row(federation, name, told) for name, told in sorted(described.items())])


def build_server(
    experiment: Experiment,
    described: Mapping[str, Described],
    carrier: Carrier,
    folder: RunFolder | None,
    run: str,
    observe: Observer = lambda progress: None,
) -> Federation:
    """A federation whose clients are elsewhere, before its first round."""
    model = experiment.task.model({name: told.holds for name, told in described.items()}, experiment.setup)
    shapes = client_shapes(experiment, list(described), model.scales)
    clients = {
        name: Client(
            ClientData(name, (), ()), model.groups(told.holds, name), shapes[name], experiment.cohort.start
        )
        for name, told in described.items()
    }
    check_clients(experiment, model, clients)
    engine = RemoteEngine(model, clients, carrier, run, experiment_digest(experiment))
    evaluator = SiteEvaluator()
    federation = Federation(experiment, engine, evaluator, folder, observe)
    evaluator.federation = federation
    for client in federation.clients.values():
        client.states = Elsewhere()
    return federation


def ask_descriptions(
    carrier: Carrier, run: str, experiment: str, sites: tuple[str, ...]
) -> dict[str, Described]:
    """What every site holds. Raises ExperimentError naming the first that does not say."""
    request = Request(run, experiment, DESCRIBE, 0, 0, Payload()).encode()
    found: dict[str, Described] = {}
    faults = dict.fromkeys(sites, "no answer")
    for site, said in carrier.exchange(dict.fromkeys(sites, request)):
        if isinstance(said, Lost):
            faults[site] = said.why
            continue
        try:
            answer = Answer.decode(said)
            if answer.site != site or answer.to != fingerprint(request) or answer.error is not None:
                faults[site] = answer.error or "answers another question"
                continue
            found[site] = Described.model_validate(dict(answer.payload.numbers))
        except (PayloadError, ValidationError) as error:
            faults[site] = f"unreadable: {type(error).__name__}"
            continue
        if unknown := [m for m in found[site].holds if m not in MODALITIES]:
            raise ExperimentError(f"site {site} holds {unknown[0]}, which is no modality")
    for site in sites:
        if site not in found:
            raise ExperimentError(f"site {site} has not joined ({faults[site]}); start it, then run again")
    return {site: found[site] for site in sorted(found)}


def _run_name(path: Path) -> str:
    """The run's own name, 32 hex digits: drawn once, and the same after every restart."""
    file = path / "run.json"
    if not file.is_file():
        write_atomic(file, json.dumps({"run": uuid.uuid4().hex}).encode())
    name: str = json.loads(file.read_text(encoding="utf-8"))["run"]
    return name


def _described(
    path: Path, carrier: Carrier, run: str, experiment: str, sites: tuple[str, ...]
) -> dict[str, Described]:
    """What the sites hold, asked once: a restarted server does not have to wait for a site that is away."""
    file = path / "sites.json"
    if not file.is_file():
        found = ask_descriptions(carrier, run, experiment, sites)
        text = json.dumps({name: told.model_dump() for name, told in found.items()}, indent=1)
        write_atomic(file, text.encode())
    told = json.loads(file.read_text(encoding="utf-8"))
    return {name: Described.model_validate(fields) for name, fields in sorted(told.items())}


def _row(federation: Federation, name: str, told: Described) -> dict[str, Any]:
    """A site's row of the summary."""
    return {
        "client": name,
        "holds": list(told.holds),
        "train": told.train,
        "test": told.test,
        "metrics": dict(federation.client_metrics.get(name, {})),
    }
