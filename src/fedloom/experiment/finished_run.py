"""Reads a finished run: its model, summary and settings, each file checked against the run's seals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedloom.core.errors import ExperimentError
from fedloom.core.seals import check_files, damaged
from fedloom.experiment.asking import askable
from fedloom.experiment.settings import Experiment
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.models.adapter_folder import NOTE
from fedloom.models.base import Trainable
from fedloom.tasks.base import Task


def load(run_dir: str | Path, client: str | None = None) -> Trainable:
    """The trained model of a run folder; with `client`, that client's personal model.

    Raises ExperimentError if the folder holds no finished run.
    """
    return load_as(run_dir, client)


def load_as(run_dir: str | Path, client: str | None = None, **changes: Any) -> Trainable:
    """`load`, with other settings of the setup than the run's, such as device="cpu"."""
    folder = Path(run_dir)
    adapters = model_folder(folder, client)
    experiment = read_experiment(folder)
    try:
        model = experiment.task.load(adapters, replace(experiment.setup, **changes))
        return askable(model, experiment, lambda: held(folder))
    except (SafetensorError, KeyError, FileNotFoundError) as error:
        raise damaged(adapters) from error


def model_folder(folder: Path, client: str | None = None) -> Path:
    """The folder of a finished run's model, or of that client's personal one, its files checked. Raises ExperimentError."""
    adapters = adapters_in(folder, client, finished=(folder / "summary.json").is_file())
    check_files(folder, "experiment.yaml", f"{adapters.relative_to(folder).as_posix()}/")
    return adapters


def adapters_in(folder: Path, client: str | None, *, finished: bool = True, run: str = "") -> Path:
    """`model_folder` before its files are checked; `run`: the run in words, its folder if none. Raises ExperimentError."""
    run = run or str(folder)
    adapters = folder / "model" if client is None else folder / "model" / "clients" / client
    own = sorted(p.parent.name for p in (folder / "model" / "clients").glob("*/fedloom.json"))
    if client is not None and client not in own and finished:
        known = (
            f"clients with one are {', '.join(own)}"
            if own
            else "the run has the common model alone; leave the client out"
        )
        raise ExperimentError(f"{run} has no personal model of a client {client!r}; {known}")
    if not (adapters / "fedloom.json").is_file():
        if own and client is None:
            raise ExperimentError(
                f"{run} has no common model; name a client with a model of its own, such as {own[0]}"
            )
        raise ExperimentError(f"{adapters} holds no finished model; name the folder of a run that has ended")
    return adapters


def held(run_dir: Path) -> set[str]:
    """The modalities of the clients of a finished run."""
    return held_in(json.loads((run_dir / "summary.json").read_text(encoding="utf-8")))


def held_in(summary: Mapping[str, Any]) -> set[str]:
    """The modalities of the clients of a summary."""
    return {modality for client in summary["clients"] for modality in client["holds"]}


def load_for_benchmark(run_dir: Path, client: str | None = None) -> tuple[Task[Any], Trainable | None]:
    """A run's task and trained model; None as model if the task has no benchmarks. Raises ExperimentError."""
    if not (run_dir / "experiment.yaml").is_file():
        raise ExperimentError(f"{run_dir} holds no run; name the folder of a run that has ended")
    task = read_experiment(run_dir).task
    return task, load(run_dir, client) if task.has_benchmarks else None


def read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a finished run. Raises DiskError if it is damaged."""
    file = folder / "summary.json"
    check_files(folder, file.name)
    try:
        summary: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise damaged(file) from error
    return summary


def read_experiment(folder: Path) -> Experiment:
    """The resolved experiment of a run folder."""
    file = folder / "experiment.yaml"
    return Experiment.from_record(read_yaml(file), str(file))


def results(folder: Path) -> list[Path]:
    """The files that reports and later commands read; model cards are their readers' to edit."""
    found = (p for name in ("model", "samples") for p in (folder / name).rglob("*") if p.is_file())
    parts = [p for p in found if p.name != NOTE]
    names = ("experiment.yaml", "summary.json", "metrics.jsonl", "ledger.jsonl")
    return [
        *parts,
        *folder.glob("predictions-*.jsonl"),
        *(folder / n for n in names if (folder / n).is_file()),
    ]
