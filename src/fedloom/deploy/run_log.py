"""Lines of `fedloom deploy server`'s log about the current run, read from the run's own files as they grow."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fedloom.core.files import write_atomic
from fedloom.deploy import current_run
from fedloom.deploy.logs import Level, Log
from fedloom.deploy.private_files import private_files
from fedloom.experiment.report.read import LedgerEntry
from fedloom.experiment.watch.files import Event, RunFiles

ENDS: dict[str, Level] = {"failed": "error", "stopped": "warning"}


class RunLog:
    """Logs the events of the current run, or of the stopped one, and every site's answers: each once, also across restarts.

    `state/logged.json` in the server's folder holds how many events and ledger lines of each run are logged. What a run has
    before the first log of its folder is not told.
    """

    def __init__(self, folder: Path, log: Log) -> None:
        self.folder, self.log = folder, log
        self._files: RunFiles | None = None
        self._events = self._entries = self._beginnings = 0
        self._id, self._taken_up = "", False
        self._file = folder / "state" / "logged.json"
        self._logged = _read_logged(self._file)
        self._follow(new=False)

    def __call__(self) -> None:
        """Log what is new; called again and again."""
        self._follow(new=True)
        if self._files is None or not (self._files.read_on() or self._taken_up):
            return
        self._taken_up = False
        files = self._files
        events, entries = files.events.records, files.ledger.records
        if (
            files.ledger.beginnings != self._beginnings
        ):  # a resume has cut it: what was said up to there stays said
            self._beginnings = files.ledger.beginnings
            after = next((e.after for e in reversed(events) if e.event == "resumed"), -1)
            self._entries = sum(entry.round <= after for entry in entries)
        for entry in entries[self._entries :]:
            self._answers(entry)
        for event in events[self._events :]:
            self._event(event)
        self._entries, self._events = len(entries), len(events)
        self._remember()

    def _follow(self, *, new: bool) -> None:
        """Take up the current run, if it is another. `new`: a run that is not known is told from its beginning."""
        name = current_run.current(self.folder) or current_run.stopped(self.folder)
        path = None if name is None else current_run.run_path(self.folder, name)
        if name is None or path is None or (self._files is not None and path == self._files.folder):
            return
        self._files, self._id, self._taken_up = RunFiles(path), "", True
        self._files.read_on()
        self._beginnings = self._files.ledger.beginnings
        events, entries = self._files.events.records, self._files.ledger.records
        known = self._logged.get(name, (0, 0) if new else (len(events), len(entries)))
        same = known[0] <= len(events)  # else another run of that name
        self._events, self._entries = known if same else (0, 0)
        if cuts := [e.after for e in events[self._events :] if e.event == "resumed"]:
            self._entries = min(self._entries, sum(entry.round <= cuts[-1] for entry in entries))
        if not new:
            self._remember()

    def _remember(self) -> None:
        """Keep how far the log has come; a full disk keeps nothing."""
        self._logged[self._name()] = (self._events, self._entries)
        with suppress(OSError), private_files():
            self._file.parent.mkdir(exist_ok=True)
            write_atomic(self._file, json.dumps(self._logged).encode(), durable=False)

    def _event(self, event: Event) -> None:
        fields = {"round": event.round, "rounds": event.rounds} if event.event == "round" else {}
        kind = f"run_{event.event}" if event.event != "round" else "round_finished"
        self.log("", kind, ENDS.get(event.event, "info"), run=self._run(), name=self._name(), **fields)

    def _answers(self, entry: LedgerEntry) -> None:
        """A line for the phase and one for each site. Of a refusal its kind is logged; the ledger has the whole reason."""
        silent: Sequence[tuple[str, str | None]] = [(site, "missing") for site in entry.silent]
        refused = [(site, why.split(":")[0][:40]) for site, why in entry.refused.items()]
        for site in (*entry.joined, *entry.left):
            event = "site_joined" if site in entry.joined else "site_left"
            self.log("", event, run=self._run(), site=site, round=entry.round)
        for site, why in [*((site, None) for site in entry.answered), *refused, *silent]:
            self.log(
                "",
                "site_answered" if why is None else "site_refused",
                "info" if why is None else "warning",
                run=self._run(),
                site=site,
                request=entry.request,
                round=entry.round,
                why=why,
            )
        self.log(
            "",
            "phase_finished",
            run=self._run(),
            request=entry.request,
            round=entry.round,
            asked=len(entry.asked),
            answered=len(entry.answered),
            refused=len(entry.refused),
            bytes_up=entry.bytes_up,
            bytes_down=entry.bytes_down,
            seconds=entry.seconds,
            epsilon=entry.epsilon,
        )

    def _name(self) -> str:
        return "" if self._files is None else self._files.folder.name

    def _run(self) -> str:
        """The run's id, which the sites' logs have, too; its name before there is one."""
        if not self._id and self._files is not None:
            try:
                self._id = str(
                    json.loads((self._files.folder / "run.json").read_text(encoding="utf-8"))["run"]
                )
            except (OSError, ValueError, KeyError, TypeError):
                return self._name()
        return self._id


def _read_logged(file: Path) -> dict[str, tuple[int, int]]:
    """The numbers of logged events and ledger lines by run; none where the file cannot be used."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {str(name): (int(events), int(entries)) for name, (events, entries) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
