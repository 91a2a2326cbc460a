"""A study: the rows and seeds of one experiment file, in one folder with one report."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.folder_lock import locked
from fedloom.core.seals import damaged, read_sealed, write_checksums, write_sealed
from fedloom.experiment import provenance
from fedloom.experiment.finished_run import read_experiment, read_summary
from fedloom.experiment.interruptions import disk_faults
from fedloom.experiment.parallel_runs import RunJob, run_jobs, shared_out
from fedloom.experiment.report import write_report
from fedloom.experiment.run import Result
from fedloom.experiment.settings import Experiment
from fedloom.federation.progress import Observer
from fedloom.federation.run_folder import RunFolder

PLAN = "plan.json"

Watch = Callable[[Experiment, int, int], Observer]
"""(experiment, its number from 1, number of experiments) to the observer of that run."""


def run_rows(
    experiments: Sequence[Experiment],
    out: Path,
    watch: Watch,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    jobs: int = 1,
) -> list[Result]:
    """Run every row and seed into `out/<row>/seed-<n>`, `jobs` at a time, and write `rows.json` and the common report.

    With `resume`, finished runs are read, interrupted runs continue (see `run` for `accept_changes`), and the rest follow. The
    user's own files of every row are checked before the first row trains. Raises ExperimentError.
    """
    folder = RunFolder(out)
    with locked(out), disk_faults(folder):
        paths = [place(e) for e in experiments]
        if clash := next((p for i, p in enumerate(paths) if p in paths[:i]), None):
            raise ExperimentError(
                f"two rows would be written to {clash}; give them names that differ in their letters"
            )
        if not resume:
            if (out / "rows.json").exists() or any(RunFolder(out / p).begun for p in paths):
                raise ExperimentError(
                    f"{out} already holds runs; choose another --out, or go on with --resume {out}"
                )
            folder.create()
        for experiment in experiments:
            experiment.track.check(has_folder=True)
        _check_own_files(experiments)
        if jobs > 1:  # what was begun keeps its number of threads
            begun_rows = [RunFolder(out / p).begun for p in paths]
            shared = shared_out(experiments, jobs)
            experiments = [e if b else s for e, s, b in zip(experiments, shared, begun_rows, strict=True)]
        entries = [
            {"row": e.row or e.method.title, "across": e.across, "seed": e.seed, "path": p}
            for e, p in zip(experiments, paths, strict=True)
        ]
        plan = {
            "directory": str(Path.cwd()),
            "experiments": [e.as_dict() for e in experiments],
            "runs": entries,
        }
        write_sealed(out / PLAN, plan)
        due = [n for n, path in enumerate(paths) if not (out / path / "summary.json").exists()]
        begun = {n: RunFolder(out / paths[n]).begun for n in due}
        pending = [RunJob(experiments[n], out / paths[n], begun[n], accept_changes and begun[n]) for n in due]
        run_jobs(pending, jobs, lambda i: watch(experiments[due[i]], due[i] + 1, len(experiments)))
        results = [Result(read_summary(out / path), out / path) for path in paths]
        write_atomic(out / "rows.json", (json.dumps(entries, indent=1, ensure_ascii=False) + "\n").encode())
        write_checksums(out, [out / "rows.json"])
        write_report(out)
        return results


def _check_own_files(experiments: Sequence[Experiment]) -> None:
    """Read the user's own files once, so that a fault in the last row appears at the start."""
    checked: list[Any] = []
    for experiment in experiments:
        key = (experiment.data, experiment.seed)
        if experiment.data.has_own_files and key not in checked:
            experiment.data.check_read(experiment.task.clients(experiment.setup))
            checked.append(key)


def planned(folder: Path) -> list[Experiment]:
    """The experiments of a folder written by `run_rows` or `run`, to resume them. Raises ExperimentError."""
    if (folder / PLAN).is_file():
        plan = _plan(folder)
        return [Experiment.from_record(fields, str(folder / PLAN)) for fields in plan["experiments"]]
    if (folder / "experiment.yaml").is_file():
        return [read_experiment(folder)]
    raise ExperimentError(
        f"there is no run to resume in {folder}; name the folder that `fedloom run` wrote to"
    )


def begun_in(folder: Path) -> Path | None:
    """The directory in which the runs of a folder were begun, where it still exists. Raises DiskError."""
    if not (folder / PLAN).is_file():
        return provenance.directory(folder)
    begun = _plan(folder).get("directory")
    return Path(begun) if begun is not None and Path(begun).is_dir() else None


def _plan(folder: Path) -> dict[str, Any]:
    """The content of `plan.json`: the experiments, and the directory in which they were begun. Raises DiskError."""
    file = folder / PLAN
    try:
        fields = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(file) from error
    return {"experiments": fields} if isinstance(fields, list) else read_sealed(file)  # a list until 0.1


def place(experiment: Experiment) -> str:
    """A run's folder within its study: `<row>/seed-<n>`, or `<row>/<across>/seed-<n>`."""
    across = [] if experiment.across is None else [slug(experiment.across)]
    return "/".join([slug(experiment.row or experiment.method.name), *across, f"seed-{experiment.seed}"])


def slug(text: str) -> str:
    """A row's name as a folder name: lower-case letters, digits and single dashes."""
    plain = text.lower().replace("²", "2")
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-") or "row"
