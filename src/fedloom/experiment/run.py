"""Runs an experiment: builds the federation, runs it, and writes summary, model, samples and report."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from fedloom.core.activity import stage, tell
from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.folder_lock import locked
from fedloom.core.seals import CHECKSUMS, write_checksums, write_sealed
from fedloom.data.client_data import ClientData
from fedloom.data.deal_counts import by_kind, by_label
from fedloom.data.sample import modality_of
from fedloom.experiment import provenance
from fedloom.experiment.asking import askable
from fedloom.experiment.build import build, build_from
from fedloom.experiment.clients import load_clients
from fedloom.experiment.finished_run import adapters_in, held_in, load, results
from fedloom.experiment.frames import metrics_frame, predictions_frame
from fedloom.experiment.interruptions import disk_faults
from fedloom.experiment.sample_gallery import write_gallery
from fedloom.experiment.settings import Experiment
from fedloom.experiment.tracked_run import track
from fedloom.experiment.tracking import Tracking
from fedloom.experiment.workers import with_workers
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer, Progress
from fedloom.federation.run_events import recorded
from fedloom.federation.run_folder import RunFolder
from fedloom.models.base import Trainable

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True)
class Result:
    """A run's result: its figures, predictions and models."""

    summary: Mapping[str, Any]
    """The content of summary.json: the last figures, bytes, parameters and the status."""
    folder: Path | None
    """The run's folder; None for a run in memory."""
    kept: Federation | None = field(default=None, repr=False, compare=False)
    """The federation of a run in memory, which holds its figures and models."""

    def metrics(self) -> "DataFrame":
        """Every round's figures, as in `metrics.jsonl`: rounds by figures; round 0 is before training."""
        return metrics_frame(
            self._in_folder.history("metrics.jsonl") if self.kept is None else self.kept.history
        )

    def predictions(self, moment: Literal["start", "end"] = "end") -> "DataFrame":
        """Test samples with their reference and generated answer, before or after training; empty if none was generated."""
        if moment not in ("start", "end"):
            raise ExperimentError(f"predictions: the moment should be start or end, not {moment!r}")
        if self.kept is not None:
            return predictions_frame(asdict(record) for record in self.kept.records.get(moment, ()))
        return predictions_frame(self._in_folder.records(moment))

    def model(self, client: str | None = None) -> Trainable:
        """The trained model, loaded anew; with `client`, that client's personal model. Raises ExperimentError without one."""
        if self.folder is not None:
            return load(self.folder, client)
        if self.kept is None:
            raise ExperimentError("the result holds neither a folder nor models")
        experiment = self.kept.experiment
        assert isinstance(experiment, Experiment)  # noqa: S101
        with TemporaryDirectory() as folder:
            save_models(self.kept, self.kept.global_model(), Path(folder))
            adapters = adapters_in(Path(folder), client, run="the run")
            model = experiment.task.load(adapters, experiment.setup)
        return askable(model, experiment, lambda: held_in(self.summary))

    @property
    def _in_folder(self) -> RunFolder:
        if self.folder is None:
            raise ExperimentError("the result holds neither a folder nor figures")
        return RunFolder(self.folder)


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    accept_changes: bool = False,
    observe: Observer = lambda progress: None,
    callbacks: Sequence[Observer] = (),
) -> Result:
    """Run an experiment, writing to the folder `out` if there is one; with `resume`, continue the run in it.

    A callback is called at the end of every round, and before the first one, with a `Progress`: round, figures, totals and
    ledger. By then the round is on the disk: what a callback raises ends the run, which can be resumed. `observe` is called
    with every client's answer, too.

    A resume refuses settings, data, threads, device and versions other than those that the run was begun with; with
    `accept_changes` it goes on, and the run's status names them. Faults in the user's input raise ExperimentError before training
    starts, errors of the disk raise DiskError; one process at a time can work in a folder.
    """
    if not isinstance(experiment, Experiment):
        raise ExperimentError(
            f"run: needs an Experiment, not a {type(experiment).__name__}; Experiment.load reads a file"
        )
    if accept_changes and not resume:
        raise ExperimentError("accept_changes goes with resume: a run that begins has nothing to differ from")
    if out is None:
        if resume:
            raise ExperimentError("there is no run to resume without a folder; name it in out")
        tracking = Tracking(experiment.track, None)
        federation = build(experiment, None, _called(callbacks, observe, tracking))
        with closing(federation.engine), tracking.watching():
            track(federation, tracking)
            federation.run()
            return finish(federation, tracking=tracking)
    folder = RunFolder(Path(out))
    tracking = Tracking(experiment.track, folder)
    observe = _called(callbacks, observe, tracking)
    if resume and not folder.begun:
        raise ExperimentError(f"there is no run to resume in {out}; its experiment.yaml is missing")
    with locked(folder.path), disk_faults(folder), ExitStack() as ending:
        if not resume:
            folder.create()
        checkpoint = folder.last() if resume else None
        experiment = with_workers(experiment)
        clients = load_clients(experiment)
        federation = build_from(experiment, clients, folder, observe)
        ending.enter_context(closing(federation.engine))
        federation.check()
        assert isinstance(federation.experiment, Experiment)  # noqa: S101
        begun_with = provenance.gather(federation.experiment, clients, federation.engine.model)
        accepted: list[str] = []
        if resume:
            after = -1 if checkpoint is None else checkpoint.round
            accepted = provenance.accepted_changes(folder, begun_with, after, accept=accept_changes)
            federation.resume(checkpoint)
            federation.totals.accepted = accepted
            (folder.path / CHECKSUMS).unlink(missing_ok=True)
        folder.state.mkdir(exist_ok=True)
        write_sealed(folder.provenance, begun_with | {"accepted": accepted})
        made_with = provenance.versions()
        if (commit := provenance.commit()) is not None:
            made_with["commit"] = commit
        folder.write_experiment(federation.experiment.located().as_dict() | {"versions": made_with})
        with tracking.watching(), recorded(federation, resumed=resume):
            track(federation, tracking, resumed=checkpoint is not None)
            # with its questions from the start on; the answers follow
            write_gallery(folder, federation.evaluator.tests, federation.experiment.evaluation.samples)
            federation.run()
            return finish(federation, tracking=tracking)


def finish(
    federation: Federation,
    rows: Sequence[Mapping[str, Any]] | None = None,
    tracking: Tracking | None = None,
) -> Result:
    """Summarise a finished run, also for its trackers; with a folder, also write the model, the samples and the report.

    `rows`: the client rows of a deployment, whose samples and personal models stay at the sites.
    """
    experiment, model, folder = federation.experiment, federation.engine.model, federation.folder
    assert isinstance(experiment, Experiment)  # noqa: S101
    common = federation.global_model()
    model.load(common)
    settings, evaluator = experiment.evaluation, federation.evaluator
    metrics = dict(federation.last_metrics)
    if settings.controls:
        with stage("controls"):
            metrics |= evaluator.controls(common)
    privacy = privacy_summary(federation)
    if tracking is not None:
        tracking.finish(federation.round, metrics, privacy)
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
        "privacy": privacy,
        "clients": _client_rows(federation) if rows is None else list(rows),
    }
    if experiment.method.measures:
        summary["measures"] = [asdict(measure) for measure in experiment.method.measures]
    if tracking is not None:
        tracking.status = federation.status()
    if federation.totals.accepted:
        summary["accepted_changes"] = list(federation.totals.accepted)
    controls = [
        {"round": federation.round, "name": n, "value": v}
        for n, v in metrics.items()
        if n.startswith("control/")
    ]
    if folder is None:
        federation.history += controls
        return Result(summary, None, federation)
    tell("writing model, samples and report")
    folder.append("metrics.jsonl", controls)
    save_models(federation, common, folder.path, own=rows is None)
    write_gallery(folder, evaluator.tests, settings.samples)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    write_atomic(folder.path / "summary.json", (text + "\n").encode())
    write_checksums(folder.path, results(folder.path))
    from fedloom.experiment.report import write_report

    write_report(folder.path)
    return Result(summary, folder.path)


def save_models(
    federation: Federation, common: Mapping[str, Tensor], folder: Path, *, own: bool = True
) -> None:
    """Write the `common` model, with `own` the clients' personal models, and the server's own below `folder`/model."""
    model = federation.engine.model
    model.load(common)
    if model.one_model:
        model.save_adapters(folder / "model")
    for client in federation.clients.values() if own else ():
        if personal := federation.client_model(client):
            model.load(personal.tensors, personal.ratios)
            model.save_adapters(folder / "model" / "clients" / client.name)
    if federation.tools is not None:
        federation.tools.save(federation.state.tensors, folder / "model")


def _called(callbacks: Any, observe: Observer, tracking: Tracking) -> Observer:
    """The observer that also calls the trackers and the callbacks, at the end of every round.

    Raises ExperimentError for a callback that is none.
    """
    listed: list[Any] = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    if wrong := [one for one in listed if not callable(one)]:
        raise ExperimentError(f"run: callbacks should be a list of functions, and {wrong[0]!r} is none")

    def observed(progress: Progress) -> None:
        progress = tracking(progress)
        observe(progress)
        for callback in listed if progress.client is None else ():
            callback(progress)

    return observed


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


def _client_rows(federation: Federation) -> list[dict[str, Any]]:
    """One row per client: modalities, sample counts in all, by kind and by label, and metrics of the last round."""
    rows = []
    tests = federation.evaluator.tests
    names = sorted({*tests.of})
    held = {
        n: ClientData(
            n, federation.clients[n].data.train if n in federation.clients else (), tests.only(n).samples
        )
        for n in names
    }
    data = getattr(federation.experiment, "data", None)
    labels = by_label(list(held.values()), getattr(getattr(data, "partition", None), "over", None))
    kinds = by_kind(held.values())
    for name in names:
        test = federation.evaluator.tests.only(name)
        client = federation.clients.get(name)
        rows.append(
            {
                "client": name,
                "holds": sorted({modality_of(m) for s in test.samples for m in s.modalities}),
                "train": len(client.data.train) if client is not None else 0,
                "test": len(test.samples),
                "metrics": federation.client_metrics.get(name, {}),
                "kinds": dict(kinds[name]),
                "labels": dict(labels.get(name, {})),
            }
        )
    return rows
