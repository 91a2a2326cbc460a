"""`fedloom deploy site`: the warm trainer and the SuperNode beside it, once the site has accepted what it is asked for."""

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
    "[code: 2004]": "it does not know this site's key; ask who runs the server to let it in",
}
"""What a SuperNode says last that cannot join, and what that means; its exit code is that of every error."""
TRIES, PAUSE = 3, 10.0
"""How often, after how many seconds: a server that has just started lets its sites in one after another."""

MISTAKE = 2
"""The trainer's exit code where the site's own settings or data cannot be used: no restart mends that."""

Log = Callable[[str], None]


def terms(folder: Path) -> dict[str, str]:
    """What a site agrees to by joining, in words: shown before it does."""
    site = read_settings(Site, folder / "site.yaml")
    experiment = read_experiment(folder)
    scope = experiment.method.scope
    return {
        "site": site.name,
        "server": site.server,
        "experiment": f"{experiment.name} ({experiment_digest(experiment)[:16]})",
        "method": f"{experiment.method.title} ({experiment.method.paper}), {experiment.rounds} rounds",
        "data that are read": str(site.data or getattr(experiment.data, "path", None) or "generated here"),
        "requests that are done": ", ".join(site.requests),
        "leaves this site": f"{', '.join(scope.shared) or 'no tensors'}{_hidden(experiment.privacy)}; counts, losses and figures",
        "stays at this site": f"samples, answers, {', '.join(scope.personal) or 'no personal tensors'}",
        "personal state": str(folder.resolve() / "runs"),
    }


def _hidden(privacy: Privacy) -> str:
    """How what is shared leaves a site."""
    found = []
    if privacy.dp is not None:
        at = (
            "with noise added here"
            if privacy.secure is not None
            else "as it is: the server clips and adds noise"
        )
        found.append(at)
    if privacy.secure is not None:
        found.append("masked: the server can open sums of several sites alone")
    return f" ({'; '.join(found)})" if found else ""


def accepted(folder: Path) -> bool:
    """Whether the site has agreed to exactly this experiment and these requests."""
    file = folder / "accepted.json"
    if not file.is_file():
        return False
    terms = json.loads(file.read_text(encoding="utf-8"))
    if "tasks" in terms:  # the key until 0.1
        terms["requests"] = terms.pop("tasks")
    return bool(terms == _what(folder))


def accept(folder: Path) -> None:
    """Agree to the experiment and the requests as they stand."""
    write_atomic(folder / "accepted.json", json.dumps(_what(folder)).encode())


def _what(folder: Path) -> dict[str, object]:
    site = read_settings(Site, folder / "site.yaml")
    return {"experiment": experiment_digest(read_experiment(folder)), "requests": list(site.requests)}


def run_site(folder: Path, log: Log, go_on: Callable[[], bool] = lambda: True) -> None:
    """Keep trainer and SuperNode up. Raises ExperimentError where nothing was accepted, or where one does not stay up."""
    folder = folder.resolve()
    site = read_settings(Site, folder / "site.yaml")
    if not accepted(folder):
        raise ExperimentError(
            f"nothing runs at {site.name} before its terms are accepted; read them, then repeat with --accept"
        )
    place = folder / "trainer.json"
    place.unlink(missing_ok=True)
    env = environment(folder / "flower", {TRAINER: str(place)})
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
                if child is trainer and child.code == MISTAKE:
                    raise ExperimentError(child.last_words(1).removeprefix("fedloom: "))
                if child.restarted_too_often():
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
        place.unlink(missing_ok=True)


def turned_away(node: Child) -> str | None:
    """Why the server did not let a SuperNode in, or None where it was something else."""
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
