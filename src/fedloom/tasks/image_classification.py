"""Image classification with CLIP: evaluation on local test samples, on base and novel classes, and by domain.

Every client has one model, personal or else the common one; every metric is an unweighted mean over clients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor

from fedloom.core.activity import stage
from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.partition.common_sets import common_names
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.data.sources.image_classes import ImageClassSource, domain_of
from fedloom.methods import Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.base import Trainable
from fedloom.models.settings import Foundation
from fedloom.models.training.settings import Training
from fedloom.tasks.base import (
    READ_AHEAD,
    READ_FOR_EVERY_TASK,
    READ_WITH_FOUNDATION,
    Question,
    ServerTools,
    Setup,
    Snapshot,
    Task,
    Trigger,
    methods_where,
    needs_no_text_metrics,
)
from fedloom.tasks.class_answers import ClassTests, answered_by, by_model
from fedloom.tasks.class_figures import (
    ACCURACY,
    LOCAL,
    OWN_CLASSES,
    ClassFigures,
    client_row,
    means,
    metric_name,
)
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet
from fedloom.tasks.metrics import EvaluationRecord
from fedloom.tasks.personal_batches import ClientModel

if TYPE_CHECKING:
    from fedloom.models.clip.trainable import AdaptedCLIP


@dataclass(frozen=True)
class ImageClassification(Task[ImageClassSource]):
    """Classification of pictures by CLIP with adapters or prompts."""

    name: ClassVar[str] = "image-classification"
    title: ClassVar[str] = "an image classifier (CLIP)"
    source_members: ClassVar[tuple[str, ...]] = ("classes", "load_common", "partition")
    headline: ClassVar[Mapping[str, str]] = {
        f"local/{ACCURACY}": "local",
        f"base/{ACCURACY}": "base",
        f"novel/{ACCURACY}": "novel",
        "hm": "HM",
        f"held_out/{ACCURACY}": "held out",
    }
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        *READ_AHEAD,
        *READ_WITH_FOUNDATION,
        "evaluation.batch_size",
        "model.clip",
    )
    ignores: ClassVar[tuple[str, ...]] = ("method.head",)
    inputs: ClassVar[tuple[str, ...]] = ("image",)

    def bases(self, foundation: Foundation) -> dict[str, str]:
        """CLIP."""
        return {"": foundation.clip or "tiny-clip"}

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> "AdaptedCLIP":
        """CLIP for the source's classes."""
        return self._loaded(self.source.classes(), setup)

    def load(self, folder: Path, setup: Setup) -> "AdaptedCLIP":
        """CLIP with the classes and tensors in `folder`."""
        description = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
        model = self._loaded(Classes(**{part: tuple(n) for part, n in description["classes"].items()}), setup)
        model.load(model.read_adapters(folder))
        return model

    def _loaded(self, classes: Classes, setup: Setup) -> "AdaptedCLIP":
        clip_adapter = setup.method.clip_adapter
        assert clip_adapter is not None  # noqa: S101 - `refuses` saw to it
        from fedloom.models.clip.load import load_clip

        model = load_clip(
            setup.foundation, classes, clip_adapter, setup.device, setup.seed, precision=setup.precision
        )
        return setup.applied(model)

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> "ClassEvaluator":
        """Accuracy on local test samples and on the common test sets."""
        domains = domain_of(tested) if self.source.partition.kind == "domains" else {}
        sets = ClassTests.prepare(tested, self.source.load_common(setup.seed), domains, model)
        return ClassEvaluator(model, sets.local, setup.evaluation, sets)

    def site_figures(self) -> ClassFigures:
        """Accuracies, as unweighted means over the sites."""
        return ClassFigures(common_names(self.source.partition))

    def server_evaluator(
        self, model: Trainable, setup: Setup, tools: ServerTools | None
    ) -> "CommonSetEvaluator | None":
        """Accuracy on the common test pictures that lie at the server, where sites read folders of their own."""
        if self.source.partition.kind != "folder" or not (common := self.source.load_common(setup.seed)):
            return None
        return CommonSetEvaluator(model, setup.evaluation, ClassTests.prepare({}, common, {}, model))

    def class_names(self) -> tuple[str, ...]:
        """Base, then novel classes."""
        classes = self.source.classes()
        return (*classes.base, *classes.novel)

    def answer(self, model: Trainable, question: Question) -> str:
        """The likeliest class of a picture. Raises ExperimentError for anything but one picture."""
        texts = (question.text, question.pair)
        if set(question.inputs) != {"image"} or any(text is not None for text in texts):
            raise ExperimentError("CLIP names what is in a picture; give --image alone")
        return cast("AdaptedCLIP", model).classify(question.inputs["image"])

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Refuses methods that train nothing on CLIP, and text metrics."""
        if method.clip_adapter is None:
            supported = methods_where(lambda m: issubclass(m, CLIPMethod))
            return f"method {method.name} trains nothing on CLIP, which data.source classes needs; take {supported}"
        return needs_no_text_metrics(self.title, evaluation)

    def keeps_features(self, method: Method, training: Training, rounds: int) -> bool:
        """The blocks of the vision tower below the first adapted one."""
        return True

    def described(self, client: ClientData) -> str:
        """The number of a client's classes."""
        return f" of {len({s.answer for part in (client.train, client.test) for s in part})} classes"

    def notes(self, setup: Setup) -> list[str]:
        """The common test sets."""
        return [
            f"everybody is tested on {name}: {len(samples)} of {len({s.answer for s in samples})} classes"
            for name, samples in self.source.load_common(setup.seed).items()
        ]


@dataclass(frozen=True)
class ClassEvaluator:
    """Evaluates clients' CLIP models on `tests`, their local test samples, and on `sets`."""

    model: Trainable
    tests: TestSet
    settings: Evaluation
    sets: ClassTests

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Metrics of every client's model; before round 1 this is the start model, evaluated once."""
        tested = None if self.settings.clients is None else set(self.tests.of)
        before = snapshot.number == 0
        return assess_classes(
            self.model,
            self.model.start if before else snapshot.common,
            {} if before else snapshot.own(tested),
            self.tests,
            self.sets,
            self.settings,
            generate=snapshot.generate,
            cohort=snapshot.cohort,
        )

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: there is no question without the picture."""
        return {}


@dataclass(frozen=True)
class CommonSetEvaluator:
    """Evaluates the common model, where the method has one, on the common test sets alone."""

    model: Trainable
    settings: Evaluation
    sets: ClassTests

    @property
    def tests(self) -> TestSet:
        """Empty: no client's test samples are here."""
        return self.sets.local

    @torch.no_grad()
    def assess(self, snapshot: Snapshot) -> Assessment:
        """The accuracy on each set; nothing without a common model."""
        if not snapshot.common:
            return Assessment({}, {}, [])
        self.model.load(snapshot.common)
        with stage("the common model"):
            [answered] = answered_by(self.model, self.sets, [list(self.sets.common.values())], self.settings)
        accuracies = {
            metric_name(name): fmean(_hits(test, answered)) for name, test in self.sets.common.items()
        }
        return Assessment(accuracies, {}, [])

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: there is no question without the picture."""
        return {}


@torch.no_grad()
def assess_classes(
    model: Trainable,
    common: Mapping[str, Tensor],
    own: Mapping[str, ClientModel],
    tests: TestSet,
    sets: ClassTests,
    settings: Evaluation,
    *,
    generate: bool,
    cohort: int = 1,
) -> Assessment:
    """`local/...`: local test samples; `base/...`, `novel/...`: the common sets; `hm`, `hm2`: harmonic means of their means.

    Clients without a personal model use the common one, which is evaluated once; of others at most `cohort` share a batch.
    `local/image/accuracy_own_classes`: scored over the client's classes only. `domain/<name>/accuracy`: mean over the clients of
    the domain; for a held-out domain over all clients, also as `held_out/image/accuracy`; with `..._sd`, the standard deviation
    over these clients (pFedMMA's protocol).
    """
    clients = sorted(set(tests.of))
    figures: dict[str, dict[str, float]] = {}
    records: list[EvaluationRecord] = []
    shares: dict[str, dict[tuple[str, str], float]] = {name: {} for name in sets.common}
    for group, answered in by_model(model, common, own, tests, sets, settings, cohort):
        local = tests.part(group)
        restricted = None if sets.own_classes is None else sets.own_classes.part(group)
        everywhere = {}
        for name, test in sets.common.items():
            hits = _hits(test, answered)
            everywhere[name] = fmean(hits)
            for sample, hit in zip(test.samples, hits, strict=True):
                known = shares[name].get(("", sample.uid), 0.0)
                shares[name]["", sample.uid] = known + hit * len(group) / len(clients)
        group_records = [
            EvaluationRecord(
                client,
                s.kind,
                s.uid,
                s.answer,
                answered[place] if generate else None,
                1,
                int(answered[place] == s.answer),
                labelled=True,
            )
            for client, s, place in zip(local.of, local.samples, local.places, strict=True)
        ]
        hits = [] if restricted is None else _hits(restricted, answered)
        for client in group:
            correct = fmean(r.correct for r in group_records if r.client == client)
            figures[client] = {LOCAL: correct, **everywhere}
            if restricted is not None:
                own_hits = [hit for c, hit in zip(restricted.of, hits, strict=True) if c == client]
                figures[client][OWN_CLASSES] = fmean(own_hits)
        records += group_records
    by_client = {client: client_row(own) for client, own in figures.items()}
    return Assessment(means(figures, sets.domains), by_client, records, shares)


def _hits(tests: TestSet, answered: Mapping[int, str]) -> list[int]:
    """1 for every sample whose class was found."""
    return [int(answered[place] == s.answer) for place, s in zip(tests.places, tests.samples, strict=True)]
