"""The server's current run, its state on disk, and the ServerApp's entry to it.

`current.json` in the server's folder names the run, and says so if it is stopped; its folder is `runs/<name>`. The process that
executes a run holds a file lock on its folder, which the system releases when the process dies: a run is active if and only if
its lock is held.
"""

import json
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.folder_lock import is_locked, try_lock
from fedloom.deploy.private_files import private_files
from fedloom.deploy.remote_engine import Carrier
from fedloom.deploy.server import go_on
from fedloom.deploy.settings import Deployment, read_settings
from fedloom.deploy.site_list import server_list
from fedloom.experiment.finished_run import read_experiment
from fedloom.federation.progress import Progress, Stopped

FAILURE = "failure.txt"


class Waiting(Carrier, Protocol):
    """A carrier that can wait for sites to connect."""

    def wait_for(self, sites: tuple[str, ...], seconds: float) -> list[str]:
        """Wait for sites; returns those still missing after `seconds`."""


@private_files()
def begin(folder: Path, name: str) -> Path:
    """Make `name` the current run, new or resumed; returns its folder. Raises ExperimentError while another one goes on."""
    path, other = run_path(folder, name), current(folder)
    if other not in (None, name) and not _over(run_path(folder, other)):
        raise ExperimentError(
            f"run {other} is not finished; wait for its end, or stop it with `fedloom deploy stop {folder}`"
        )
    path.mkdir(parents=True, exist_ok=True)
    (path / FAILURE).unlink(missing_ok=True)
    write_atomic(folder / "current.json", json.dumps({"run": name}).encode())
    return path


def current(folder: Path) -> str | None:
    """The current run's name, or None; a stopped one is not current."""
    found = _read(folder)
    return None if found.get("stopped") else found.get("run")


def stopped(folder: Path) -> str | None:
    """The name of the run that was current and is stopped, or None. It may still be worked on for a moment."""
    found = _read(folder)
    return found.get("run") if found.get("stopped") else None


def unfinished(folder: Path) -> str | None:
    """The name of the current or the stopped run, if it is not finished: `fedloom deploy run` goes on with it."""
    name = current(folder) or stopped(folder)
    return None if name is None or finished(run_path(folder, name)) else name


def end(folder: Path) -> None:
    """Stop the current run; if it is worked on, it stops while it waits for sites or at its next progress event."""
    if (name := current(folder)) is not None:
        write_atomic(folder / "current.json", json.dumps({"run": name, "stopped": True}).encode())


def stop_check(folder: Path, name: str | None) -> Callable[[], None]:
    """A function that raises Stopped once `name` is not the current run."""

    def check() -> None:
        if current(folder) != name:
            raise Stopped

    return check


def way_on(folder: Path, name: str) -> str:
    """The command that goes on with a run."""
    return f"fedloom deploy run {shlex.quote(str(folder))} --run {name}"


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "current.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def run_path(folder: Path, name: str) -> Path:
    """A run's folder. Raises ExperimentError for an invalid name."""
    if not 0 < len(name) <= 100 or not all(c.isalnum() or c in "-_." for c in name) or name.startswith("."):
        raise ExperimentError(f"{name!r} is no run's name; use letters, digits, dots and dashes")
    return folder / "runs" / name


def finished(path: Path) -> bool:
    """Whether a run is finished."""
    return (path / "summary.json").is_file()


def last_round(path: Path) -> int:
    """The last finished round of a run; -1 before round 0 is finished."""
    state = path / "state"
    rounds = [f.name.removeprefix("round-") for f in state.glob("round-*")] if state.is_dir() else []
    return max(map(int, rounds), default=-1)


def failure(path: Path) -> str | None:
    """The error message of a failed run, or None."""
    file = path / FAILURE
    return file.read_text(encoding="utf-8").strip() if file.is_file() else None


def fail(path: Path, why: str) -> None:
    """Mark a run as failed, with the reason."""
    write_atomic(path / FAILURE, (why + "\n").encode())


def _over(path: Path) -> bool:
    return finished(path) or failure(path) is not None


def worked_on(path: Path) -> bool:
    """Whether a process is executing a run."""
    return is_locked(path)


def serve_current(folder: Path, carrier: Callable[[Deployment], Waiting]) -> None:
    """Execute the current run until it finishes, is stopped or fails; a failure is recorded in the run's folder."""
    name = current(folder)
    if name is None:
        return
    path = run_path(folder, name)
    with try_lock(path) as locked:
        if not locked or finished(path):
            return
        try:
            _serve(folder, path, name, carrier)
        except Stopped:
            return
        except ConnectionError:  # the SuperLink failed: the next ServerApp may succeed
            raise
        except (ExperimentError, OSError) as error:
            fail(path, str(error))
            raise


def _serve(folder: Path, path: Path, name: str, carrier: Callable[[Deployment], Waiting]) -> None:
    deployment = read_settings(Deployment, folder / "deployment.yaml")
    experiment = read_experiment(folder)
    sites, check = carrier(deployment), stop_check(folder, name)

    def observe(progress: Progress) -> None:
        check()

    begun = (path / "experiment.yaml").is_file()  # written once all sites have been there and fit together
    seconds = deployment.rejoin_timeout if begun else deployment.join_timeout
    missing = sites.wait_for(deployment.sites, seconds)
    if missing and not begun:
        raise ExperimentError(
            f"site {missing[0]} has not joined within {seconds:g} s; start it, then run again"
        )

    def wanted(known: Collection[str]) -> list[str]:
        try:
            listed = read_settings(Deployment, folder / "deployment.yaml").sites
        except ExperimentError:  # half edited: the server's process says so, and the sites stay as they are
            return list(known)
        new = tuple(site for site in listed if site not in known)
        away = sites.wait_for(new, 0.0) if new else []
        return [site for site in listed if site not in away]

    go_on(experiment, deployment.sites, path, sites, observe, lambda: server_list(folder), wanted)
