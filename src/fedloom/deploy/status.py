"""The state of a deployment's server: its current run, and how each site answered last. Read from files; nothing is asked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedloom.deploy import current_run
from fedloom.deploy.kit_version import check_version
from fedloom.deploy.settings import Deployment, read_settings
from fedloom.experiment.report.read import LedgerEntry
from fedloom.experiment.report.units import human_bytes
from fedloom.experiment.watch.curves import TRAIN, client_losses
from fedloom.experiment.watch.files import RunFiles

WAITING = "waits for the server"


@dataclass(frozen=True)
class SiteStatus:
    """One site in the current run."""

    name: str
    last: str = "not asked yet"
    """Its last answer, or the reason for which there was none."""
    answered: int = 0
    refused: int = 0
    missing: int = 0
    loss: float | None = None
    """The last training loss that it reported."""


@dataclass(frozen=True)
class ServerStatus:
    """A server's current run. Bytes and counts are of all rounds so far; seconds are of the work over all."""

    run: str | None = None
    state: str = "no run"
    """no run | waits for the server | waits for the sites | at work | stopping | stopped | finished | failed."""
    why: str | None = None
    """The reason of a failure."""
    go_on: str | None = None
    """The command that goes on with a stopped run."""
    doing: str | None = None
    round: int = 0
    """The last finished round."""
    rounds: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    loss: float | None = None
    """The mean training loss of the last round that has one."""
    epsilon: float | None = None
    """The privacy budget spent; None without differential privacy."""
    epsilon_limit: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each phase over all rounds, by request."""
    sites: Sequence[SiteStatus] = ()

    def as_json(self, indent: int | None = 1) -> str:
        """The status as one JSON object."""
        return json.dumps(asdict(self), indent=indent, allow_nan=False)

    def facts(self) -> list[tuple[str, str]]:
        """The run in words, as rows of a table."""
        if self.run is None:
            return []
        state = f"failed: {self.why}" if self.state == "failed" else self.state
        rows = [
            ("run", self.run),
            ("state", f"{state} ({self.doing})" if self.doing and self.state == "at work" else state),
            ("last finished round", f"{self.round} of {self.rounds}" if self.rounds else str(self.round)),
            ("bytes up, down", f"{human_bytes(self.bytes_up)}, {human_bytes(self.bytes_down)}"),
        ]
        if self.go_on is not None:
            rows.insert(2, ("go on with", self.go_on))
        if self.loss is not None:
            rows.append(("training loss", f"{self.loss:.4g}"))
        if self.epsilon is not None:
            limit = "" if self.epsilon_limit is None else f" of {self.epsilon_limit:g}"
            rows.append(("privacy budget", f"ε {self.epsilon:.3g}{limit}"))
        return rows


class StatusReader:
    """Reads a server's status again and again; of a run's histories only what is new."""

    def __init__(self, folder: Path) -> None:
        """Raises ExperimentError for a folder that is no server's, or of another version."""
        self.folder = folder
        check_version(read_settings(Deployment, folder / "deployment.yaml"), folder)
        self.files: RunFiles | None = None

    def read(self) -> ServerStatus:
        """The status now. Raises ExperimentError for settings that cannot be read."""
        sites = read_settings(Deployment, self.folder / "deployment.yaml").sites
        stopped = current_run.stopped(self.folder)
        name = current_run.current(self.folder) or stopped
        if name is None:
            self.files = None
            return ServerStatus(sites=[SiteStatus(site) for site in sites])
        path = current_run.run_path(self.folder, name)
        if self.files is None or self.files.folder != path:
            self.files = RunFiles(path)
        files = self.files
        files.read_on()
        why, entries = current_run.failure(path), files.ledger.records
        working = current_run.worked_on(path)
        state = (
            "finished"
            if current_run.finished(path)
            else "failed"
            if why
            else ("stopping" if working else "stopped")
            if stopped
            else WAITING
            if not working
            else "at work"
            if files.begun
            else "waits for the sites"
        )
        settings = files.settings()
        privacy = settings.get("privacy")
        dp = privacy.get("dp") if isinstance(privacy, dict) else None
        limit = dp.get("epsilon") if isinstance(dp, dict) else None
        losses = files.series().get(f"{TRAIN}loss", {})
        return ServerStatus(
            run=name,
            state=state,
            why=why,
            go_on=current_run.way_on(self.folder, name) if state in ("stopping", "stopped") else None,
            doing=files.doing.value.text if working and files.doing.value is not None else None,
            round=max(current_run.last_round(path), 0),
            rounds=_whole(settings.get("rounds")),
            bytes_up=sum(e.bytes_up for e in entries),
            bytes_down=sum(e.bytes_down for e in entries),
            loss=_finite(losses),
            epsilon=next((e.epsilon for e in reversed(entries) if e.epsilon is not None), None),
            epsilon_limit=float(limit) if isinstance(limit, int | float) else None,
            seconds=_seconds(entries),
            sites=_sites(sites, entries, client_losses(files.series())),
        )


def _sites(
    names: Sequence[str], entries: Sequence[LedgerEntry], losses: Mapping[str, Mapping[int, float]]
) -> list[SiteStatus]:
    """Every site that is listed or was asked, in name order."""
    counts: dict[str, dict[str, Any]] = {name: {} for name in names}
    for entry in entries:
        for site in entry.joined:
            counts.setdefault(site, {})["last"] = f"takes part from round {entry.round} on"
        for site in entry.left:
            counts.setdefault(site, {})["last"] = f"left before round {entry.round}"
        for site in entry.answered:
            _count(counts, site, "answered", f"answered in round {entry.round}")
        for site in entry.silent:
            _count(counts, site, "missing", f"round {entry.round}: no answer")
        for site, why in entry.refused.items():
            kind = "missing" if why.startswith(("missing", "unreachable", "lost")) else "refused"
            _count(counts, site, kind, f"round {entry.round}: {why}")
    return [SiteStatus(name, **counts[name], loss=_finite(losses.get(name, {}))) for name in sorted(counts)]


def _count(counts: dict[str, dict[str, Any]], site: str, kind: str, last: str) -> None:
    of_site = counts.setdefault(site, {})
    of_site[kind] = of_site.get(kind, 0) + 1
    of_site["last"] = last


def _seconds(entries: Sequence[LedgerEntry]) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for entry in entries:
        if entry.seconds:  # the ledger times training, not evaluation
            seconds[entry.request] = seconds.get(entry.request, 0.0) + entry.seconds
    return seconds


def _finite(series: Mapping[int, float]) -> float | None:
    """The last value of a series; None where there is none or it is not finite."""
    value = series[max(series)] if series else math.nan
    return value if math.isfinite(value) else None


def _whole(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
