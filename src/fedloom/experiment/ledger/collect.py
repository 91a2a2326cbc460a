"""Makes the committed summary of a study from its run folders."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import read_sealed
from fedloom.experiment.ledger.entry import Ends, Entry, EntryColumn, Figure, Gap, Row, Trace
from fedloom.experiment.ledger.experiments import ExperimentFile
from fedloom.experiment.ledger.settings import counts, digests, runs_of
from fedloom.experiment.provenance import flat
from fedloom.experiment.registry import load_entry_points
from fedloom.experiment.report.accuracy_paths import drawn
from fedloom.experiment.report.columns import Column, columns_of, figures_by_seed, keys_of
from fedloom.experiment.report.differences import Difference, compared, reference_row
from fedloom.experiment.report.load_study import Study, gather
from fedloom.experiment.report.read import Run
from fedloom.experiment.report.sample_values import SampleValues
from fedloom.experiment.report.table import remark_of
from fedloom.experiment.settings import Experiment, load_rows
from fedloom.federation.calibration import with_multiplier
from fedloom.federation.run_folder import RunFolder
from fedloom.tasks.metrics.bootstrap import Interval, bootstrap_interval
from fedloom.tasks.metrics.metric import metric_of


def entry_of(
    folders: Sequence[Path],
    files: Mapping[str, ExperimentFile],
    root: Path,
    *,
    overrides: Sequence[str] = (),
    against: Sequence[str] = (),
    usual: Callable[[str], Sequence[str]] = lambda name: (),
    commit: str | None = None,
) -> Entry:
    """The summary of a finished study, whose runs lie in one or several folders (seeds of one experiment).

    `root`: the folder of `experiments/`. `overrides`: those that the runs were started with. `against`: the rows that the others
    are compared with; without it those of `usual`, by the experiment's name, that the study has, or its first one. `commit`: for
    runs that did not record theirs. Raises ExperimentError unless the experiment file and the overrides give every run's
    settings.
    """
    load_entry_points()
    study = gather(folders)
    if study.name not in files:
        raise ExperimentError(
            f"no experiment file is named {study.name!r}, so that {folders[0]} has no place here"
        )
    file = files[study.name]
    command = _command(study, file, root, overrides)
    size = study.runs[0].experiment.get("size", "tiny")
    # the file's columns may have changed since the runs
    shown = file.columns if size == "tiny" and file.columns else None
    columns, samples = columns_of(study, keys_of(study, shown)), SampleValues()
    bases = (
        tuple(against)
        or tuple(row for row in usual(study.name) if row in study.rows)
        or tuple(study.rows)[:1]
    )
    bases = tuple(reference_row(study, base) for base in bases) if len(study.rows) > 1 else ()
    commits = {str(c) for run in study.runs if (c := run.experiment.get("versions", {}).get("commit"))}
    versions = {str(run.experiment.get("versions", {}).get("fedloom", "unknown")) for run in study.runs}
    if len(commits) > 1 and commit is None:
        listed = ", ".join(sorted(commits))
        raise ExperimentError(
            f"the runs were made at {len(commits)} commits ({listed}); name one by --commit"
        )
    return Entry(
        experiment=file.name,
        file=file.path.as_posix(),
        command=command,
        size=size,
        fedloom=", ".join(sorted(versions)),
        commit=commit or next(iter(commits), None),
        settings=digests(runs_of(command, study.rows, study.runs[0].summary.seed, root)),
        threads=tuple(sorted({int(t) for t in _recorded(study, "threads")})),
        devices=tuple(sorted({str(d) for d in _recorded(study, "device")})),
        runs=len(study.runs),
        minutes=round(sum(run.summary.seconds for run in study.runs) / 60, 2),
        against=bases,
        columns=tuple(EntryColumn(key=c.key, title=c.title, unit=c.unit, across=c.across) for c in columns),
        rows={row: _row(row, study, columns, bases, samples) for row in study.rows},
        traces=tuple(
            Trace(
                row=path.row,
                across=across,
                rounds={r: {key: round(v, 6) for key, v in own.items()} for r, own in path.rounds.items()},
            )
            for across, paths in drawn(study).items()
            for path in paths
        ),
    )


def _row(
    row: str, study: Study, columns: Sequence[Column], bases: Sequence[str], samples: SampleValues
) -> Row:
    runs, figures = study.rows[row], {}
    for column in columns:
        values = figures_by_seed(runs, column)
        if not values:
            continue
        own = samples.of_runs(runs, column)
        inside = None if own is None else bootstrap_interval(list(own.values()))
        compares = metric_of(column.key) is not None
        gaps = {
            base: _gap(found)
            for base in bases
            if compares
            and base != row
            and (found := compared(runs, study.rows[base], column, samples)) is not None
        }
        figures[column.name] = Figure(
            values={s: v if math.isfinite(v) else None for s, v in sorted(values.items())},
            interval=_ends(inside),
            samples=None if own is None else len(own),
            differences=gaps,
        )
    return Row(figures=figures, remark=remark_of(runs))


def _gap(found: Difference) -> Gap:
    inside = found.interval
    return Gap(
        mean=found.mean,
        seeds=found.seeds,
        interval=_ends(inside),
        p=None if inside is None else inside.p,
        p_seeds=found.p_seeds,
    )


def _ends(interval: Interval | None) -> Ends | None:
    return None if interval is None else Ends(low=interval.low, high=interval.high)


def _recorded(study: Study, what: str) -> list[Any]:
    """A field of the provenance of every run that has one."""
    files = [RunFolder(run.folder).provenance for run in study.runs]
    return [read_sealed(file)[what] for file in files if file.exists()]


def _command(study: Study, file: ExperimentFile, root: Path, overrides: Sequence[str]) -> str:
    """The command that runs the study again, once its settings are found to be the runs'. Raises ExperimentError."""
    if seeded := [o for o in overrides if o.partition("=")[0] in ("seed", "seeds", "size")]:
        raise ExperimentError(f"leave the override {seeded[0]} out: seeds and size are read from the runs")
    sizes = {str(run.experiment.get("size", "tiny")) for run in study.runs}
    if len(sizes) > 1:
        raise ExperimentError(
            f"the runs have the sizes {' and '.join(sorted(sizes))}; add one size at a time"
        )
    size = [] if sizes == {"tiny"} else [f"size={sizes.pop()}"]
    seeds = sorted({run.summary.seed for run in study.runs})
    given = [*overrides, *size]
    usual = load_rows(root / file.path, given)
    rows = list(dict.fromkeys(e.row for e in usual if e.row is not None))
    chosen = [row for row in rows if row in study.rows]
    if sorted({e.seed for e in usual}) != seeds:
        given.append(f"seeds={seeds}".replace(" ", ""))
    expected = {(e.row, e.across, e.seed): with_multiplier(e) for e in load_rows(root / file.path, given)}
    for label, runs in study.rows.items():
        for run in runs:
            place = (label if rows else None, run.across, run.summary.seed)
            if place not in expected:
                raise ExperimentError(f"{file.path} has no row {label!r} as it is in {run.folder}")
            _check_settings(run, expected[place], file)
    part = [] if chosen == rows else [word for row in chosen for word in ("--row", row)]
    words = ["fedloom", "run", file.path.as_posix(), *given, *part, "--out", file.out]
    return " ".join(map(quote, words))


def _check_settings(run: Run, expected: Experiment, file: ExperimentFile) -> None:
    """Raise ExperimentError if a run has other settings than its file and the overrides give."""
    found = Experiment.from_record(run.experiment, str(run.folder / "experiment.yaml"))
    old, new = (flat(json.loads(json.dumps(e.as_dict()))) for e in (found, expected))
    begun = _directory(run)  # a record has whole paths, a file those from the directory in which it is run
    for name in sorted({*old, *new}):
        own, given = _within(old.get(name), begun), _within(new.get(name), str(Path.cwd()))
        if counts(name, expected) and own != given:
            raise ExperimentError(
                f"{run.folder} was run with {name}={_plain(old.get(name))}, and {file.path} gives {_plain(new.get(name))}: "
                "name the overrides of the run by --with, or run it again"
            )


def _directory(run: Run) -> str | None:
    """The directory in which a run was begun, which may be gone."""
    file = RunFolder(run.folder).provenance
    return str(read_sealed(file)["directory"]) if file.exists() else None


def _within(value: Any, directory: str | None) -> Any:
    """A path below `directory` from there; anything else as it is."""
    return value.removeprefix(f"{directory}/") if isinstance(value, str) and directory else value


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:60]
