"""`fedloom deploy site`: the warm trainer and the SuperNode, started once the site has accepted its terms."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.deploy.processes import Child, environment, program
from fedloom.deploy.settings import Site, experiment_digest, read_settings
from fedloom.experiment.run import read_experiment
from fedloom.privacy.settings import Privacy

TRAINER = "FEDLOOM_TRAINER"
TURNED_AWAY = {
    "certificate verify failed": "its certificate is not one of this site's ca.pem; ask who runs the server for the right one",
    "[code: 2004]": "it does not know this site's key, or takes it for connected already; ask who runs the server to let it in",
}
"""Log messages of a rejected SuperNode and their meaning; its exit code does not identify the cause."""
TRIES, PAUSE = 8, 10.0
"""Attempts to join and seconds between them.

A server that has just started registers its sites one by one, and takes a killed SuperNode for connected for about a minute.
"""

MISTAKE = 2
"""The trainer's exit code for unusable settings or data of the site; a restart does not help."""

Log = Callable[[str], None]


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
        "leaves this site": f"{', '.join(scope.shared) or 'no tensors'}{protection}; counts, losses and figures",
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


def accept(folder: Path) -> None:
    """Accept the current experiment and requests."""
    write_atomic(folder / "accepted.json", json.dumps(_terms_record(folder)).encode())


def _terms_record(folder: Path) -> dict[str, object]:
    site = read_settings(Site, folder / "site.yaml")
    return {"experiment": experiment_digest(read_experiment(folder)), "requests": list(site.requests)}


def run_site(folder: Path, log: Log, go_on: Callable[[], bool] = lambda: True) -> None:
    """Keep trainer and SuperNode running. Raises ExperimentError if the terms are not accepted or a process keeps crashing."""
    folder = folder.resolve()
    site = read_settings(Site, folder / "site.yaml")
    if not accepted(folder):
        raise ExperimentError(
            f"nothing runs at {site.name} before its terms are accepted; read them, then repeat with --accept"
        )
    address = folder / "trainer.json"
    address.unlink(missing_ok=True)
    env = environment(folder / "flower", {TRAINER: str(address)})
    trainer = Child(_trainer(folder), env, folder / "logs" / "trainer.log")
    node = Child(_supernode(folder, site), env, folder / "logs" / "supernode.log")
    refusals = 0
    try:
        while go_on():
            for child in (trainer, node):
                if child.alive:
                    continue
                if child is node and (why := turned_away(child)):
                    refusals = 1 if child.lasted > 60 else refusals + 1
                    if refusals == TRIES:
                        raise ExperimentError(f"{site.name} cannot join {site.server}: {why}")
                    _wait(PAUSE, go_on)
                elif child is trainer and child.code == MISTAKE:
                    raise ExperimentError(child.last_words(1).removeprefix("fedloom: "))
                elif child.restarted_too_often():
                    raise ExperimentError(
                        f"{site.name}: {child.log.stem} does not stay up ({child.last_words()}); see {child.log}"
                    )
                if child.starts:
                    log(f"{site.name}: {child.log.stem} ended with {child.code}; it is started again")
                child.start()
            time.sleep(1.0)
    finally:
        node.stop()
        trainer.stop()
        address.unlink(missing_ok=True)


def turned_away(node: Child) -> str | None:
    """The reason for which the server rejected a SuperNode, or None for any other exit."""
    return next((why for sign, why in TURNED_AWAY.items() if node.said(sign)), None)


def _wait(seconds: float, go_on: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and go_on():
        time.sleep(0.2)


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
