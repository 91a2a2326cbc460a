"""`fedloom deploy demo`: the four systems, each deployed on this machine and compared with the local engine."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from statistics import fmean

from fedloom.core.errors import ExperimentError
from fedloom.deploy import current_run as current
from fedloom.deploy.demo import largest_difference_of_all, loopback
from fedloom.experiment.report.units import human_bytes
from fedloom.experiment.run import run
from fedloom.experiment.settings import Experiment
from fedloom.federation.run_folder import RunFolder

HEADER = (
    "system",
    "difference",
    "s a round, Flower",
    "s a round, local",
    "bytes up",
    "bytes down",
    "s in all",
)
"""Columns of the demo's table. The difference is the largest between the tensors of both runs, the sites' own among them."""
SYSTEMS = {"uniflow": "UniFLoW", "pfedmma": "pFedMMA", "fedmmkt": "FedMMKT", "fedma": "Fed-MA"}
"""The rows of `demo.yaml` by their names as options."""


@dataclass(frozen=True)
class Compared:
    """One system's row of the table: its cells under `HEADER`; `fault` says why a failed one has no figures."""

    cells: tuple[str, ...]
    fault: str | None = None


def show(folder: Path, systems: Iterable[str], rounds: int, say: Callable[[str], None]) -> list[Compared]:
    """Compare these systems, keys of `SYSTEMS`, one after another, in folders of their own below `folder`."""
    rows = []
    for name in systems:
        try:
            rows.append(_compared(folder / name, SYSTEMS[name], rounds, say))
        except Exception as error:  # a failed system must not keep the others from their turn
            fault = str(error) if isinstance(error, ExperimentError) else f"{type(error).__name__}: {error}"
            say(f"{SYSTEMS[name]} failed: {fault}")
            rows.append(Compared((SYSTEMS[name], "failed", *["—"] * (len(HEADER) - 2)), fault))
    return rows


def experiment_of(system: str, rounds: int) -> Experiment:
    """The demo's experiment of a system, a value of `SYSTEMS`."""
    file = Path(str(files("fedloom") / "deploy" / "demo.yaml"))
    return Experiment.load(file, [f"rounds={rounds}", f"evaluation.every={rounds}"], row=system)


def _compared(folder: Path, system: str, rounds: int, say: Callable[[str], None]) -> Compared:
    experiment = experiment_of(system, rounds)
    sites = tuple(client.name for client in experiment.data.load(experiment.seed))
    began = time.monotonic()
    say(f"{system}: a server and {len(sites)} sites start; TLS, a key for each")
    with loopback(folder, experiment, sites) as deployment:
        path = current.begin(deployment.server, "demo")
        deployment.start()
        tell = _Progress(system, path, say)
        deployment.wait(path, tell)
        tell()
    say(f"{system}: the same experiment on the local engine")
    run(experiment, folder / "local")
    largest = largest_difference_of_all(folder, path, folder / "local", sites)
    summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    if summary["status"] != "complete":
        raise ExperimentError(f"the run is {summary['status']}; see {path / 'report.html'}")
    say(f"{system}: report {path / 'report.html'}")
    cells = (
        system,
        "equal bits" if largest == 0 else f"{largest:.1e}",
        *(f"{_seconds_a_round(where):.1f}" for where in (path, folder / "local")),
        human_bytes(summary["bytes_up"]),
        human_bytes(summary["bytes_down"]),
        f"{time.monotonic() - began:.0f}",
    )
    return Compared(cells)


class _Progress:
    """Tells each new line of a run's ledger; never asks to end the wait."""

    def __init__(self, system: str, path: Path, say: Callable[[str], None]) -> None:
        self.system, self.path, self.say, self.told = system, path, say, 0

    def __call__(self) -> bool:
        ledger = RunFolder(self.path).history("ledger.jsonl") if self.path.is_dir() else []
        for entry in ledger[self.told :]:
            answered = ", ".join(entry["answered"]) or "nobody"
            self.say(f"{self.system}: round {entry['round']}, {entry['request']}: {answered} answered")
        self.told = len(ledger)
        return False


def _seconds_a_round(path: Path) -> float:
    """Seconds of a round's requests from the first question to the last answer, mean over the rounds; without evaluations."""
    seconds: dict[int, float] = {}
    for entry in RunFolder(path).history("ledger.jsonl"):
        if "seconds" in entry:
            seconds[entry["round"]] = seconds.get(entry["round"], 0.0) + entry["seconds"]
    return fmean(seconds.values())
