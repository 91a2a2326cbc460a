"""`fedloom deploy site`: the warm trainer and the SuperNode, started once the site has accepted its terms."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.app_bundle import pinned_app, write_gates
from fedloom.deploy.app_gate import APP, TRAINER, TURNED_AWAY
from fedloom.deploy.demands import unmet
from fedloom.deploy.flower_key import ask_for_key
from fedloom.deploy.keeping import Keeper
from fedloom.deploy.kit_version import check_version
from fedloom.deploy.logs import Log
from fedloom.deploy.private_files import private_files
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.settings import Site, experiment_digest, read_settings
from fedloom.deploy.site_list import site_count
from fedloom.deploy.trainer_link import ADDRESS, NODE, endpoint
from fedloom.experiment.run import read_experiment
from fedloom.privacy.settings import Privacy

CERTIFICATE, SIGNATURE, REFUSED = "certificate verify failed", "401 Unauthorized", "[code: 2004]"
"""Log messages of a rejected SuperNode; its exit code does not identify the cause."""
Part = Literal["both", "trainer", "node"]
"""The half of a site that a process keeps running."""
MISTAKE = 2
"""The trainer's exit code for unusable settings or data of the site."""


def terms(folder: Path) -> dict[str, str]:
    """The terms of joining, for display before a site accepts them."""
    site = read_settings(Site, folder / "site.yaml")
    experiment = read_experiment(folder)
    scope, protection = experiment.method.scope, _protection(experiment.privacy)
    return {
        "site": site.name,
        "server": site.server,
        "experiment": f"{experiment.name} ({experiment_digest(experiment)[:16]})",
        "method": f"{experiment.method.title} ({experiment.method.paper}), {experiment.rounds} rounds",
        "data that are read": str(site.data or getattr(experiment.data, "path", None) or "generated here"),
        "requests that are done": ", ".join(site.requests),
        "code that runs": f"the fedloom installed here, called by its own Flower app ({pinned_app()[:16]}) and no other",
        "leaves this site": f"{', '.join(scope.shared) or 'no tensors'}{protection}; counts, losses and figures",
        "this site demands": site.demands.sentence,
        "stays at this site": f"samples, answers, {', '.join(scope.personal) or 'no personal tensors'}",
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
    """Keep trainer and SuperNode running, or one of them; the SuperNode joins once the trainer has started.

    `folder` is the site's, or for the SuperNode alone its own (see `deploy.site_users`). `around(trainer, node)` is entered
    before either starts.

    Nothing that the server says, and no crash, ends it. Raises ExperimentError if the terms are not accepted, and for data that
    cannot be used at a site that has not answered yet; at any other, a disk may only be late.
    """
    folder = folder.resolve()
    site = read_settings(Site, folder / "site.yaml")
    address = folder / ADDRESS if part == "node" else endpoint(folder)
    if part != "node":
        check_version(site, folder)
        _check(folder, site, part)
        address.unlink(missing_ok=True)
    env = environment(folder / "flower", {TRAINER: str(address), APP: pinned_app()})
    env["PATH"] = f"{write_gates(folder / 'programs')}{os.pathsep}{env['PATH']}"
    turned_away = folder / TURNED_AWAY
    trainer = Child(_trainer(folder), env, folder / "logs" / "trainer.log")
    node = Child(_supernode(folder, site), env, folder / "logs" / "supernode.log")

    def key_known() -> bool | None:
        return ask_for_key(site.server, folder / "ca.pem", folder / "node.key", env)

    kept_trainer = Keeper(trainer, lambda: f"{site.name}: {_ending(trainer)}", log)
    kept_node = Keeper(node, lambda: f"{site.name}: {refusal(node, key_known) or _ending(node)}", log)
    has_answered = (folder / "runs").is_dir()
    try:
        with around(trainer, node):
            while go_on():
                if trainer.code == MISTAKE and not has_answered:
                    raise ExperimentError(trainer.last_words(1).removeprefix("fedloom: "))
                if part != "node":
                    kept_trainer.tend()
                if part != "trainer" and address.is_file() and kept_node.tend():
                    log(f"{site.name}: joins {site.server}", "joins", server=site.server)
                if turned_away.is_file():
                    for line in sorted(set(turned_away.read_text(encoding="utf-8").splitlines())):
                        log(f"{site.name}: {line}", "server_refused", "error")
                    turned_away.unlink()
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
    if reason := unmet(site.demands, read_experiment(folder), site_count(site, folder)):
        raise ExperimentError(f"{site.name} does not join: {reason}")
    if not accepted(folder):
        raise ExperimentError(
            f"nothing runs at {site.name} before its terms are accepted; read them, then repeat with --accept"
        )


def refusal(node: Child, key_known: Callable[[], bool | None]) -> str | None:
    """The reason for which the server rejected a SuperNode, or None for any other end.

    Flower has one code for an unknown key and for one that is connected already; `key_known` tells them apart, or returns None.
    """
    if node.said(CERTIFICATE):
        return (
            "the server's certificate is not one of this site's ca.pem, or this machine's clock is wrong; "
            "ask who runs the server for the right one"
        )
    if node.said(SIGNATURE):
        return "the server does not accept this site's signature; compare the clocks of both machines"
    if not node.said(REFUSED):
        return None
    unknown = "does not know this site's key (ask who runs the server to let it in)"
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


def _supernode(folder: Path, site: Site) -> list[str]:
    return [
        program("flower-supernode"),
        *("--root-certificates", str(folder / "ca.pem")),
        *("--superlink", site.server),
        *("--auth-supernode-private-key", str(folder / "node.key")),
        *("--host", "127.0.0.1", "--port", str(site.port)),
    ]
