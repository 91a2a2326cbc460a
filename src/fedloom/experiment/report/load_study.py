"""Studies: the runs (methods, columns such as tasks, seeds) of one experiment file, or of several folders joined."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import check_files
from fedloom.experiment.report.read import (
    LAYER,
    RELIABILITY,
    MeasureRecord,
    Record,
    Run,
    inside,
    parse,
    read_run,
)

SCOPES = frozenset(
    [
        *("global", "local", "worst_client", "mean_client", "base", "novel", "domain", "held_out"),
        *("clients", "control", "train", "attack", "update"),
    ]
)
"""First parts of the names of figures that no method measures itself: evaluations, losses, attacks, agreement."""


class RowEntry(Record):
    """One entry of `rows.json`: the run folder of a row (a method), a column (a task) and a seed, relative to the file."""

    row: str
    across: str | None = None
    seed: int
    path: str


@dataclass(frozen=True)
class Study:
    """The subject of a report: ordered rows (methods), each with its runs (columns such as tasks, times seeds)."""

    name: str
    folder: Path
    rows: dict[str, tuple[Run, ...]]

    @property
    def runs(self) -> list[Run]:
        """Every run of every row."""
        return [run for runs in self.rows.values() for run in runs]

    def names(self) -> list[str]:
        """Every metric name of any run except those of single layers, in order of first appearance."""
        names = dict.fromkeys(name for run in self.runs for name in run.names())
        return [name for name in names if not name.startswith((LAYER, RELIABILITY))]

    @property
    def across(self) -> tuple[str, ...]:
        """The columns of the runs, in order; empty for a study without that axis."""
        return tuple(dict.fromkeys(run.across for run in self.runs if run.across is not None))

    @property
    def columns(self) -> tuple[str, ...]:
        """The table columns named by the experiment; empty if it names none."""
        choices = (run.experiment.get("columns") for run in self.runs)
        return tuple(next((map(str, c) for c in choices if isinstance(c, list | tuple) and c), ()))

    def measure(self, name: str) -> MeasureRecord | None:
        """The declaration of a figure by the method that measured it; None for all others."""
        if name.split("/")[0] in SCOPES:
            return None
        last = name.rsplit("/", 1)[-1]
        declared = (m for run in self.runs for m in run.summary.measures if m.name == last)
        return next(declared, None)

    def parts(self) -> "dict[str | None, Study]":
        """One study per column, each with all rows (maybe without runs); under None the study itself if it has no columns."""
        if not self.across:
            return {None: self}
        studies: dict[str | None, Study] = {}
        for across in self.across:
            kept = {row: tuple(r for r in runs if r.across == across) for row, runs in self.rows.items()}
            name = f"{self.name}, {across}"
            studies[across] = Study(name, self.folder, kept)
        return studies

    def flat(self) -> "Study":
        """The same runs with a separate row for every row and column."""
        if not self.across:
            return self
        named: dict[str, list[Run]] = {}
        for row, runs in self.rows.items():
            for run in runs:
                named.setdefault(row if run.across is None else f"{row}, {run.across}", []).append(run)
        return Study(self.name, self.folder, {row: tuple(runs) for row, runs in named.items()})


def read(folder: Path) -> Study:
    """Read a single run folder or a folder of rows.

    A broken or missing file, a row's path that leads out of the folder, and a row and seed named twice raise
    ExperimentError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ExperimentError(f"{folder} is no folder: name the folder that a run was written to.")
    if not (folder / "rows.json").is_file():
        run = read_run(folder)
        return Study(run.summary.name, folder, {run.summary.row or run.summary.method or "run": (run,)})
    check_files(folder, "rows.json")
    entries = parse(folder / "rows.json", tuple[RowEntry, ...])
    if not entries:
        raise ExperimentError(f"{folder / 'rows.json'} names no run: it must list at least one row.")
    rows: dict[str, list[Run]] = {}
    seen: set[tuple[str, str | None, int]] = set()
    for entry in entries:
        key = (entry.row, entry.across, entry.seed)
        if key in seen:
            raise ExperimentError(
                f"{folder / 'rows.json'} names row {entry.row!r} with seed {entry.seed} twice: once is right."
            )
        seen.add(key)
        rows.setdefault(entry.row, []).append(read_run(inside(folder, entry.path, folder / "rows.json")))
    name = next(iter(rows.values()))[0].summary.name
    return Study(name, folder, {row: tuple(runs) for row, runs in rows.items()})


def gather(folders: Path | Sequence[Path]) -> Study:
    """Read one or several folders into one study.

    Runs of different folders are pooled as seeds of one row only if their experiments are equal but for the
    seed; otherwise the folder distinguishes equal row names.
    """
    paths = [Path(folders)] if isinstance(folders, str | Path) else [Path(f) for f in folders]
    if not paths:
        raise ExperimentError("There is nothing to compare: name at least one run folder.")
    studies = [read(path) for path in paths]
    if len(studies) == 1:
        return studies[0]
    groups: dict[tuple[str, object], list[tuple[Study, Run]]] = {}
    for study in studies:
        for row, runs in study.rows.items():
            key: tuple[str, object] = (row, tuple(sorted({run.fingerprint for run in runs})))
            present = {(run.across, run.summary.seed) for _, run in groups.get(key, [])}
            # the same seed again is no further evidence
            if present & {(run.across, run.summary.seed) for run in runs}:
                key = (row, str(study.folder))
            groups.setdefault(key, []).extend((study, run) for run in runs)
    labels = [row for row, _ in groups]
    rows: dict[str, tuple[Run, ...]] = {}
    for (row, _), members in groups.items():
        label = row if labels.count(row) == 1 else f"{row} ({members[0][0].folder})"
        if label in rows:
            raise ExperimentError(f"{members[0][0].folder} is named twice: name every folder once.")
        rows[label] = tuple(run for _, run in members)
    return Study(" / ".join(dict.fromkeys(s.name for s in studies)), paths[0], rows)
