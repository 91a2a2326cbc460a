"""The part of a sample's preparation that takes long: decoding its media and preprocessing them."""

import hashlib
from typing import Protocol

import torch
from torch import Tensor

from fedloom.data.media.extra import versions
from fedloom.data.media.sample_files import MediaFiles
from fedloom.data.sample import Sample

FORMAT = 1
"""Number of the preprocessing code; a change of its results counts it up, so that older cached results are not used."""


class Reading(Protocol):
    """Preprocesses a sample's media, on the CPU and without a model's weights; loader processes get a pickled copy."""

    @property
    def settings(self) -> str:
        """All that decides its results, beside the sample."""

    @property
    def reads_texts(self) -> bool:
        """Whether its results depend on the sample's texts, too."""

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """The preprocessed inputs by name. Raises as `Trainable.prepare` does."""


def reading_key(reading: Reading) -> str:
    """A hash of the settings and of the versions of the libraries that preprocess."""
    code = (FORMAT, torch.__version__, *versions(("transformers", "tokenizers", "numpy", "scipy")))
    return hashlib.sha256(repr((reading.settings, code)).encode()).hexdigest()


def sample_key(sample: Sample, reading: Reading, of_reading: str) -> str | None:
    """The key of a sample's preprocessed inputs; None where its media are not files, or were changed just now."""
    if not isinstance(sample.modalities, MediaFiles) or not sample.modalities:
        return None
    identity = sample.modalities.identity()
    if identity is None:
        return None
    texts = repr((sample.question, sample.answer, sample.turns)) if reading.reads_texts else ""
    return hashlib.sha256(repr((of_reading, identity, texts)).encode()).hexdigest()
