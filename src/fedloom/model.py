"""What a client trains: one frozen foundation with small named tensors on it, one per process whatever the clients."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fedloom.data.sample import Sample
from fedloom.exchange import group_of
from fedloom.metrics.bertscore import Embedder


class AdaptedModel(ABC):
    """A foundation and its adapters, as clients, engines and the federation see them.

    Subclasses say how a sample is read, trained on and answered; the bookkeeping of the trainable tensors is here.
    `tensors` maps travelling names `<group>/<place>` to parameters, `start` to their values before round 1.
    """

    def __init__(self, tensors: Mapping[str, nn.Parameter]) -> None:
        self.tensors: dict[str, nn.Parameter] = {name: tensors[name] for name in sorted(tensors)}
        self.start: dict[str, Tensor] = {name: p.detach().clone() for name, p in self.tensors.items()}
        self.rest()

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Set every tensor to the value given, or else to its start value, so that nothing of the last client stays.

        Raises KeyError for a name that the model does not have.
        """
        if unknown := sorted(set(tensors) - set(self.tensors)):
            raise KeyError(f"the model has no tensor {unknown[0]}")
        for name, parameter in self.tensors.items():
            parameter.copy_(tensors.get(name, self.start[name]))

    def begin(self, groups: frozenset[str]) -> list[nn.Parameter]:
        """Make exactly these groups trainable; returns their parameters in name order."""
        for name, parameter in self.tensors.items():
            parameter.requires_grad_(group_of(name) in groups)
            parameter.grad = None
        self.dropout_in(groups)
        return [p for n, p in self.tensors.items() if group_of(n) in groups]

    def rest(self) -> None:
        """Freeze everything and switch every dropout off."""
        self.begin(frozenset())

    @abstractmethod
    def dropout_in(self, groups: frozenset[str]) -> None:
        """Let adapter dropout be active in these groups only; the frozen base always stays in eval mode."""

    @abstractmethod
    def groups(self, holds: Sequence[str]) -> frozenset[str]:
        """The groups that a client with these modalities instantiates."""

    @abstractmethod
    def prepare(self, sample: Sample) -> Any:
        """A sample as the model reads it. Raises ExperimentError for a sample that it cannot read."""

    @abstractmethod
    def features(self, examples: Sequence[Any]) -> Sequence[Any]:
        """What the encoder makes of each example, without gradients; may be handed to `loss`, `score` and `generate`."""

    @abstractmethod
    def loss(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> Tensor:
        """Scalar training loss of a batch, with gradients."""

    @abstractmethod
    def score(self, examples: Sequence[Any], features: Sequence[Any] | None = None) -> list[tuple[int, int]]:
        """Per example: the number of answer tokens, and how many of them the model predicts (teacher forced)."""

    @abstractmethod
    def generate(
        self, examples: Sequence[Any], max_new_tokens: int, features: Sequence[Any] | None = None
    ) -> list[str]:
        """Per example: the greedily decoded answer."""

    @abstractmethod
    def embedder(self) -> Embedder:
        """The foundation's own contextual token vectors, for BERTScore without any download."""

    @abstractmethod
    def save_adapters(self, folder: Path) -> None:
        """Write the tensors as they stand, in Hugging Face formats; equal tensors give equal bytes."""
