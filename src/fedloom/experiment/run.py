"""From an experiment to a result: load the data and the foundation, run the federation, write what a user keeps."""

import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.files import write_atomic
from fedloom.core.payload import group_of
from fedloom.data.client_data import ClientData
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.experiment.build import adapted_model, client_model, client_shapes
from fedloom.experiment.sample_gallery import write_gallery
from fedloom.experiment.settings import Experiment
from fedloom.federation import LocalEngine
from fedloom.federation.client import Client
from fedloom.federation.cohort_size import cohort_size
from fedloom.federation.loop import Federation
from fedloom.federation.progress import Observer
from fedloom.federation.run_folder import RunFolder
from fedloom.models.base import Trainable
from fedloom.models.generation.load import load_synthesis
from fedloom.models.mllm.load import load_model
from fedloom.models.own.load import load_own_model
from fedloom.privacy.compatibility import not_installed, too_few
from fedloom.privacy.robust.attacks import Backdoor
from fedloom.tasks.backdoor import triggered
from fedloom.tasks.evaluation import TestSet, drawn, measure_controls
from fedloom.tasks.generator_evaluation import Judge
from fedloom.tasks.image_classification import ClassTests

POOLED = "pooled"
"""The name of the one client of a centralised run."""


@dataclass(frozen=True)
class Result:
    """What a run came to. `summary` is the content of summary.json; `folder` is None for a run that was not written."""

    summary: Mapping[str, Any]
    folder: Path | None


def run(
    experiment: Experiment,
    out: str | Path | None = None,
    *,
    resume: bool = False,
    observe: Observer = lambda progress: None,
) -> Result:
    """Run an experiment, into the folder `out` if one is given; with `resume`, go on with the run that lies there.

    Everything that can be wrong with the user's input raises ExperimentError before training starts.
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
        folder.write_experiment(federation.experiment.as_dict() | {"versions": versions()})
    federation.run()
    return finish(federation)


def build(experiment: Experiment, folder: RunFolder | None, observe: Observer) -> Federation:
    """A federation before its first round. Raises ExperimentError for data or a model that cannot be used."""
    # Saturated attention gives denormal numbers, up to 40 times slower on a CPU. Before the first parallel operation,
    # because worker threads inherit the mode of the thread that starts them.
    torch.set_flush_denormal(True)
    if experiment.engine.threads is not None:
        torch.set_num_threads(experiment.engine.threads)
    sources = experiment.data.load(experiment.seed, partial(picture_features, experiment))
    return build_from(experiment, sources, folder, observe)


@torch.no_grad()
def picture_features(experiment: Experiment, samples: Sequence[Sample], batch: int = 64) -> torch.Tensor:
    """(N, d), on the CPU: the frozen encoder's mean output for each sample's picture, before any projector."""
    model = load_model(experiment.model, ["image"], experiment.engine.device, experiment.seed)
    rows = []
    for start in range(0, len(samples), batch):
        examples = [model.prepare(s) for s in samples[start : start + batch]]
        rows += [f["image"].mean(0).float().cpu() for f in model.features(examples)]
    return torch.stack(rows)


def build_from(
    experiment: Experiment, sources: Sequence[ClientData], folder: RunFolder | None, observe: Observer
) -> Federation:
    """`build` with clients that are at hand already, ordered by name."""
    for source in sources:
        if experiment.rounds > 0 and not source.train and experiment.data.trains(source.name):
            raise ExperimentError(
                f"client {source.name} has no training samples; give it some, or leave it out"
            )
        if experiment.training.one_pass and 0 < len(source.train) < experiment.rounds:
            raise ExperimentError(
                f"client {source.name} has {len(source.train)} training samples for {experiment.rounds} rounds of one pass; "
                "give it more (data.captions.least), or lower rounds"
            )
    held = sorted({m for source in sources for m in source.holds})
    model = client_model(experiment, sources, held)
    tested = {s.name: s.test for s in sources if len(s.test)}
    tests = TestSet.prepare(
        {name: tested[name] for name in drawn(list(tested), experiment.evaluation, experiment.seed)}, model
    )
    if not tests.samples:
        raise ExperimentError(
            'no client has a test sample; mark some with "split": "test" or raise data.test_share'
        )
    learning = [s for s in sources if experiment.data.trains(s.name)]
    attack, attackers = experiment.attack, list[str]()
    if attack is not None:
        attackers = attack.attackers([s.name for s in learning], experiment.seed)
        learning = [attack.learn(s) if s.name in attackers else s for s in learning]
    training = [_pool(learning)] if experiment.method.pooled else learning
    shapes = client_shapes(experiment, [s.name for s in training], model.scales)
    clients = {
        s.name: Client(
            s,
            model.client_groups(s.name, s.holds),
            shapes[s.name],
            experiment.cohort.start,
            experiment.privacy,
        )
        for s in training
    }
    check_clients(experiment, model, clients)
    cohort = experiment.engine.cohort
    if cohort == "auto":
        first = [sample for s in training[:8] for sample in s.train[:4]]
        cohort = cohort_size(model, first, experiment.training.batch_size)
        # Written into the run's experiment.yaml: another machine's choice could round differently.
        engine_settings = experiment.engine.model_copy(update={"cohort": cohort})
        experiment = experiment.model_copy(update={"engine": engine_settings})
    engine = LocalEngine(
        model,
        clients,
        experiment.training,
        wire=experiment.engine.wire,
        cohort=1 if cohort == "off" else cohort,
    )
    class_tests = _class_tests(experiment, tests, model) if experiment.data.pictured else None
    federation = Federation(
        experiment,
        engine,
        tests,
        folder,
        observe,
        class_tests=class_tests,
        attackers=attackers,
        triggered=_triggered(experiment, tests, model),
    )
    if experiment.method.exchanges:
        federation.synthesis = load_synthesis(
            experiment.model.synthesis, experiment.data.class_names(), held, experiment.engine.device
        )
        size = federation.synthesis.generator.size
        federation.judge = Judge.of(
            experiment.data.pool(experiment.seed), experiment.seed, experiment.model.clip, size
        )
    return federation


def check_clients(experiment: Experiment, model: Trainable, clients: Mapping[str, Client]) -> None:
    """Raise ExperimentError where there are too few clients for the run's privacy, or its libraries are missing."""
    if fault := not_installed(experiment.privacy):
        raise ExperimentError(fault)
    summed = {group_of(n) for n in experiment.method.scope.pick(model.start, "shared")}
    held_by = {name: client.groups & summed for name, client in clients.items()}
    if fault := too_few(experiment.privacy, held_by, experiment.cohort.fraction):
        raise ExperimentError(fault)
    rule, asked = experiment.privacy.robust, math.ceil(experiment.cohort.fraction * len(clients))
    if rule is not None and asked < rule.least:
        raise ExperimentError(
            f"privacy.robust: {rule.kind} as it is set needs {rule.least} clients in a round, and {asked} are asked; "
            "lower byzantine, or ask more clients"
        )


def _triggered(experiment: Experiment, tests: TestSet, model: Trainable) -> TestSet | None:
    """The tested pictures with a backdoor's patch, or None; no features of theirs are kept, their places are the clean ones'."""
    if not isinstance(experiment.attack, Backdoor):
        return None
    clean = {client: tests.only(client).samples for client in sorted(set(tests.of))}
    marked = TestSet.prepare(triggered(clean, experiment.attack.answer, experiment.attack.patch), model)
    return replace(marked, places=(), whole=())


def _class_tests(experiment: Experiment, tests: TestSet, model: Trainable) -> ClassTests:
    """The test sets of image classification that are nobody's own."""
    from fedloom.data.sources.image_classes import domain_of

    parts = {client: tests.only(client).samples for client in sorted(set(tests.of))}
    domains = domain_of(parts) if experiment.data.partition.kind == "domains" else {}
    return ClassTests.prepare(tests, experiment.data.load_common(experiment.seed), domains, model)


def finish(federation: Federation, rows: Sequence[Mapping[str, Any]] | None = None) -> Result:
    """The summary; and, where there is a folder, the model, the samples and the report.

    `rows` tells of the clients where their samples and their own models are not here.
    """
    experiment, model, folder = federation.experiment, federation.engine.model, federation.folder
    assert isinstance(experiment, Experiment)  # noqa: S101
    common = federation.global_model()
    model.load(common)
    settings = experiment.evaluation
    metrics = dict(federation.last_metrics)
    answered = common and federation.tests.samples
    if settings.controls and answered and not experiment.data.pictured and not experiment.data.own_models:
        metrics |= measure_controls(model, federation.tests, settings)
    summary = {
        "name": experiment.name,
        "row": experiment.row or experiment.method.title,
        "method": experiment.method.name,
        "title": experiment.method.title,
        "seed": experiment.seed,
        "rounds": federation.round,
        "seconds": round(federation.totals.seconds, 3),
        "status": federation.status(),
        "metrics": {**metrics, "start": dict(federation.first_metrics)},
        "trainable_parameters": sum(
            p.numel() for n, p in model.tensors.items() if experiment.method.scope.role(n) != "frozen"
        ),
        "shared_parameters": sum(t.numel() for t in federation.state.shared.values()),
        "bytes_up": federation.totals.bytes_up,
        "bytes_down": federation.totals.bytes_down,
        "restoration_error": metrics.get("restoration_error"),
        "privacy": told_privacy(federation),
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
    own_models = experiment.data.own_models
    if not own_models:
        model.save_adapters(folder.path / "model")
    for client in federation.clients.values() if rows is None else ():
        if own := federation.own_model(client) if own_models else federation.client_model(client):
            model.load(own.tensors, own.ratios)
            model.save_adapters(folder.path / "model" / "clients" / client.name)
    if federation.synthesis is not None:
        federation.synthesis.save(federation.state.tensors, folder.path / "model" / "generator")
    write_gallery(folder, federation.tests, settings.samples)
    text = json.dumps(summary, indent=2, ensure_ascii=False)
    write_atomic(folder.path / "summary.json", (text + "\n").encode())
    from fedloom.experiment.report import write_report

    write_report(folder.path)
    return Result(summary, folder.path)


def told_privacy(federation: Federation) -> dict[str, Any] | None:
    """What the run promised, and what it spent; None where it promised nothing."""
    settings = federation.experiment.privacy
    if not settings.sums:
        return None
    told: dict[str, Any] = settings.model_dump(mode="json", exclude_none=True)
    if federation.accountant is not None:
        told["spent"] = {
            "epsilon": round(federation.accountant.epsilon(federation.round), 6),
            "delta": federation.accountant.delta,
            "rounds": federation.round,
        }
    return told


def load(run_dir: str | Path, client: str | None = None) -> Trainable:
    """The trained model of a run folder, ready to answer; `client` takes that client's personal model.

    Raises ExperimentError where the folder holds no finished run.
    """
    folder = Path(run_dir)
    adapters = folder / "model" if client is None else folder / "model" / "clients" / client
    if not (adapters / "fedloom.json").is_file():
        own = sorted(p.parent.name for p in (folder / "model" / "clients").glob("*/fedloom.json"))
        if own and client is None:
            raise ExperimentError(
                f"{folder} has no common model; name a client with a model of its own, such as {own[0]}"
            )
        raise ExperimentError(f"{adapters} holds no finished model; name the folder of a run that has ended")
    experiment = read_experiment(folder)
    if experiment.data.own_models:
        return load_own_model(experiment.model, adapters, experiment.engine.device, experiment.seed)
    listed = json.loads((adapters / "fedloom.json").read_text(encoding="utf-8"))
    trunks = [a.removeprefix("encoder.") for a in listed["adapters"] if a.startswith("encoder.")]
    names = {part: tuple(found) for part, found in listed.get("classes", {}).items()}
    model = adapted_model(experiment, listed.get("modalities", trunks), Classes(**names) if names else None)
    model.load(model.read_adapters(adapters))
    return model


def read_experiment(folder: Path) -> Experiment:
    """The resolved experiment of a run folder."""
    from fedloom.experiment.settings import read_yaml

    fields = read_yaml(folder / "experiment.yaml")
    fields.pop("versions", None)
    return Experiment.parse(fields, str(folder / "experiment.yaml"))


def versions() -> dict[str, str]:
    """Versions of what a run's figures depend on."""
    names = ("fedloom", "torch", "transformers", "peft", "safetensors", "numpy")
    return {name: importlib.metadata.version(name) for name in names}


def _pool(sources: list[ClientData]) -> ClientData:
    return ClientData(
        POOLED,
        [s for source in sources for s in source.train],
        [s for source in sources for s in source.test],
    )


def _client_rows(federation: Federation) -> list[dict[str, Any]]:
    """Per client: what it holds, how many samples, and its figures of the last round."""
    rows = []
    for name in sorted({*federation.tests.of}):
        test = federation.tests.only(name)
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
