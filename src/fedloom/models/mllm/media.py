"""The preprocessing of a sample's media for a multimodal LLM, without its weights and its texts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fedloom.data.sample import Sample, modality_of
from fedloom.models.encoders.encoder import Encoder, Preprocessing

CUT = "/cut"
"""Suffix of the names of flags: whether the encoder does not read the end of an input."""


@dataclass(frozen=True)
class MediaReading:
    """Preprocesses a sample's media: an input for each key, and its flag; see `loading.reading.Reading`."""

    encoder: Encoder | Preprocessing
    reads_texts: bool = False

    @property
    def settings(self) -> str:
        """The encoder's preprocessing."""
        return self.encoder.settings if isinstance(self.encoder, Preprocessing) else ""

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """The inputs and flags of all media. Raises ExperimentError for a raw sample that does not fit."""
        named: dict[str, Tensor] = {}
        for key in sample.modalities:
            raw, modality = sample.modalities[key], modality_of(key)
            named[key] = self.encoder.preprocess(modality, raw)
            named[key + CUT] = torch.tensor(self.encoder.cuts(modality, raw))
        return named


def is_cut(inputs: Mapping[str, Tensor], keys: Iterable[str]) -> bool:
    """Whether the encoder does not read the end of one of these inputs."""
    return any(bool(inputs[key + CUT]) for key in keys)
