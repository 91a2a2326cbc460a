"""The server's side of a deployed run: collect the sites' descriptions, then start or resume the run in its folder.

Flower cannot resume a run and need not: a new Flower run that opens the same run folder continues after the last finished
round. The sites identify the run by the id in `run.json`.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.payload import Payload, PayloadError
from fedloom.core.plain_text import plain, shown
from fedloom.data.client_data import ClientData
from fedloom.data.sample import MODALITIES
from fedloom.deploy.evaluation import SiteEvaluator
from fedloom.deploy.remote_engine import Carrier, Lost, RemoteEngine
from fedloom.deploy.settings import check_deployable, experiment_digest
from fedloom.deploy.wire import DESCRIBE, Answer, Request, fingerprint
from fedloom.experiment.build import check_clients, client_shapes
from fedloom.experiment.provenance import versions
from fedloom.experiment.run import Result, finish, read_experiment
from fedloom.experiment.settings import Experiment
from fedloom.experiment.tracked_run import track
from fedloom.experiment.tracking import Tracking
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.client import Client
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer
from fedloom.federation.run_events import recorded
from fedloom.federation.run_folder import RunFolder

Short = Annotated[str, Field(max_length=100)]


class Described(BaseModel):
    """A site's description: modalities, sample counts, package versions."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    holds: tuple[Short, ...] = Field(max_length=100)
    train: int = Field(ge=0, le=10**12)
    test: int = Field(ge=0, le=10**12)
    versions: dict[Short, Short] = Field({}, max_length=100)


class Elsewhere:
    """Placeholder for client states that stay at a site."""

    def read(self, client: str) -> dict[str, Tensor] | None:
        """Always raises ExperimentError."""
        raise ExperimentError(
            f"the personal tensors of {client} stay there; this method needs them on the server"
        )

    def write(self, client: str, round: int, tensors: Mapping[str, Tensor]) -> None:
        """Always raises ExperimentError."""
        self.read(client)


def go_on(
    experiment: Experiment,
    sites: tuple[str, ...],
    path: Path,
    carrier: Carrier,
    observe: Observer = lambda progress: None,
) -> Result:
    """Start the run in `path` or resume it; every site must describe itself before round 0.

    Raises ExperimentError for a site that does not, for another experiment's folder and for a damaged checkpoint.
    """
    check_deployable(experiment)
    tracking = Tracking(experiment.track, RunFolder(path))
    torch.set_flush_denormal(True)  # as in experiment.build
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
    federation = build_server(
        experiment, described, carrier, folder, run, lambda progress: observe(tracking(progress))
    )
    checkpoint = folder.last() if begun else None
    if begun:
        federation.resume(checkpoint)
    else:
        folder.write_experiment(experiment.as_dict() | {"versions": versions()})
    folder.state.mkdir(exist_ok=True)
    with tracking.watching(), recorded(federation, resumed=begun):
        track(federation, tracking, resumed=checkpoint is not None)
        federation.run()
        rows = [_row(federation, name, site) for name, site in sorted(described.items())]
        return finish(federation, rows, tracking)


def build_server(
    experiment: Experiment,
    described: Mapping[str, Described],
    carrier: Carrier,
    folder: RunFolder | None,
    run: str,
    observe: Observer = lambda progress: None,
) -> Federation:
    """A federation whose clients are remote sites, before its first round."""
    model = experiment.task.model({name: site.holds for name, site in described.items()}, experiment.setup)
    shapes = client_shapes(experiment, list(described), model.scales)
    clients = {
        name: Client(
            ClientData(name, (), ()), model.groups(site.holds, name), shapes[name], experiment.cohort.start
        )
        for name, site in described.items()
    }
    digest = experiment_digest(experiment)
    experiment = with_multiplier(experiment)
    check_clients(experiment, model, clients)
    engine = RemoteEngine(model, clients, carrier, run, digest, experiment.firewall)
    evaluator = SiteEvaluator()
    federation = Federation(experiment, engine, evaluator, folder, observe)
    evaluator.federation = federation
    for client in federation.clients.values():
        client.states = Elsewhere()
    federation.check()
    return federation


def ask_descriptions(
    carrier: Carrier, run: str, experiment: str, sites: tuple[str, ...]
) -> dict[str, Described]:
    """Every site's description, by name. Raises ExperimentError naming the first site without a valid one."""
    request = Request(run, experiment, DESCRIBE, 0, 0, Payload()).encode()
    described: dict[str, Described] = {}
    faults = dict.fromkeys(sites, "no answer")
    for site, data in carrier.exchange(dict.fromkeys(sites, request)):
        if isinstance(data, Lost):
            faults[site] = data.why
            continue
        try:
            answer = Answer.decode(data)
            if answer.site != site or answer.to != fingerprint(request) or answer.error is not None:
                faults[site] = plain(answer.error or "answers another question")
                continue
            described[site] = Described.model_validate(dict(answer.payload.numbers))
        except (PayloadError, ValidationError) as error:
            faults[site] = f"unreadable: {type(error).__name__}"
            continue
        if unknown := [m for m in described[site].holds if m not in MODALITIES]:
            raise ExperimentError(f"site {site} holds {shown(unknown[0])}, which is no modality")
    for site in sites:
        if site not in described:
            raise ExperimentError(f"site {site} has not joined ({faults[site]}); start it, then run again")
    return {site: described[site] for site in sorted(described)}


def _run_name(path: Path) -> str:
    """The run's id, 32 hex digits: generated once and kept across restarts."""
    file = path / "run.json"
    if not file.is_file():
        write_atomic(file, json.dumps({"run": uuid.uuid4().hex}).encode())
    name: str = json.loads(file.read_text(encoding="utf-8"))["run"]
    return name


def _described(
    path: Path, carrier: Carrier, run: str, experiment: str, sites: tuple[str, ...]
) -> dict[str, Described]:
    """The sites' descriptions, cached in `sites.json`: a restarted server need not wait for an absent site."""
    file = path / "sites.json"
    if not file.is_file():
        described = ask_descriptions(carrier, run, experiment, sites)
        text = json.dumps({name: site.model_dump() for name, site in described.items()}, indent=1)
        write_atomic(file, text.encode())
    cached = json.loads(file.read_text(encoding="utf-8"))
    return {name: Described.model_validate(fields) for name, fields in sorted(cached.items())}


def _row(federation: Federation, name: str, site: Described) -> dict[str, Any]:
    """A site's row of the summary."""
    return {
        "client": name,
        "holds": list(site.holds),
        "train": site.train,
        "test": site.test,
        "metrics": dict(federation.client_metrics.get(name, {})),
    }
