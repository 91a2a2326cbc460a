"""Image classification with CLIP: evaluation at home, on base and on novel classes, and by domain.

Every client has one model, its own or else the common one, and every figure is an unweighted mean over clients.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.pictures.class_names import Classes
from fedloom.data.sample import Sample
from fedloom.data.sources.image_classes import ImageClassSource, domain_of
from fedloom.methods import Method
from fedloom.methods.base.clip import CLIPMethod
from fedloom.models.base import Trainable
from fedloom.tasks.base import (
    Question,
    ServerTools,
    Setup,
    Snapshot,
    Task,
    Trigger,
    methods_where,
    needs_no_text_metrics,
)
from fedloom.tasks.evaluation import Assessment, ClientModel, Evaluation, TestSet
from fedloom.tasks.metrics import EvaluationRecord, harmonic_mean

if TYPE_CHECKING:
    from fedloom.models.clip.trainable import AdaptedCLIP

ACCURACY = "image/accuracy"
PICTURES = ("test pictures",)
"""Owner of the test pictures' features; no client has a tuple for a name."""


@dataclass(frozen=True)
class ImageClassification(Task[ImageClassSource]):
    """A class name for a picture, by CLIP with adapters or prompts."""

    name: ClassVar[str] = "image-classification"
    title: ClassVar[str] = "an image classifier (CLIP)"
    headline: ClassVar[Mapping[str, str]] = {
        f"local/{ACCURACY}": "local",
        f"base/{ACCURACY}": "base",
        f"novel/{ACCURACY}": "novel",
        "hm": "HM",
        f"held_out/{ACCURACY}": "held out",
    }
    not_deployable: ClassVar[str | None] = (
        "image classification by class is tested on common sets, which no site holds; run it on the local engine"
    )

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> "AdaptedCLIP":
        """CLIP for the source's classes."""
        return self._loaded(self.source.classes(), setup)

    def load(self, folder: Path, setup: Setup) -> "AdaptedCLIP":
        """CLIP for the classes that `folder` names, with its tensors."""
        listed = json.loads((folder / "fedloom.json").read_text(encoding="utf-8"))
        model = self._loaded(Classes(**{part: tuple(n) for part, n in listed["classes"].items()}), setup)
        model.load(model.read_adapters(folder))
        return model

    def _loaded(self, classes: Classes, setup: Setup) -> "AdaptedCLIP":
        attachment = setup.method.attachment
        assert attachment is not None  # noqa: S101 - `refuses` saw to it
        from fedloom.models.clip.load import load_clip

        model = load_clip(
            setup.foundation, classes, attachment, setup.device, setup.seed, precision=setup.precision
        )
        if setup.compile:
            model.compile_frozen()
        return model

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> "ClassEvaluator":
        """Accuracy at home and on the sets that every client's model is measured on."""
        tests = TestSet.prepare(tested, model)
        parts = {client: tests.only(client).samples for client in sorted(set(tests.of))}
        domains = domain_of(parts) if self.source.partition.kind == "domains" else {}
        sets = ClassTests.prepare(tests, self.source.load_common(setup.seed), domains, model)
        return ClassEvaluator(model, tests, setup.evaluation, sets)

    def answer(self, model: Trainable, question: Question) -> str:
        """The likeliest class of a picture. Raises ExperimentError for anything but one picture."""
        texts = (question.text, question.pair)
        if set(question.inputs) != {"image"} or any(text is not None for text in texts):
            raise ExperimentError("CLIP names what is in a picture; give --image alone")
        return cast("AdaptedCLIP", model).classify(question.inputs["image"])

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Methods that train nothing on CLIP."""
        if method.attachment is None:
            known = methods_where(lambda m: issubclass(m, CLIPMethod))
            return (
                f"method {method.name} trains nothing on CLIP, which data.source classes needs; take {known}"
            )
        return needs_no_text_metrics(self.title, evaluation)

    def described(self, client: ClientData) -> str:
        """The number of the client's classes."""
        return f" of {len({s.answer for part in (client.train, client.test) for s in part})} classes"

    def notes(self, setup: Setup) -> list[str]:
        """The common test sets."""
        return [
            f"everybody is tested on {name}: {len(samples)} of {len({s.answer for s in samples})} classes"
            for name, samples in self.source.load_common(setup.seed).items()
        ]


@dataclass(frozen=True)
class ClassTests:
    """What is measured besides the clients' own test parts.

    `common`: sets that every client's model is measured on, by name. `own_classes`: the clients' own test parts again, each
    scored over the classes that its client holds; None where every client is scored over all. `domains`: the domain of each
    client that has but one.
    """

    common: Mapping[str, TestSet]
    own_classes: TestSet | None
    domains: Mapping[str, str]
    pictures: Sequence[Any]
    """Every example of all sets, the clients' own included, once."""

    @classmethod
    def prepare(
        cls,
        tests: TestSet,
        common: Mapping[str, Sequence[Sample]],
        domains: Mapping[str, str],
        model: Trainable,
    ) -> "ClassTests":
        """The sets as the model reads them; a picture of the common sets that is some client's, too, is one example."""
        restricted = [
            replace(s, meta={**s.meta, "allowed": s.meta["own"]}) for s in tests.samples if "own" in s.meta
        ]
        own = TestSet(tests.of, restricted, [model.prepare(s) for s in restricted]) if restricted else None
        same = {(s.uid, s.meta["classes"]): e for s, e in zip(tests.samples, tests.examples, strict=True)}
        pictures = [*tests.examples, *(own.examples if own is not None else ())]
        for s in (s for samples in common.values() for s in samples):
            key = s.uid, s.meta["classes"]
            if key not in same:
                pictures.append(model.prepare(s))
                same[key] = pictures[-1]
        sets = {
            name: TestSet([name] * len(samples), samples, [same[s.uid, s.meta["classes"]] for s in samples])
            for name, samples in common.items()
        }
        return cls(sets, own, domains, pictures)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(example): i for i, example in enumerate(self.pictures)}

    def features(self, model: Trainable, examples: Sequence[Any]) -> Sequence[Any]:
        """What the model's frozen part makes of these examples, kept for every client's model and every round."""
        if not model.store.on:
            return model.features(examples)
        places = [self._places[id(example)] for example in examples]
        return model.kept_features(model.feature_version(), PICTURES, places, self.pictures)


@dataclass(frozen=True)
class ClassEvaluator:
    """Evaluates clients' CLIP models on `tests`, their own parts, and on `sets`."""

    model: Trainable
    tests: TestSet
    settings: Evaluation
    sets: ClassTests

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Every client's model; before round 1 all have the start model, which is evaluated once."""
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
        """None: a class name without a picture is no question."""
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
    """`local/...` on the client's own test part, `base/...` and `novel/...` on the whole sets, `hm` and `hm2` of their means.

    Clients without a model of their own have the common one, which is measured once. `local/image/accuracy_own_classes` scores
    over the client's own classes only. `domain/<name>/accuracy` is over the clients of a domain, or of a held-out one over all
    clients (`held_out/image/accuracy`, too), with its standard deviation over these clients beside it (pFedMMA's protocol).
    """
    clients, having = sorted(set(tests.of)), set(own)
    figures: dict[str, dict[str, float]] = {}
    records: list[EvaluationRecord] = []
    alike = [c for c in clients if c not in having]
    for group in [*([alike] if alike else []), *([c] for c in clients if c in having)]:
        if group[0] in having:
            mine = own[group[0]]
            model.load(mine.tensors, mine.ratios)
        else:
            model.load(common)
        told: dict[int, str] = {}  # by the example: one that stands in several sets is asked about once
        everywhere = {
            name: fmean(_right(test, _names(model, sets, test.examples, settings, told)))
            for name, test in sets.common.items()
        }
        home = tests.part(group)
        answers = _names(model, sets, home.examples, settings, told)
        found = [
            EvaluationRecord(
                client,
                s.kind,
                s.uid,
                s.answer,
                answer if generate else None,
                1,
                int(answer == s.answer),
                labelled=True,
            )
            for client, s, answer in zip(home.of, home.samples, answers, strict=True)
        ]
        narrow = None if sets.own_classes is None else sets.own_classes.part(group)
        narrowly = (
            [] if narrow is None else _right(narrow, _names(model, sets, narrow.examples, settings, told))
        )
        for client in group:
            figures[client] = {"local": fmean(r.correct for r in found if r.client == client), **everywhere}
            if narrow is not None:
                right = [r for c, r in zip(narrow.of, narrowly, strict=True) if c == client]
                figures[client]["own classes"] = fmean(right)
        records += found
    of_client = {
        client: {
            ACCURACY: found["local"],
            **{f"{n}/accuracy": v for n, v in found.items() if n not in ("local", "own classes")},
            **({f"{ACCURACY}_own_classes": found["own classes"]} if "own classes" in found else {}),
        }
        for client, found in figures.items()
    }
    return Assessment(_means(figures, sets.domains), of_client, records)


def _means(figures: Mapping[str, Mapping[str, float]], domains: Mapping[str, str]) -> dict[str, float]:
    """The figures of a run out of every client's."""
    names = next(iter(figures.values()))
    mean = {name: fmean(found[name] for found in figures.values()) for name in names}
    metrics = {
        f"local/{ACCURACY}": mean["local"],
        f"local/worst_client/{ACCURACY}": min(found["local"] for found in figures.values()),
    }
    if "own classes" in mean:
        metrics[f"local/{ACCURACY}_own_classes"] = mean["own classes"]
    metrics |= {f"{name}/{ACCURACY}": mean[name] for name in ("base", "novel") if name in mean}
    if "base" in mean and "novel" in mean:
        metrics["hm"] = harmonic_mean(mean["local"], mean["base"], mean["novel"])
        metrics["hm2"] = harmonic_mean(mean["base"], mean["novel"])
    groups: dict[str, list[float]] = {}
    for client, domain in sorted(domains.items()):
        groups.setdefault(f"domain/{domain}", []).append(figures[client]["local"])
    for name in names:
        if name.startswith("domain/"):
            groups[name] = [found[name] for found in figures.values()]
            metrics[f"held_out/{ACCURACY}"] = mean[name]
    for name, values in groups.items():
        metrics[f"{name}/accuracy"] = fmean(values)
        if len(values) > 1:
            metrics[f"{name}/accuracy_sd"] = stdev(values)
    return metrics


def _names(
    model: Trainable,
    sets: ClassTests,
    examples: Sequence[Any],
    settings: Evaluation,
    told: dict[int, str],
) -> list[str]:
    """The class that the model names for each example; `told` holds what it has said already, and is added to."""
    due = [e for e in examples if id(e) not in told]
    for start in range(0, len(due), settings.batch_size):
        batch = due[start : start + settings.batch_size]
        answers = model.generate(batch, settings.max_new_tokens, sets.features(model, batch))
        told.update(zip(map(id, batch), answers, strict=True))
    return [told[id(e)] for e in examples]


def _right(tests: TestSet, answers: Sequence[str]) -> list[int]:
    return [int(answer == s.answer) for answer, s in zip(answers, tests.samples, strict=True)]
