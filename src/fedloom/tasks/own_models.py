"""Clients with models of their own: each trains its own architecture on samples of one modality.

Evaluation: each model on its client's and on its modality's test samples, and the server's generator if there is one.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import ClassVar, cast

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.number_range import Range
from fedloom.data.sample import Sample
from fedloom.data.sources.labelled import LabelledSource
from fedloom.methods import Method
from fedloom.methods.base.distillation import DistillationServer
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import part_of
from fedloom.models.own.model_bank import ModelBank
from fedloom.tasks.base import (
    READ_AHEAD,
    READ_FOR_EVERY_TASK,
    Evaluator,
    Question,
    ServerTools,
    Setup,
    Snapshot,
    Task,
    Trigger,
    methods_where,
    needs_no_text_metrics,
)
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet, client_figures, shares_right
from fedloom.tasks.generator_evaluation import GeneratorEvaluator
from fedloom.tasks.metrics import EvaluationRecord, summarise
from fedloom.tasks.personal_batches import ClientModel
from fedloom.tasks.site_figures import Figures, SampleFigures, SiteFigures


@dataclass(frozen=True)
class OwnModels(Task[LabelledSource]):
    """Classification of pictures, sounds or descriptions by each client's own architecture."""

    name: ClassVar[str] = "own-models"
    title: ClassVar[str] = "classifiers of the clients' own"
    source_members: ClassVar[tuple[str, ...]] = ("class_names", "pool")
    headline: ClassVar[Mapping[str, str]] = {
        f"global/{kind}/accuracy": "" for kind in ("image", "audio", "text")
    }
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        *READ_AHEAD,
        "model.architectures",
        "model.width",
    )
    ignores: ClassVar[tuple[str, ...]] = ("method.head",)
    inputs: ClassVar[tuple[str, ...]] = ("image", "audio", "text")

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> ModelBank:
        """The architectures, assigned to the clients of each modality in turn."""
        return self._bank(holds, setup)

    def model_at_site(self, client: str, holds: Mapping[str, Sequence[str]], setup: Setup) -> ModelBank:
        """The client's architecture alone, as the deal over all clients gives it."""
        return self._bank(holds, setup, client)

    def _bank(self, holds: Mapping[str, Sequence[str]], setup: Setup, only: str | None = None) -> ModelBank:
        """The bank of a deal over all these clients; with `only` the part of one of them."""
        from fedloom.models.own.load import load_model_bank

        modalities = {client: held[0] if held else "text" for client, held in holds.items()}
        names = self.class_names()
        return setup.applied(
            load_model_bank(setup.foundation, modalities, names, setup.device, setup.seed, only)
        )

    def load(self, folder: Path, setup: Setup) -> ModelBank:
        """One client's model."""
        from fedloom.models.own.load import load_own_model

        return load_own_model(setup.foundation, folder, setup.device, setup.seed)

    def tools(
        self, model: Trainable, holds: Mapping[str, Sequence[str]], setup: Setup
    ) -> DistillationServer | None:
        """The generator and captioner, for a method with public items."""
        if not setup.method.public_items:
            return None
        from fedloom.models.generation.load import load_synthesis

        modalities = sorted({m for held in holds.values() for m in held})
        synthesis = load_synthesis(setup.foundation.synthesis, self.class_names(), modalities, setup.device)
        return DistillationServer(cast(ModelBank, model), synthesis)

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> "OwnModelEvaluator":
        """Accuracy of every client's model, and the generator's figures."""
        tests, judge = TestSet.prepare(tested, model), None
        if isinstance(tools, DistillationServer):
            pool = self.source.pool(setup.seed)
            if pool is None:
                model.notes.append(
                    "generator/... is not measured: data.path has no folder common with pictures"
                )
            else:
                side = tools.synthesis.generator.size
                judge = GeneratorEvaluator.of(pool, setup.seed, setup.foundation.clip, side)
        return OwnModelEvaluator(cast(ModelBank, model), tests, setup.evaluation, tools, judge)

    def class_names(self) -> tuple[str, ...]:
        """The classes in label order."""
        return self.source.class_names()

    def site_figures(self) -> SiteFigures:
        """Accuracy of a site's model on its own samples."""
        return OwnModelFigures()

    def server_evaluator(self, model: Trainable, setup: Setup, tools: ServerTools | None) -> Evaluator | None:
        """The generator's figures, which need no client's model; they need the pool at the server."""
        return None if tools is None else self.evaluator({}, model, setup, tools)

    def answer(self, model: Trainable, question: Question) -> str:
        """The likeliest class of one input in the model's modality."""
        if question.pair is not None:
            raise ExperimentError("a client's own model reads one input; leave --pair out")
        inputs = dict(question.inputs) | ({} if question.text is None else {"text": question.text})
        return cast(ModelBank, model).classify(inputs)

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Refuses methods that need one common architecture, and text metrics."""
        if not method.own_models:
            supported = methods_where(lambda m: m.own_models)
            return (
                f"method {method.name} is not for clients with models of their own, which data.source labelled means; "
                f"take {supported}"
            )
        return needs_no_text_metrics(self.title, evaluation)


@dataclass(frozen=True)
class OwnModelEvaluator:
    """Evaluates all clients' models, and the generator if the method has one."""

    model: ModelBank
    tests: TestSet
    settings: Evaluation
    tools: ServerTools | None = None
    judge: GeneratorEvaluator | None = None

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Metrics of every client's model, and of the generator."""
        drawn = None if self.settings.clients is None else set(self.tests.of)
        own = snapshot.own(drawn)
        assessment = assess_own_models(self.model, own, self.tests, generate=snapshot.generate)
        if self.judge is None or not isinstance(self.tools, DistillationServer):
            return assessment
        grids = None if snapshot.folder is None else snapshot.folder / "generated"
        generator = self.judge.assess(self.tools.synthesis, snapshot.state, snapshot.number, grids)
        return replace(assessment, metrics={**assessment.metrics, **generator})

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: there is no common model."""
        return {}


class OwnModelFigures(SampleFigures):
    """`local/...` alone: `global/...` measures every model on the samples of all clients of its modality, and neither travels."""

    def leaving(self, assessment: Assessment, site: str) -> dict[str, float]:
        """See SampleFigures, the local ones."""
        return {n: v for n, v in super().leaving(assessment, site).items() if n.startswith("local/")}

    def range_of(self, name: str) -> Range | None:
        """See SampleFigures, the local ones."""
        return super().range_of(name) if name.startswith("local/") else None

    def missing(self, metrics: Figures) -> list[str]:
        """The figures of every model on the samples of several sites."""
        return [
            "global/<modality>/accuracy is not measured: neither models nor samples leave their sites; local/<modality>/accuracy "
            "is each model on its own site's"
        ]


def assess_own_models(
    model: ModelBank, own: Mapping[str, ClientModel], tests: TestSet, *, generate: bool = True
) -> Assessment:
    """`local/<modality>/accuracy`: each model on its client's test samples. `global/...`: on its modality's, mean over clients.

    Beside `global/...`: `spread/<modality>/accuracy`, its standard deviation over two or more clients, and
    `client/<name>/accuracy`.
    """
    records: list[EvaluationRecord] = []
    answered: list[EvaluationRecord] = []
    everywhere: dict[str, list[float]] = defaultdict(list)
    metrics: dict[str, float] = {}
    for client in sorted(own):
        model.load(own[client].tensors)
        modality = model.current.modality
        chosen = [i for i, s in enumerate(tests.samples) if s.kind == modality]
        if not chosen:  # no client of this modality is evaluated
            continue
        guesses = model.guesses(part_of(tests.examples, chosen))
        found = [
            _record(tests.of[i], tests.samples[i], guess, model.names if generate else None)
            for i, guess in zip(chosen, guesses, strict=True)
        ]
        accuracy = fmean(r.correct for r in found)
        everywhere[modality].append(accuracy)
        metrics[f"client/{client}/accuracy"] = accuracy
        records += [r for r in found if r.client == client]
        answered += found
    for modality, accuracies in sorted(everywhere.items()):
        metrics[f"global/{modality}/accuracy"] = fmean(accuracies)
        if len(accuracies) > 1:
            metrics[f"spread/{modality}/accuracy"] = pstdev(accuracies)
    summary = summarise(records, "local")
    figures = {**metrics, **summary.metrics}
    return Assessment(figures, client_figures(summary), records, shares_right(answered))


def _record(client: str, sample: Sample, guess: int, names: Sequence[str] | None) -> EvaluationRecord:
    """The record of a guessed class; its name is the answer where `names` are given."""
    answer = None if names is None else names[guess]
    hit = guess == int(sample.meta["label"])
    return EvaluationRecord(
        client, sample.kind, sample.uid, sample.answer, answer, 1, int(hit), labelled=True
    )
