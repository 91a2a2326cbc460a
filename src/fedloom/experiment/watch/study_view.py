"""The page's values of a study: a table of rows and seeds, each run's state in it, and the headline figures by row."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pydantic import TypeAdapter

from fedloom.core.errors import ExperimentError
from fedloom.core.folder_lock import is_locked
from fedloom.experiment.report.columns import title_of
from fedloom.experiment.report.load_study import RowEntry
from fedloom.experiment.report.read import inside
from fedloom.experiment.report.units import show, unit_of
from fedloom.experiment.study import PLAN
from fedloom.experiment.watch.curves import Chart, headline
from fedloom.experiment.watch.growing import Document, of_kind, sealed
from fedloom.experiment.watch.run_view import RunView, table
from fedloom.experiment.watch.status import Status

ROWS = "rows.json"
CHARTS = 8
"""Most headline figures that are drawn."""


class StudyView:
    """The runs of a study, those that have not begun among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._plan = Document(folder / PLAN, _planned)
        self._rows = Document(folder / ROWS, of_kind(tuple[RowEntry, ...]))
        self.entries: list[RowEntry] = []
        self.runs: list[RunView] = []
        self._locked = False
        self._seen: list[Any] = []
        self._shown: dict[str, Any] = {}

    def snapshot(self) -> dict[str, Any]:
        """The page's values, made anew where anything has changed."""
        changed = [self._plan.read_on(), self._rows.read_on()]
        if any(changed) or not self.entries:
            self._find_runs()
        self._locked = is_locked(self.folder)
        seen = [self._locked, *[id(run.snapshot()) for run in self.runs]]
        if seen != self._seen or not self._shown:
            self._seen, self._shown = seen, self._fields()
        return self._shown

    def medium(self, number: int) -> Path | None:
        """None: the samples are on the pages of the runs."""
        return None

    def run(self, number: int) -> RunView | None:
        """The run of this number in the table."""
        return self.runs[number] if 0 <= number < len(self.runs) else None

    def _find_runs(self) -> None:
        entries = list(self._plan.value or self._rows.value or _found(self.folder))
        kept = []
        for entry in entries:
            try:
                place = inside(self.folder, entry.path, self.folder / ROWS)
            except (ExperimentError, OSError, ValueError):
                continue
            kept.append((entry, place))
        if [entry for entry, _ in kept] != self.entries:
            self.entries = [entry for entry, _ in kept]
            self.runs = [RunView(place) for _, place in kept]

    def _fields(self) -> dict[str, Any]:
        series = [headline(run.files.series()) for run in self.runs]
        names = list(dict.fromkeys(name for of_run in series for name in of_run))[:CHARTS]
        settings: Mapping[str, Any] = next(
            (fields for run in self.runs if (fields := run.files.settings())), {}
        )
        return {
            "title": str(settings.get("name") or self.folder.name),
            "description": str(settings.get("description") or ""),
            "status": _status(self.runs, working=self._locked).fields(),
            "facts": [("runs", str(len(self.runs))), ("rows", str(len({e.row for e in self.entries})))],
            "charts": [self._chart(name, series).fields() for name in names],
            "more": [],
            "tables": [self._table(series)] if self.runs else [],
            "samples": [],
            "settings": "",
            "report": (self.folder / ROWS).is_file() and (self.folder / "report.html").is_file(),
        }

    def _chart(self, name: str, series: Sequence[Mapping[str, Mapping[int, float]]]) -> Chart:
        """A line per row: the mean over its seeds in the rounds that any of them measured."""
        chart = Chart(title_of(name), unit_of(name))
        by_row: dict[str, dict[int, list[float]]] = {}
        for entry, of_run in zip(self.entries, series, strict=True):
            rounds = by_row.setdefault(_row(entry), {})
            for round, value in of_run.get(name, {}).items():
                rounds.setdefault(round, []).append(value)
        for row, rounds in by_row.items():
            chart.lines[row] = {round: fmean(values) for round, values in rounds.items()}
        return chart

    def _table(self, series: Sequence[Mapping[str, Mapping[int, float]]]) -> dict[str, Any]:
        seeds = sorted({entry.seed for entry in self.entries})
        name = next((name for of_run in series for name in of_run), None)
        by_row: dict[str, dict[int, dict[str, Any]]] = {}
        for number, (entry, run, of_run) in enumerate(zip(self.entries, self.runs, series, strict=True)):
            text = _cell(run.status)
            if name is not None and (values := of_run.get(name)):
                figure = values[max(values)]
                text += f", {show(figure, unit_of(name))}" if math.isfinite(figure) else ""
            state = run.status.state
            cell = {"text": text, "href": f"run/{number}/", "state": state}
            by_row.setdefault(_row(entry), {})[entry.seed] = cell
        lines = [[row, *(cells.get(seed, "—") for seed in seeds)] for row, cells in by_row.items()]
        measured = "" if name is None else f", each with its last {title_of(name).replace(':', ',')}"
        return table("runs", f"Runs{measured}", ["row", *(f"seed {seed}" for seed in seeds)], lines)


def _row(entry: RowEntry) -> str:
    return entry.row if entry.across is None else f"{entry.row}, {entry.across}"


def _cell(status: Status) -> str:
    if status.state == "waiting":
        return "not begun"
    if status.state == "preparing":
        return "getting ready"
    if status.state == "ended":
        return "ended"
    at = f"round {status.done} of {status.rounds}"
    return at if status.state == "running" else f"{status.state} after {at}"


def _status(runs: Sequence[RunView], *, working: bool) -> Status:
    """The study's status: how many of its runs have ended, and what the others do."""
    states = [run.status.state for run in runs]
    ended, count = states.count("ended"), len(runs)
    notes = [
        f"{states.count(state)} of {count} runs {words}."
        for state, words in (("failed", "failed"), ("killed", "were killed"), ("stopped", "were stopped"))
        if state in states
    ]
    short = sum(
        run.files.summary.value is not None and run.files.summary.value.status != "complete" for run in runs
    )
    notes += [f"{short} of the ended runs used fewer updates than asked, or say another reservation."] * (
        short > 0
    )
    worked = sum(run.status.worked for run in runs)
    if ended == count:
        return Status("ended", f"Ended: all {count} runs", ended, count, worked=worked, notes=notes)
    if working or "running" in states:
        now = states.count("running") + states.count("preparing")
        text = f"Running: {ended} of {count} runs have ended{f', {now} at work' * (now > 0)}"
        return Status("running", text, ended, count, worked=worked, notes=notes)
    gone = "failed" if "failed" in states else "stopped" if "stopped" in states else "killed"
    text = f"{gone.capitalize()}: {ended} of {count} runs had ended; fedloom run --resume goes on"
    return Status("failed" if gone == "failed" else "stopped", text, ended, count, worked=worked, notes=notes)


def _planned(path: Path) -> tuple[RowEntry, ...]:
    """The runs that a study's plan names; none in a plan of an earlier version."""
    return TypeAdapter(tuple[RowEntry, ...]).validate_python(sealed(path).get("runs", ()))


def _found(folder: Path) -> list[RowEntry]:
    """The runs that lie in a folder without a list of them."""
    places = sorted({p.parent for p in folder.glob("*/**/seed-*/experiment.yaml")})
    entries = []
    for place in places:
        row, *across, seed = place.relative_to(folder).parts
        number = seed.removeprefix("seed-")
        if number.isdecimal() and len(across) < 2:
            path = place.relative_to(folder).as_posix()
            part = across[0] if across else None
            entries.append(RowEntry(row=row, across=part, seed=int(number), path=path))
    return entries
