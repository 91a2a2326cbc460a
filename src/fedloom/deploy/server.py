"""The server's side of a deployed run: collect the sites' descriptions, then start or resume the run in its folder.

Flower cannot resume a run and need not: a new Flower run that opens the same run folder continues after the last finished
round. The sites identify the run by the id in `run.json`.
"""

import json
import uuid
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedloom import __version__
from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.plain_text import shown
from fedloom.data.client_data import ClientData
from fedloom.deploy.descriptions import FILE as DESCRIPTIONS
from fedloom.deploy.descriptions import Described, ask_descriptions, read_descriptions, write_descriptions
from fedloom.deploy.evaluation import SiteEvaluator
from fedloom.deploy.members import FILE as MEMBERS
from fedloom.deploy.members import HeldList, Joining, Members, Wanted
from fedloom.deploy.remote_engine import Carrier, RemoteEngine
from fedloom.deploy.settings import check_deployable, classes_digest, experiment_digest
from fedloom.deploy.site_list import LIST, MISSING, SiteList
from fedloom.experiment.build import check_clients
from fedloom.experiment.clients import client_shapes
from fedloom.experiment.finished_run import read_experiment
from fedloom.experiment.provenance import versions
from fedloom.experiment.run import Result, finish
from fedloom.experiment.settings import Experiment
from fedloom.experiment.tracked_run import track
from fedloom.experiment.tracking import Tracking
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.client import Client
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer
from fedloom.federation.run_events import recorded
from fedloom.federation.run_folder import RunFolder
from fedloom.models.base import Trainable
from fedloom.models.lora.ranks import Shapes
from fedloom.privacy.noise_refusals import weak_promise
from fedloom.privacy.secure.signatures import PublicKeys


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
    site_list: Callable[[], SiteList | None] = lambda: None,
    wanted: Wanted | None = None,
) -> Result:
    """Start the run in `path` or resume it; every site must describe itself before round 0.

    `site_list` reads the server's signed list of sites. `wanted` says before every round who is to take part, of those on the
    list; None: whoever did at the beginning. Raises ExperimentError for a site that does not describe itself, for another
    experiment's folder, for a damaged checkpoint and for secure sums without a list.
    """
    check_deployable(experiment)
    if experiment.privacy.secure is not None and site_list() is None:
        raise ExperimentError(MISSING.format(folder="the server's folder", file=LIST))
    tracking = Tracking(experiment.track, RunFolder(path))
    torch.set_flush_denormal(True)  # as in experiment.build
    if experiment.engine.threads is not None:
        torch.set_num_threads(experiment.engine.threads)
    folder, digest = RunFolder(path), experiment_digest(experiment)
    begun = (path / "experiment.yaml").exists()
    if begun and experiment_digest(read_experiment(path)) != digest:
        raise ExperimentError(f"{path} holds a run of another experiment; name another run")
    if begun and (version := _begun_with(path)) not in (None, __version__):
        raise ExperimentError(
            f"{path} was begun with fedloom {version}, and {__version__} is installed; finish it with the former, or name "
            "another run"
        )
    if not begun:
        folder.create()
        for stale in (path / DESCRIPTIONS, folder.state / MEMBERS):  # of a try that was refused
            stale.unlink(missing_ok=True)
    run = _run_name(path)
    described = _described(path, carrier, run, digest, sites)
    held = HeldList(site_list)
    checkpoint = folder.last() if begun else None
    members = Members.of(folder.state, described, -1 if checkpoint is None else checkpoint.round)
    federation = build_server(
        experiment,
        {name: described[name] for name in members.first},
        carrier,
        folder,
        run,
        lambda progress: observe(tracking(progress)),
        held,
    )
    joining = _joining(
        federation, experiment, members, described, path, carrier, run, held.on_it(wanted or set)
    )
    joining.restore(described)
    if begun:
        federation.resume(checkpoint)
    else:
        folder.write_experiment(experiment.as_dict() | {"versions": versions()})
    with tracking.watching(), recorded(federation, resumed=begun):
        track(federation, tracking, resumed=checkpoint is not None)
        federation.run()
        known = read_descriptions(path) or {}
        rows = [_row(federation, name, known[name]) for name in sorted(members.ever)]
        return finish(federation, rows, tracking)


def build_server(
    experiment: Experiment,
    described: Mapping[str, Described],
    carrier: Carrier,
    folder: RunFolder | None,
    run: str,
    observe: Observer = lambda progress: None,
    site_list: Callable[[], SiteList | None] = lambda: None,
) -> Federation:
    """A federation whose clients are remote sites, before its first round."""
    task, holds = experiment.task, {name: site.holds for name, site in described.items()}
    _check_classes(experiment, described)
    model = task.model(holds, experiment.setup)
    tools = task.tools(model, holds, experiment.setup)
    shapes = client_shapes(experiment, list(described), model.scales)
    clients = {name: _client(experiment, model, name, site, shapes[name]) for name, site in described.items()}
    _check_groups(described, clients)
    digest = experiment_digest(experiment)
    experiment = with_multiplier(experiment)
    check_clients(experiment, model, clients)
    if weak := weak_promise(experiment.privacy.dp, len(clients)):
        model.notes.append(weak)
    engine = RemoteEngine(model, clients, carrier, run, digest, experiment.firewall, site_list)
    evaluator = SiteEvaluator(task.site_figures(), task.server_evaluator(model, experiment.setup, tools))
    federation = Federation(experiment, engine, evaluator, folder, observe, tools=tools)

    def public_keys() -> PublicKeys | None:
        listed = site_list()
        return None if listed is None else listed.keys

    federation.public_keys = public_keys
    evaluator.federation = federation
    for client in federation.clients.values():
        client.states = Elsewhere()
    federation.check()
    return federation


def _client(experiment: Experiment, model: Trainable, name: str, site: Described, shapes: Shapes) -> Client:
    """A remote site as the round loop sees it: its groups and shapes, without data."""
    groups = model.groups(site.holds, name)
    return Client(ClientData(name, (), ()), groups, shapes, experiment.cohort.start, states=Elsewhere())


def _joining(
    federation: Federation,
    experiment: Experiment,
    members: Members,
    described: Mapping[str, Described],
    path: Path,
    carrier: Carrier,
    run: str,
    wanted: Wanted,
) -> Joining:
    """Who joins and leaves a run before a round, set as the federation's `before_round`."""
    engine = federation.engine
    assert isinstance(engine, RemoteEngine)  # noqa: S101
    held = {m for name in members.first for m in described[name].holds}

    def client(name: str, site: Described) -> Client:
        if reason := _stranger(experiment, engine.model, held, site):
            raise ExperimentError(reason)
        _check_classes(experiment, {name: site})
        new = _client(experiment, engine.model, name, site, {})
        _check_groups({name: site}, {name: new})
        return new

    def describe(name: str) -> Described:
        found = ask_descriptions(carrier, run, engine.experiment, (name,))[name]
        before = (read_descriptions(path) or {}).get(name)
        if before is not None and set(before.holds) != set(found.holds):
            raise ExperimentError(
                f"it holds {', '.join(found.holds) or 'nothing'}, and held {', '.join(before.holds) or 'nothing'} when it took "
                "part before, from which the run's model was built; begin another run"
            )
        return found

    def forget(name: str) -> None:
        federation.state = federation.method.without(federation.state, name)

    def keep(new: Mapping[str, Described]) -> None:
        write_descriptions(path, {**(read_descriptions(path) or {}), **new})

    settled = with_multiplier(experiment)
    joining = Joining(
        members,
        engine.clients,
        wanted,
        describe,
        keep,
        client,
        lambda clients: _check_change(settled, engine.model, clients, set(engine.clients)),
        federation.clients_changed,
        forget,
    )
    federation.before_round = joining
    return joining


def _check_change(
    experiment: Experiment, model: Trainable, clients: Mapping[str, Client], before: Collection[str]
) -> None:
    """Raise ExperimentError where a run cannot go on with these clients instead of those `before`."""
    dp = experiment.privacy.dp
    if dp is not None and dp.in_turns and set(clients) != set(before):
        raise ExperimentError(
            f"privacy.dp.mechanism: {dp.mechanism} deals the sites' turns by all their names, and its budget counts on them; "
            "begin another run"
        )
    check_clients(experiment, model, clients)


def _stranger(experiment: Experiment, model: Trainable, held: Collection[str], site: Described) -> str | None:
    """The reason why a site cannot join a run that began with these modalities, or None."""
    if experiment.cohort.ranks:
        return "cohort.ranks deals the ranks by all sites' names, which would change every site's; begin another run"
    if not model.one_model:
        return "its sites have models of their own, dealt by all sites' names; begin another run"
    if strange := sorted({*site.holds}.difference(held)):
        return f"no site of the run's beginning holds {strange[0]}, so that its model does not read it; begin another run"
    return None


def _begun_with(path: Path) -> str | None:
    """The version of fedloom that began a run."""
    fields = read_yaml(path / "experiment.yaml")
    found = fields.get("versions") if isinstance(fields, dict) else None
    return str(found["fedloom"]) if isinstance(found, dict) and "fedloom" in found else None


def _check_groups(described: Mapping[str, Described], clients: Mapping[str, Client]) -> None:
    """Raise ExperimentError for a site whose model has other groups than the server expects of it."""
    for name, site in described.items():
        expected = clients[name].groups
        if site.groups is None or set(site.groups) == expected:
            continue
        own, other = (
            ", ".join(sorted(groups)[:3]) or "none"
            for groups in (set(site.groups) - expected, expected - set(site.groups))
        )
        raise ExperimentError(
            f"site {name} has built another model than the server expects of it: {shown(own)} where it should be {other}; "
            "both must know the same sites and what each of them holds"
        )


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
    """The descriptions of all sites that take part or did; asked for before round 0, when every site has to be there."""
    described = read_descriptions(path)
    if described is None:
        described = ask_descriptions(carrier, run, experiment, sites)
        write_descriptions(path, described)
    return described


def _check_classes(experiment: Experiment, described: Mapping[str, Described]) -> None:
    """Raise ExperimentError naming the first site whose data have other classes than the server's."""
    digest = classes_digest(experiment)
    for name, site in described.items():
        if site.classes != digest:
            raise ExperimentError(
                f"site {name} finds other classes in its data than the server; give all the same data set, or agree on the "
                "classes in the experiment (docs/deploy.md)"
            )


def _row(federation: Federation, name: str, site: Described) -> dict[str, Any]:
    """A site's row of the summary."""
    return {
        "client": name,
        "holds": list(site.holds),
        "train": site.train,
        "test": site.test,
        "metrics": dict(federation.client_metrics.get(name, {})),
    }
