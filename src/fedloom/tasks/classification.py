"""Classification with labels of one's own: texts by a sequence classifier, pictures and sounds by an encoder with a head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from fedloom.core.errors import ExperimentError
from fedloom.data.client_data import ClientData
from fedloom.data.sample import Sample
from fedloom.data.sources.own_data import OwnData
from fedloom.methods import Method
from fedloom.models.base import ReadsWords, Trainable
from fedloom.models.lora.layers import LoRA
from fedloom.models.settings import Foundation
from fedloom.tasks.base import (
    READ_AHEAD,
    READ_FOR_EVERY_TASK,
    READ_FOR_LORA,
    READ_WITH_FOUNDATION,
    Question,
    ServerTools,
    Setup,
    Task,
    Trigger,
    needs_no_text_metrics,
)
from fedloom.tasks.evaluation import Evaluation, TestSet
from fedloom.tasks.text_classification import (
    LabelEvaluator,
    shown,
    text_bases,
    text_model,
    text_usage,
    texts_of,
)
from fedloom.tasks.usage import tensors_code

if TYPE_CHECKING:
    from fedloom.models.classifier.label_model import LabelModel
    from fedloom.models.classifier.media import MediaClassifier

MOSTLY_UNREAD = 0.5
"""Share of the texts' words that a tokenizer may not know before a run's status says so."""


NO_LABELS = (
    "data.labels: the server does not see the sites' data; name the classes in their order, as in [cat, dog]"
    """The refusal where the data stay at the sites."""
)


@dataclass(frozen=True)
class Classification(Task[OwnData]):
    """Classification of texts, pairs of texts, pictures or sounds in own tables."""

    name: ClassVar[str] = "classification"
    title: ClassVar[str] = "a classifier of labels"
    source_members: ClassVar[tuple[str, ...]] = ("labels", "columns")
    headline: ClassVar[Mapping[str, str]] = {
        f"global/{kind}/{metric}": ""
        for kind in ("text", "image", "audio")
        for metric in ("accuracy", "macro_f1")
    }
    reads: ClassVar[tuple[str, ...]] = (
        *READ_FOR_EVERY_TASK,
        *READ_AHEAD,
        "evaluation.batch_size",
        "evaluation.loss",
        *READ_FOR_LORA,
        *READ_WITH_FOUNDATION,
        "model.classifier",
        "model.quantize",
        "model.quantizer",
        "model.encoder",
        "model.audio_seconds",
        "model.body_lora*",
    )
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair", "image", "audio")

    def adapters(self, foundation: Foundation) -> dict[str, LoRA]:
        """The LoRA shape of `body`."""
        return {"body": foundation.body_lora}

    def model(self, holds: Mapping[str, Sequence[str]], setup: Setup) -> "LabelModel":
        """The classifier of what the clients hold, with a head for the labels in their order."""
        if self.source.labels is None:  # where the data stay at the sites
            raise ExperimentError(NO_LABELS)
        held = sorted({m for own in holds.values() for m in own})
        if len(held) > 1:
            raise ExperimentError(
                f"a classifier reads texts, pictures or sounds, and clients hold {' and '.join(held)}; "
                "data.answers: words has a multimodal LLM answer instead"
            )
        return _loaded(held[0] if held else None, self.source.labels, setup)

    def load(self, folder: Path, setup: Setup) -> "LabelModel":
        """The classifier with the labels and tensors in `folder`."""
        from fedloom.models.adapter_folder import read_listing

        listed = read_listing(folder)
        model = _loaded(listed.get("modality"), listed["labels"], setup)
        model.load(model.read_adapters(folder))
        return model

    def bases(self, foundation: Foundation) -> dict[str, str]:
        """The text classifier, or the encoder of pictures or sounds."""
        from fedloom.models.mllm.load import foundation_folder

        if isinstance(foundation.encoder, dict):
            return {f"body.{modality}": source for modality, source in foundation.encoder.items()}
        if foundation.encoder is not None:
            return {"body": foundation.encoder}
        if any(columns.media for columns in self.source.columns_seen()):
            return {"body": str(foundation_folder(foundation.foundation) / "encoder")}
        return text_bases(foundation)

    def usage(self, foundation: Foundation, folder: Path) -> str:
        """Code for a text classifier; the files' tensors of an encoder with a head."""
        bases = self.bases(foundation)
        return text_usage(foundation, folder) if "" in bases else tensors_code(folder)

    def evaluator(
        self,
        tested: Mapping[str, Sequence[Sample]],
        model: Trainable,
        setup: Setup,
        tools: ServerTools | None = None,
        trigger: Trigger | None = None,
    ) -> LabelEvaluator:
        """Accuracy and macro-F1 of the common and the personal models."""
        return LabelEvaluator(model, TestSet.prepare(tested, model), setup.evaluation)

    def answer(self, model: Trainable, question: Question) -> str:
        """The likeliest labels with their probabilities. Raises ExperimentError for inputs that the classifier does not read."""
        from fedloom.models.classifier.media import MediaClassifier
        from fedloom.models.classifier.trainable import AdaptedClassifier

        texts = (question.text, question.pair)
        if isinstance(model, MediaClassifier):
            if set(question.inputs) != {model.modality} or any(text is not None for text in texts):
                raise ExperimentError(f"the classifier reads one file; give --{model.modality} alone")
            return shown(model.classify(question.inputs[model.modality]))
        assert isinstance(model, AdaptedClassifier)  # noqa: S101 - the other kind
        return shown(model.classify(*texts_of(question, pairs=self.source.columns.pair is not None)))

    def refuses(self, method: Method, evaluation: Evaluation) -> str | None:
        """Refuses methods for other models, and text metrics."""
        if method.clip_adapter is not None:
            return (
                f"method {method.name} trains a part of CLIP; set data.source: classes, which reads pictures in a folder for "
                "each class, or take a method such as fedavg-lora"
            )
        if method.public_items:
            return (
                f"method {method.name} is for clients with models of their own; set data.source: labelled, or take a method such "
                "as fedavg-lora"
            )
        return needs_no_text_metrics(self.title, evaluation)

    def undeployable(self) -> str | None:
        """Sites cannot agree on classes that the experiment does not name."""
        return NO_LABELS if self.source.labels is None else None

    def doubts(self, model: Trainable, clients: Sequence[ClientData]) -> list[str]:
        """Words that the tokenizer does not know, the package's own encoder, and classes that no client trains on."""
        from fedloom.models.classifier.label_model import LabelModel

        assert isinstance(model, LabelModel)  # noqa: S101 - `model` made it
        trained = {s.answer for client in clients for s in client.train}
        doubts = []
        if lacking := [label for label in model.labels if label not in trained]:
            doubts.append(
                f"no client trains on {len(lacking)} of the {len(model.labels)} classes, such as {lacking[0][:40]}"
            )
        if getattr(model, "shipped", False):
            doubts.append(
                "the encoder is the package's tiny one, trained on generated pictures and sounds; model.encoder names another"
            )
        if isinstance(model, ReadsWords):
            share = model.unread_share(_texts(clients))
            if share > MOSTLY_UNREAD:
                doubts.append(
                    f"the model knows {1 - share:.0%} of the texts' words, and reads the others by letters"
                )
        return doubts

    def described(self, client: ClientData) -> str:
        """The number of a client's labels."""
        return f" of {len({s.answer for part in (client.train, client.test) for s in part})} classes"


def _loaded(modality: str | None, labels: Sequence[str], setup: Setup) -> "LabelModel":
    if modality is not None:
        return _media_model(modality, labels, setup)
    if setup.foundation.encoder is not None:
        raise ExperimentError(
            "model.encoder is for pictures and sounds, and the rows are texts; name their model in model.classifier"
        )
    return text_model(labels, setup)


def _media_model(modality: str, labels: Sequence[str], setup: Setup) -> "MediaClassifier":
    from fedloom.models.classifier.load import load_media_classifier

    if setup.foundation.classifier is not None:
        raise ExperimentError(
            "model.classifier is for texts; name the encoder of pictures or sounds in model.encoder, as in "
            f"{{{modality}: {setup.foundation.classifier}}}"
        )
    for name, value in (
        ("model.quantize", setup.foundation.quantize),
        ("engine.device_map", setup.device_map),
    ):
        if value is not None:
            raise ExperimentError(f"{name} is for language models and text classifiers; leave it out")
    model = load_media_classifier(
        setup.foundation,
        modality,
        labels,
        setup.device,
        setup.seed,
        second=setup.method.second,
        precision=setup.precision,
    )
    return setup.applied(model)


def _texts(clients: Sequence[ClientData]) -> set[str]:
    """The clients' training texts."""
    samples = [s for client in clients for s in client.train]
    return {text for s in samples for text in (s.question, s.meta["pair"]) if text}
