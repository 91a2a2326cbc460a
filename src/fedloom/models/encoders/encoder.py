"""The encoder interface of a multimodal LLM; ImageBind and `TowerEncoder` implement it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Pool = Literal["head", "cls", "mean"]
"""The vector that is projected: the encoder's published output, the same before its norm, or means over its tokens."""
ScaleMode = Literal["unit", "native", "pandagpt"]
"""Length of the output vectors: 1, as published, or PandaGPT's choice."""


def tower_of(modality: str) -> str:
    """The tower that reads a modality: its own; a video's frames are pictures."""
    return "image" if modality == "video" else modality


@runtime_checkable
class Preprocessing(Protocol):
    """An encoder's preprocessing without its weights, which a worker process gets as a pickled copy."""

    @property
    def settings(self) -> str:
        """All that decides its results, beside the raw sample."""

    def preprocess(self, modality: str, raw: Tensor) -> Tensor:
        """See `Encoder.preprocess`."""

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """See `Encoder.cuts`."""


@runtime_checkable
class HasPreprocessing(Protocol):
    """An encoder whose preprocessing can run in other processes."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing alone."""


class Encoder(Protocol):
    """A module with one tower per modality; adapters go on `trunks`, the part of each tower that is wrapped by PEFT."""

    modalities: tuple[str, ...]
    """The modalities of its towers, in the fixed order."""
    trunks: nn.ModuleDict

    @property
    def reads(self) -> Sequence[str]:
        """The modalities of samples that it reads: those of its towers, and video where the one of pictures takes clips."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each modality's output."""

    def preprocess(self, modality: str, raw: Tensor) -> Tensor:
        """One raw sample (`fedloom.data.sample.Sample`) to the encoder's input, without the batch axis."""

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """Whether `preprocess` drops the end of this sample."""

    def encode(
        self, modality: str, x: Tensor, *, pool: Pool = "head", scale: ScaleMode = "unit", tokens: int = 1
    ) -> Tensor:
        """A batch of inputs to (B, width), or (B, tokens, width) if `tokens` > 1."""

    def positions(self, modality: str) -> int:
        """Positions of one input in its trunk."""

    def probe(self, modality: str, stream: torch.Generator) -> Mapping[str, Tensor]:
        """Arguments of the trunk for one random input, for the gradient check."""

    def save_pretrained(self, directory: Path) -> None:
        """Write the encoder to a folder; adapters are left out."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Move or cast the module."""
