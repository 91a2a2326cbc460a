"""Runs an experiment: builds the federation, runs it, and writes summary, model, samples and report."""

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.experiment.build import build
from fedloom.experiment.sample_gallery import write_gallery
from fedloom.experiment.settings import Experiment
from fedloom.experiment.yaml_rows import read_yaml
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer
from fedloom.federation.run_folder import RunFolder
from fedloom.models.base import Trainable
from fedloom.tasks.base import Task


@dataclass(frozen=True)
class Result:
    """A run's result. `summary` is the content of summary.json; `folder` is None for a run without a folder."""

    summary: Mapping[str, Any]
    folder: Path | None


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    observe: Observer = lambda progress: None,
) -> Result:
    """Run an experiment, writing to the folder `out` if there is one; with `resume`, continue the run in it.

    Faults in the user's input raise ExperimentError before training starts.
    """
    folder = None if out is None else RunFolder(Path(out))
    if resume and (folder is None or not (folder.path / "experiment.yaml").exists()):
        raise ExperimentError(f"there is no run to resume in {out}; its experiment.yaml is missing")
    if folder is not None and not resume:
        folder.create()
    federation = build(experiment, folder, observe)
    if folder is not None and resume:
        checkpoint = folder.last()
        folder.cut_histories(-1 if checkpoint is None else checkpoint.round)
        if checkpoint is not None:
            federation.resume(checkpoint)
    if folder is not None and not resume:
        assert isinstance(federation.experiment, Experiment)  # noqa: S101
        folder.write_experiment(federation.experiment.located().as_dict() | {"versions": versions()})
    federation.run()
    return finish(federation)


def finish(federation: Federation, rows: Sequence[Mapping[str, Any]] | None = None) -> Result:
    """Summarise a finished run; with a folder, also write the model, the samples and the report.

    `rows`: the client rows of a deployment, whose samples and personal models stay at the sites.
    """
    experiment, model, folder = federation.experiment, federation.engine.model, federation.folder
    assert isinstance(experiment, Experiment)  # noqa: S101
    common = federation.global_model()
    model.load(common)
    settings, evaluator = experiment.evaluation, federation.evaluator
    metrics = dict(federation.last_metrics)
    if settings.controls:
        metrics |= evaluator.controls(common)
    summary = {
        "name": experiment.name,
        "row": experiment.row or experiment.method.title,
        "method": experiment.method.name,
        "title": experiment.method.title,
        "seed": experiment.seed,
        "rounds": federation.round,
        "seconds": round(federation.totals.seconds, 3),
        "status": federation.status(),
        "notes": list(model.notes),
        "metrics": {**metrics, "start": dict(federation.first_metrics)},
        "trainable_parameters": sum(
            p.numel() for n, p in model.tensors.items() if experiment.method.scope.role(n) != "frozen"
        ),
        "shared_parameters": sum(t.numel() for t in federation.state.shared.values()),
        "bytes_up": federation.totals.bytes_up,
        "bytes_down": federation.totals.bytes_down,
        "restoration_error": metrics.get("restoration_error"),
        "privacy": privacy_summary(federation),
        "clients": _client_rows(federation) if rows is None else list(rows),
    }
    if folder is None:
        return Result(summary, None)
    controls = [
        {"round": federation.round, "name": n, "value": v}
        for n, v in metrics.items()
        if n.startswith("control/")
    ]
    folder.append("metrics.jsonl", controls)
    if model.one_model:
        model.save_adapters(folder.path / "model")
    for client in federation.clients.values() if rows is None else ():
        if own := federation.client_model(client):
            model.load(own.tensors, own.ratios)
            model.save_adapters(folder.path / "model" / "clients" / client.name)
    if federation.tools is not None:
        federation.tools.save(federation.state.tensors, folder.path / "model")
    write_gallery(folder, evaluator.tests, settings.samples)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    write_atomic(folder.path / "summary.json", (text + "\n").encode())
    from fedloom.experiment.report import write_report

    write_report(folder.path)
    return Result(summary, folder.path)


def privacy_summary(federation: Federation) -> dict[str, Any] | None:
    """The run's privacy settings and the budget spent; None without privacy settings."""
    settings = federation.experiment.privacy
    if not settings.sums:
        return None
    privacy: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    if federation.accountant is not None:
        privacy["spent"] = {
            "epsilon": round(federation.accountant.epsilon(federation.round), 6),
            "delta": federation.accountant.delta,
            "rounds": federation.round,
        }
    return privacy


def load(run_dir: str | Path, client: str | None = None) -> Trainable:
    """The trained model of a run folder; with `client`, that client's personal model.

    Raises ExperimentError if the folder holds no finished run.
    """
    folder = Path(run_dir)
    adapters = folder / "model" if client is None else folder / "model" / "clients" / client
    own = sorted(p.parent.name for p in (folder / "model" / "clients").glob("*/fedloom.json"))
    finished = (folder / "summary.json").is_file()
    if client is not None and client not in own and finished:
        known = (
            f"clients with one are {', '.join(own)}"
            if own
            else "the run has the common model alone; leave the client out"
        )
        raise ExperimentError(f"{folder} has no personal model of a client {client!r}; {known}")
    if not (adapters / "fedloom.json").is_file():
        if own and client is None:
            raise ExperimentError(
                f"{folder} has no common model; name a client with a model of its own, such as {own[0]}"
            )
        raise ExperimentError(f"{adapters} holds no finished model; name the folder of a run that has ended")
    experiment = read_experiment(folder)
    return experiment.task.load(adapters, experiment.setup)


def held(run_dir: Path) -> set[str]:
    """The modalities of the clients of a finished run."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return {modality for client in summary["clients"] for modality in client["holds"]}


def load_for_benchmark(run_dir: Path, client: str | None = None) -> tuple[Task[Any], Trainable | None]:
    """A run's task and trained model; None as model if the task has no benchmarks. Raises ExperimentError."""
    if not (run_dir / "experiment.yaml").is_file():
        raise ExperimentError(f"{run_dir} holds no run; name the folder of a run that has ended")
    task = read_experiment(run_dir).task
    return task, load(run_dir, client) if task.has_benchmarks else None


def read_experiment(folder: Path) -> Experiment:
    """The resolved experiment of a run folder."""
    file = folder / "experiment.yaml"
    return Experiment.from_record(read_yaml(file), str(file))


def versions() -> dict[str, str]:
    """Versions of the packages that a run's figures depend on."""
    names = ("fedloom", "torch", "transformers", "peft", "safetensors", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def _client_rows(federation: Federation) -> list[dict[str, Any]]:
    """One row per client: modalities, sample counts, and metrics of the last round."""
    rows = []
    for name in sorted({*federation.evaluator.tests.of}):
        test = federation.evaluator.tests.only(name)
        client = federation.clients.get(name)
        rows.append(
            {
                "client": name,
                "holds": sorted({m for s in test.samples for m in s.modalities}),
                "train": len(client.data.train) if client is not None else 0,
                "test": len(test.samples),
                "metrics": federation.client_metrics.get(name, {}),
            }
        )
    return rows
