"""A classifier of labels: loss, scores and answers from the logits of a model with LoRA on its body and a trained head."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloom.core.dtypes import at_least_float32
from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.base import Trainable, means
from fedloom.models.classifier import checkpoint as classifier_io
from fedloom.models.precision import placed

BODY, HEAD = "body", "head"


class LabelModel(Trainable):
    """Base of classifiers; examples have the index of their label in `label`."""

    labels: tuple[str, ...]
    """The classes, in the order of the logits."""

    @abstractmethod
    def logits(self, examples: Sequence[Any]) -> Tensor:
        """(examples, labels)."""

    def groups(self, holds: Sequence[str], client: str | None = None) -> frozenset[str]:
        """Body and head for all clients."""
        return frozenset({BODY, HEAD})

    def label_of(self, sample: Sample) -> int:
        """Index of the sample's label. Raises ExperimentError for a sample with other classes than the model's."""
        labels = sample.meta["labels"]
        if tuple(labels) != self.labels or sample.answer not in self.labels:
            raise ExperimentError(
                f"{sample.uid} has the label {sample.answer!r} of {', '.join(labels)}; "
                f"the model's labels are {', '.join(self.labels)}, in this order"
            )
        return self.labels.index(sample.answer)

    @property
    def feature_tensors(self) -> Sequence[str]:
        """None: there are no cached features."""
        return ()

    def loss(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> Tensor:
        """Mean cross entropy."""
        logits = self.logits(examples)
        targets = placed([e.label for e in examples], logits.device)
        return cross_entropy(at_least_float32(logits), targets)

    def losses(
        self,
        examples: Sequence[Any],
        owners: Sequence[int],
        count: int,
        features: Sequence[Any] | None = None,
    ) -> Tensor:
        """Mean cross entropy of each owner's examples."""
        logits = self.logits(examples)
        targets = placed([e.label for e in examples], logits.device)
        logits = at_least_float32(logits)
        each = cross_entropy(logits, targets, reduction="none")
        return means(each, placed(owners, logits.device), count)

    @torch.no_grad()
    def score(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> list[tuple[int, int]]:
        """(1, 1) for a right label, (1, 0) for a wrong one: token accuracy is the accuracy."""
        return [(1, int(guess == e.label)) for guess, e in zip(self._guess(examples), examples, strict=True)]

    @torch.no_grad()
    def generate(
        self, examples: Sequence[Any], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        """The word of the likeliest label."""
        return [self.labels[guess] for guess in self._guess(examples)]

    @torch.no_grad()
    def probabilities(self, example: Any) -> dict[str, float]:
        """Every label's probability, the likeliest first."""
        with self.mixed_by_prompts(BODY, [example]):
            shares = self.logits([example])[0].double().softmax(-1).tolist()
        return dict(sorted(zip(self.labels, shares, strict=True), key=lambda entry: -entry[1]))

    @staticmethod
    def read_adapters(folder: Path) -> dict[str, Tensor]:
        """The tensors that `save_adapters` wrote, by their travelling names."""
        return classifier_io.read(folder)

    def _guess(self, examples: Sequence[Any]) -> list[int]:
        """Index of the likeliest label; with prompt states of the client, under its own mix of adapters (FedDPA)."""
        with self.mixed_by_prompts(BODY, examples):
            return self.logits(examples).argmax(-1).tolist()
