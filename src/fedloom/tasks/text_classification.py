"""Text classification: a sequence classifier with LoRA on its body and a trained head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.sources.text import TextSource
from fedloom.models.base import Trainable
from fedloom.models.lora.layers import LoRA
from fedloom.models.settings import Foundation
from fedloom.models.sources import public_name
from fedloom.tasks.base import (
    READ_FOR_EVERY_TASK,
    READ_FOR_LORA,
    READ_WITH_FOUNDATION,
    Question,
    ServerTools,
    Setup,
    Snapshot,
    Task,
    Trigger,
)
from fedloom.tasks.evaluation import Assessment, Evaluation, TestSet
from fedloom.tasks.usage import classifier_code, whole_code

if TYPE_CHECKING:
    from fedloom.models.classifier.trainable import AdaptedClassifier


SHOWN = 5
"""Labels that an answer names at most."""


@dataclass(frozen=True)
class TextClassification(Task[TextSource]):
    """Classification of a text, or of a pair of texts."""

    name: ClassVar[str] = "text-classification"
    title: ClassVar[str] = "a text classifier"
    source_members: ClassVar[tuple[str, ...]] = ("labels", "pairs")
    headline: ClassVar[Mapping[str, str]] = {"global/text/accuracy": ""}
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        "evaluation.batch_size",
        "evaluation.loss",
        *READ_FOR_LORA,
        *READ_WITH_FOUNDATION,
        "engine.device_map",
        *(f"model.{name}" for name in ("classifier", "quantize", "quantizer")),
        "model.body_lora*",
    )
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair")

    def adapters(self, foundation: Foundation) -> dict[str, LoRA]:
        """The LoRA shape of `body`."""
        return {"body": foundation.body_lora}

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> "AdaptedClassifier":
        """The classifier with a head for the source's labels, in their order."""
        return text_model(self.source.labels, setup)

    def load(self, folder: Path, setup: Setup) -> "AdaptedClassifier":
        """The trained classifier."""
        model = self.model({}, setup)
        model.load(model.read_adapters(folder))
        return model

    def bases(self, foundation: Foundation) -> dict[str, str]:
        """The classifier or masked LM."""
        return text_bases(foundation)

    def usage(self, foundation: Foundation, folder: Path) -> str:
        """Code for the whole classifier, merged or with its adapter and head."""
        return text_usage(foundation, folder)

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> "LabelEvaluator":
        """Accuracy of the common and the personal models."""
        return LabelEvaluator(model, TestSet.prepare(tested, model), setup.evaluation)

    def answer(self, model: Trainable, question: Question) -> str:
        """The likeliest labels with their probabilities. Raises ExperimentError for anything but a text, or a pair of texts."""
        return shown(cast("AdaptedClassifier", model).classify(*texts_of(question, pairs=self.source.pairs)))


def text_model(labels: Sequence[str], setup: Setup) -> "AdaptedClassifier":
    """The text classifier of the settings with a head for these labels."""
    from fedloom.models.classifier.load import load_classifier

    model = load_classifier(
        setup.foundation,
        labels,
        setup.device,
        setup.seed,
        second=setup.method.second,
        precision=setup.precision,
        device_map=setup.device_map,
    )
    return setup.applied(model)


def text_bases(foundation: Foundation) -> dict[str, str]:
    """The classifier or masked LM."""
    from fedloom.models.classifier.load import classifier_source

    return {"": str(classifier_source(foundation))}


def text_usage(foundation: Foundation, folder: Path) -> str:
    """Code for the whole classifier, merged or with its adapter and head."""
    if (folder / "config.json").is_file():
        return whole_code(folder)
    return classifier_code(public_name(text_bases(foundation)[""]), folder)


def texts_of(question: Question, *, pairs: bool) -> tuple[str, str | None]:
    """The text to classify and the second one of a pair. Raises ExperimentError for other inputs."""
    if question.inputs or question.text is None:
        raise ExperimentError("a text classifier reads text alone; give --question with the text")
    if pairs and question.pair is None:
        raise ExperimentError("the classifier compares two texts; give the second one with --pair")
    if not pairs and question.pair is not None:
        raise ExperimentError("the classifier reads one text; leave --pair out")
    return question.text, question.pair


def shown(probabilities: Mapping[str, float]) -> str:
    """The first of the labels with their probabilities, one a line."""
    listed = list(probabilities.items())[:SHOWN]
    width = max(len(label) for label, _ in listed)
    return "\n".join(f"{label:<{width}}  {share:.2f}" for label, share in listed)


@dataclass(frozen=True)
class LabelEvaluator:
    """Evaluates a classifier on test samples."""

    model: Trainable
    tests: TestSet
    settings: Evaluation

    def assess(self, snapshot: Snapshot) -> Assessment:
        """Metrics of the common and the personal models."""
        return snapshot.assess(self.model, self.tests, self.settings)

    def controls(self, common: Mapping[str, Tensor]) -> dict[str, float]:
        """Empty: the text is the only input."""
        return {}
