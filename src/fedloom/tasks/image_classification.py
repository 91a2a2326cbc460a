"""Image classification with CLIP: evaluation on local test samples, on base and novel classes, and by domain.

Every client has one model, personal or else the common one; every metric is an unweighted mean over clients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from fedloom.core.activity import stage, tell
from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.partition.common_sets import common_names
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.data.sources.image_classes import ImageClassSource, domain_of
from fedloom.methods import Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.base import Trainable
from fedloom.models.loading.examples import follow, part_of, taken
from fedloom.models.loading.prepared import prepared
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
from fedloom.tasks.class_figures import (
    ACCURACY,
    LOCAL,
    OWN_CLASSES,
    ClassFigures,
    client_row,
    means,
    metric_name,
)
from fedloom.tasks.evaluation import Assessment, ClientModel, Evaluation, TestSet
from fedloom.tasks.metrics import EvaluationRecord

if TYPE_CHECKING:
    from fedloom.models.clip.trainable import AdaptedCLIP

PICTURES = ("test pictures",)
"""Owner of the test pictures' features in the cache; a tuple, which no client's name is."""


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
class ClassTests:
    """All test sets; their places are those of their examples among the distinct ones.

    `local`: the clients' own test samples. `common`: sets for every client's model, by name. `own_classes`: the local test
    samples again, scored over their client's classes only; None if all clients are scored over all classes. `domains`: the
    domain of each single-domain client.
    """

    local: TestSet
    common: Mapping[str, TestSet]
    own_classes: TestSet | None
    domains: Mapping[str, str]
    pictures: Sequence[Any]
    """The distinct examples of all sets; those from files are read as they are used."""

    @classmethod
    def prepare(
        cls,
        tested: Mapping[str, Sequence[Sample]],
        common: Mapping[str, Sequence[Sample]],
        domains: Mapping[str, str],
        model: Trainable,
    ) -> "ClassTests":
        """Prepare the sets; a picture in a common set and in a client's test samples becomes one example."""
        pairs = [(client, s) for client in sorted(tested) for s in tested[client]]
        of, local = [client for client, _ in pairs], [s for _, s in pairs]
        restricted = [replace(s, meta={**s.meta, "allowed": s.meta["own"]}) for s in local if "own" in s.meta]
        distinct = [*local, *restricted]
        place_of = {_key(s): i for i, s in enumerate(local)}
        for s in (s for samples in common.values() for s in samples):
            if _key(s) not in place_of:
                place_of[_key(s)] = len(distinct)
                distinct.append(s)
        pictures = prepared(model, distinct, PICTURES)

        def placed(of: Sequence[str], samples: Sequence[Sample], places: Sequence[int]) -> TestSet:
            return TestSet(of, samples, part_of(pictures, places), places, pictures)

        return cls(
            placed(of, local, range(len(local))),
            {n: placed([n] * len(own), own, [place_of[_key(s)] for s in own]) for n, own in common.items()},
            placed(of, restricted, range(len(local), len(local) + len(restricted))) if restricted else None,
            domains,
            pictures,
        )

    def features(self, model: Trainable, examples: Sequence[Any], places: Sequence[int]) -> Sequence[Any]:
        """The frozen encoder's features of the examples at these places, cached across clients' models and rounds."""
        if not model.store.on:
            return model.features(examples)
        return model.kept_features(model.feature_version(), PICTURES, places, self.pictures)


def _key(sample: Sample) -> tuple[str, str]:
    return sample.uid, sample.meta["classes"]


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
            answered = _answered(self.model, self.sets, list(self.sets.common.values()), self.settings)
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
) -> Assessment:
    """`local/...`: local test samples; `base/...`, `novel/...`: the common sets; `hm`, `hm2`: harmonic means of their means.

    Clients without a personal model use the common one, which is evaluated once. `local/image/accuracy_own_classes`: scored
    over the client's classes only. `domain/<name>/accuracy`: mean over the clients of the domain; for a held-out domain over all
    clients, also as `held_out/image/accuracy`; with `..._sd`, the standard deviation over these clients (pFedMMA's protocol).
    """
    clients, having_own = sorted(set(tests.of)), set(own)
    figures: dict[str, dict[str, float]] = {}
    records: list[EvaluationRecord] = []
    shares: dict[str, dict[str, float]] = {name: {} for name in sets.common}
    sharing = [c for c in clients if c not in having_own]
    groups = [*([sharing] if sharing else []), *([c] for c in clients if c in having_own)]
    for number, group in enumerate(groups, 1):
        if group[0] in having_own:
            personal = own[group[0]]
            model.load(personal.tensors, personal.ratios)
        else:
            model.load(common)
        local = tests.part(group)
        restricted = None if sets.own_classes is None else sets.own_classes.part(group)
        with stage(_whose(group, len(clients), number, len(groups))):
            answered = _answered(model, sets, [*sets.common.values(), local, restricted], settings)
        everywhere = {}
        for name, test in sets.common.items():
            hits = _hits(test, answered)
            everywhere[name] = fmean(hits)
            for sample, hit in zip(test.samples, hits, strict=True):
                known = shares[name].get(sample.uid, 0.0)
                shares[name][sample.uid] = known + hit * len(group) / len(clients)
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


def _whose(group: Sequence[str], clients: int, number: int, models: int) -> str:
    """The model of a group of clients among so many, for the progress."""
    if len(group) == clients:
        return "the common model"
    return f"{group[0] if len(group) == 1 else f'{len(group)} clients'} ({number} of {models})"


def _answered(
    model: Trainable, sets: ClassTests, wanted: Sequence[TestSet | None], settings: Evaluation
) -> dict[int, str]:
    """The predicted class name by the example's place, of all that stand in these sets, each answered once, in whole batches."""
    due = list(dict.fromkeys(place for test in wanted if test is not None for place in test.places))
    follow(sets.pictures, due)
    answered: dict[int, str] = {}
    for start in range(0, len(due), settings.batch_size):
        tell(f"evaluating, {start} of {len(due)} pictures")
        places = due[start : start + settings.batch_size]
        batch = taken(sets.pictures, places)
        answers = model.generate(batch, settings.max_new_tokens, sets.features(model, batch, places))
        answered.update(zip(places, answers, strict=True))
    return answered


def _hits(tests: TestSet, answered: Mapping[int, str]) -> list[int]:
    """1 for every sample whose class was found."""
    return [int(answered[place] == s.answer) for place, s in zip(tests.places, tests.samples, strict=True)]
