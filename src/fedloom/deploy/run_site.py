"""`fedloom deploy site`: the warm trainer and the node, started once the site has accepted its terms."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.folder_lock import holder, try_lock
from fedloom.deploy import refusals
from fedloom.deploy.app_bundle import pinned_app
from fedloom.deploy.demands import unmet
from fedloom.deploy.flower_key import ask_for_key
from fedloom.deploy.keeping import Keeper
from fedloom.deploy.kit_version import check_version
from fedloom.deploy.logs import Log
from fedloom.deploy.private_files import private_files
from fedloom.deploy.processes import Child, environment
from fedloom.deploy.reach import Reach, TrainerFile
from fedloom.deploy.settings import Site, check_deployable, experiment_digest, read_settings
from fedloom.deploy.site_checks import NODE_KEY, lacking, unsound, wrong_key
from fedloom.deploy.site_list import site_count
from fedloom.deploy.trainer_link import ADDRESS, NODE, endpoint
from fedloom.experiment.finished_run import read_experiment
from fedloom.privacy.settings import Privacy

CERTIFICATE, SIGNATURE, REFUSED = "certificate verify failed", "401 Unauthorized", "[code: 2004]"
"""Log messages of a rejected node; its exit code does not identify the cause."""
Part = Literal["both", "trainer", "node"]
"""The half of a site that a process keeps running."""
MISTAKE = 2
"""The trainer's exit code for unusable settings or data of the site."""


def missing(folder: Path) -> list[str]:
    """A sentence for everything that the site lacks before it can join, for display beside the terms. Raises ExperimentError."""
    return lacking(read_settings(Site, folder / "site.yaml"), read_experiment(folder), folder)


def terms(folder: Path) -> dict[str, str]:
    """The terms of joining, for display before a site accepts them."""
    site = read_settings(Site, folder / "site.yaml")
    experiment = read_experiment(folder)
    method, protection = experiment.method, _protection(experiment.privacy)
    return {
        "site": site.name,
        "server": site.server,
        "experiment": f"{experiment.name} ({experiment_digest(experiment)[:16]})",
        "method": f"{method.title} ({method.paper}), {experiment.rounds} rounds",
        "data that are read": str(site.data or getattr(experiment.data, "path", None) or "generated here"),
        "requests that are done": ", ".join(site.requests),
        "code that runs": f"the fedloom installed here and nothing from the server; it answers the app {pinned_app()[:16]}",
        "leaves this site": f"{method.leaving}{protection}; counts, losses and figures",
        "this site demands": site.demands.sentence,
        "stays at this site": f"samples, answers, {method.staying}",
        "personal state": str(folder.resolve() / "runs"),
    }


def _protection(privacy: Privacy) -> str:
    """The protection of the shared tensors that leave a site, in brackets; empty if there is none."""
    parts = []
    if privacy.dp is not None:
        noise = (
            "with noise added here"
            if privacy.secure is not None
            else "as it is: the server clips and adds noise"
        )
        parts.append(noise)
    if privacy.secure is not None:
        parts.append("masked: the server can open sums of several sites alone")
    return f" ({'; '.join(parts)})" if parts else ""


def accepted(folder: Path) -> bool:
    """Whether the site has accepted exactly this experiment and these requests."""
    file = folder / "accepted.json"
    if not file.is_file():
        return False
    terms = json.loads(file.read_text(encoding="utf-8"))
    if "tasks" in terms:  # the key until 0.1
        terms["requests"] = terms.pop("tasks")
    return bool(terms == _terms_record(folder))


@private_files()
def accept(folder: Path) -> None:
    """Accept the current experiment and requests."""
    write_atomic(folder / "accepted.json", json.dumps(_terms_record(folder)).encode())


def _terms_record(folder: Path) -> dict[str, object]:
    site = read_settings(Site, folder / "site.yaml")
    return {
        "experiment": experiment_digest(read_experiment(folder)),
        "requests": list(site.requests),
        "app": pinned_app(),
    }


@private_files()
def run_site(
    folder: Path,
    log: Log,
    go_on: Callable[[], bool] = lambda: True,
    part: Part = "both",
    around: Callable[[Child, Child], AbstractContextManager[None]] = lambda trainer, node: nullcontext(),
) -> None:
    """Keep trainer and node running, or one of them; the node joins once the trainer has started.

    `folder` is the site's, or for the node alone its own (see `deploy.site_users`). `around(trainer, node)` is entered
    before either starts.

    Nothing that the server says, and no crash, ends it. Raises ExperimentError if the site runs already, if its terms are not
    accepted, for an experiment that cannot be deployed, and for data that cannot be used at a site that has not answered yet; at
    another a disk may be late.
    """
    folder = folder.resolve()
    site = read_settings(Site, folder / "site.yaml")
    address = folder / ADDRESS if part == "node" else endpoint(folder)
    with _alone(folder, site.name):
        if part != "node":
            check_version(site, folder)
            _check(folder, site, part)
            address.unlink(missing_ok=True)
        else:
            _check_node(folder)
        _keep(folder, site, log, go_on, part, around, address)


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the folder's lock. Raises ExperimentError where another process runs the site."""
    with try_lock(folder) as held:
        if not held:
            raise ExperimentError(f"{name} runs already (process {holder(folder)}); stop that one first")
        yield


def _keep(
    folder: Path,
    site: Site,
    log: Log,
    go_on: Callable[[], bool],
    part: Part,
    around: Callable[[Child, Child], AbstractContextManager[None]],
    address: Path,
) -> None:
    """Start trainer and node, and start them again, while `go_on()` is true; `address`: the file with the trainer's port."""
    env = environment(folder / "flower")
    trainer = Child(_trainer(folder), env, folder / "logs" / "trainer.log")
    node = Child(_node(folder, site, address), env, folder / "logs" / "node.log")

    def key_known() -> bool | None:
        return ask_for_key(site.server, folder / "ca.pem", folder / "node.key", env)

    kept_trainer = Keeper(trainer, lambda: f"{site.name}: {_ending(trainer)}", log)
    kept_node = Keeper(node, lambda: f"{site.name}: {refusal(node, key_known) or _ending(node)}", log)
    has_answered = (folder / "runs").is_dir()
    reach, door = Reach(site.server), TrainerFile(address)
    try:
        with around(trainer, node):
            while go_on():
                if trainer.code == MISTAKE and not has_answered:
                    raise ExperimentError(trainer.last_words(1).removeprefix("fedloom: "))
                if door.is_lost():
                    log(f"{site.name}: {door.sentence(part)}", "trainer_file_lost", "error")
                    if part != "node":
                        trainer.stop()
                if part != "node":
                    kept_trainer.tend()
                if part != "trainer" and door.is_there() and kept_node.tend():
                    log(f"{site.name}: joins {site.server}", "joins", server=site.server)
                if node.alive and (said := reach.news(node.recent(), node.lasted)):
                    log(f"{site.name}: {said}", "reach", "info" if reach.reached else "error")
                for line in refusals.taken(folder):
                    log(f"{site.name}: {line}", "server_refused", "error")
                time.sleep(1.0)
    finally:
        node.stop()
        trainer.stop()
        if part != "node":
            address.unlink(missing_ok=True)


def _check(folder: Path, site: Site, part: Part) -> None:
    """Raise ExperimentError where the site must not start."""
    if part == "both" and (folder / NODE).is_dir():
        raise ExperimentError(
            f"{folder} is divided between two users; start it as root with --trainer-user and --node-user, or its halves by "
            "themselves with --part"
        )
    experiment = read_experiment(folder)
    check_deployable(experiment)
    if reason := unmet(site.demands, experiment, site_count(site, folder)):
        raise ExperimentError(f"{site.name} does not join: {reason}")
    if not accepted(folder):
        raise ExperimentError(
            f"nothing runs at {site.name} before its terms are accepted; read them, then repeat with --accept"
        )
    answered = (folder / "runs").is_dir()  # data and device of a site that has answered may be late
    if wrong := unsound(site, experiment, folder) if answered else lacking(site, experiment, folder):
        raise ExperimentError(f"{site.name} does not join: {wrong[0]}")


def _check_node(folder: Path) -> None:
    """Raise ExperimentError for a folder that is not a node's own, and for a key of it that others may read."""
    if (folder / "experiment.yaml").exists():
        raise ExperimentError(
            f"{folder} is a whole site's folder, and --part node runs in the node's own, {folder / NODE}; "
            "`deploy site --trainer-user U --node-user V --hand-over` as root makes that"
        )
    if reason := wrong_key(folder / NODE_KEY):
        raise ExperimentError(reason)


def refusal(node: Child, key_known: Callable[[], bool | None]) -> str | None:
    """The reason for which the server rejected a node, or None for any other end.

    Flower has one code for an unknown key and for one that is connected already, and another for a wrong clock and for a key
    that was taken out; `key_known` tells them apart, or returns None.
    """
    if node.said(CERTIFICATE):
        return (
            "the server's certificate is not one of this site's ca.pem, or this machine's clock is wrong; "
            "ask who runs the server for the right one"
        )
    unknown = (
        "does not know this site's key (ask who runs the server to let it in, or it has taken the site out)"
    )
    if node.said(SIGNATURE):
        if key_known() is False:
            return f"the server {unknown}"
        return "the server does not accept this site's signature; compare the clocks of both machines"
    if not node.said(REFUSED):
        return None
    connected = (
        "takes this site for connected already, as it does for a minute or two after a crash, "
        "or because a copy of it runs elsewhere"
    )
    known = key_known()
    if known is None:
        return f"the server {unknown}, or {connected}"
    return f"the server {connected if known else unknown}"


def _ending(child: Child) -> str:
    return f"{child.log.stem} ended with {child.code} ({child.last_words()}); see {child.log}"


def _trainer(folder: Path) -> list[str]:
    return [sys.executable, "-m", "fedloom.deploy.trainer_process", str(folder)]


def _node(folder: Path, site: Site, trainer: Path) -> list[str]:
    words = (str(folder), site.server, pinned_app(), str(trainer))
    return [sys.executable, "-m", "fedloom.deploy.flower_node", *words]
