"""The watched page's values of a deployment: the server's current run and its sites, or a site's terms and answers."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.deploy import current_run
from fedloom.deploy.run_site import accepted, terms
from fedloom.deploy.settings import Deployment, Site, read_settings
from fedloom.deploy.trainer_link import endpoint
from fedloom.experiment.watch.folder_view import View
from fedloom.experiment.watch.growing import Document
from fedloom.experiment.watch.run_view import RunView, table
from fedloom.experiment.watch.status import Status


def deployment(folder: Path) -> View | None:
    """The deployment in a folder: the whole kit, the server's folder, or a site's; None where there is none.

    Raises ExperimentError for damaged settings.
    """
    for place in (folder, folder / "server"):
        if (place / "deployment.yaml").is_file():
            return ServerView(place)
    return SiteView(folder) if (folder / "site.yaml").is_file() else None


class ServerView:
    """The current run of a server; where none is current, the one that was worked on last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._settings = Document(folder / "deployment.yaml", lambda file: read_settings(Deployment, file))
        self.sites = read_settings(Deployment, folder / "deployment.yaml").sites
        self._name: str | None = None
        self._run: RunView | None = None
        self._none: dict[str, Any] = {}

    def snapshot(self) -> dict[str, Any]:
        """The page's values."""
        self._settings.read_on()
        listed = self.sites if self._settings.value is None else self._settings.value.sites
        if listed != self.sites:
            self.sites, self._run, self._none = listed, None, {}
        name = current_run.current(self.folder) or current_run.stopped(self.folder) or self._last()
        if name is None:
            self._none = self._none or self._nothing()
            return self._none
        if self._run is None or name != self._name:
            path = current_run.run_path(self.folder, name)
            self._name, self._run = name, RunView(path, lambda found: self._status(found, name), self.sites)
        return self._run.snapshot()

    def medium(self, number: int) -> Path | None:
        """The file of the run's picture or sound of this number."""
        return None if self._run is None else self._run.medium(number)

    def _last(self) -> str | None:
        runs = self.folder / "runs"
        places = [p for p in runs.iterdir() if p.is_dir()] if runs.is_dir() else []
        return max(places, key=lambda p: p.stat().st_mtime).name if places else None

    def _nothing(self) -> dict[str, Any]:
        status = Status("waiting", "Waiting: no run is current; fedloom deploy run begins one")
        lines = [[site, "not asked yet"] for site in self.sites]
        return {
            "title": self.folder.resolve().name,
            "status": status.fields(),
            "tables": [table("clients", "Sites", ["site", "last answer"], lines)],
        }

    def _status(self, found: Status, name: str) -> Status:
        """The run's status, with what the server's folder says of it."""
        path = current_run.run_path(self.folder, name)
        of_run = f"run {name}"
        if found.state == "ended":
            return replace(found, headline=f"{found.headline} ({of_run})")
        at = f"after round {found.done} of {found.rounds}" if found.done else "before round 1"
        if (why := current_run.failure(path)) is not None:
            return replace(found, state="failed", headline=f"Failed {at}: {why} ({of_run})")
        if current_run.current(self.folder) != name:
            stage = "Stopping" if current_run.worked_on(path) else "Stopped"
            text = f"{stage} {at}; {current_run.way_on(self.folder, name)} goes on with it"
            return replace(found, state="stopped", headline=text)
        if found.state == "running":
            return replace(found, headline=f"{found.headline} ({of_run})")
        if current_run.worked_on(path):
            text = f"Waiting for the sites ({of_run})"
            return replace(found, state="preparing", headline=text)
        if found.rounds:
            text = f"The server does not work on {of_run} now, {at}; fedloom deploy server goes on with it"
            return replace(found, state="killed", headline=text)
        text = f"Waiting for the server: {of_run} begins once fedloom deploy server runs"
        return replace(found, state="waiting", headline=text)


class SiteView:
    """A site: its terms, whether its trainer is up, and the rounds that it has answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = read_settings(Site, folder / "site.yaml").name
        self._seen: Any = None
        self._shown: dict[str, Any] = {}

    def snapshot(self) -> dict[str, Any]:
        """The page's values."""
        up, agreed, answers = endpoint(self.folder).is_file(), accepted(self.folder), self._answers()
        if (up, agreed, answers) != self._seen:
            self._seen = up, agreed, answers
            self._shown = self._fields(answers, up=up, agreed=agreed)
        return self._shown

    def medium(self, number: int) -> Path | None:
        """None: a site's page shows no samples."""
        return None

    def _answers(self) -> list[tuple[str, int, float]]:
        """Run, round and time of the kept answers of every run, the newest first."""
        found = []
        for file in self.folder.glob("runs/*/answers/[0-9]*"):
            number = file.name.partition("-")[0]
            if number.isdecimal() and not file.name.endswith(".part"):
                found.append((file.parts[-3], int(number), file.stat().st_mtime))
        return sorted(found, key=lambda answer: -answer[2])

    def _fields(self, answers: list[tuple[str, int, float]], *, up: bool, agreed: bool) -> dict[str, Any]:
        last = f"last answer in round {answers[0][1]}" if answers else "nothing asked yet"
        if not agreed:
            status = Status(
                "waiting", "Waiting: the terms are not accepted; fedloom deploy site --accept does"
            )
        elif up:
            status = Status("running", f"At work: {last}")
        else:
            status = Status("stopped", f"Not running: {last}; fedloom deploy site joins the server")
        lines = [
            [str(number), time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)), run]
            for run, number, when in answers
        ]
        try:
            facts = list(terms(self.folder).items())
        except ExperimentError as error:
            facts = [("terms", str(error))]
        return {
            "title": f"site {self.name}",
            "status": status.fields(),
            "facts": facts,
            "tables": [table("answers", "Answers kept", ["round", "at", "run"], lines)] if lines else [],
        }
