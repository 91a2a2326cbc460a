"""The preparation of samples for a native model as named tensors, which other processes make and a file keeps."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fedloom.data.sample import Sample
from fedloom.models.native.prompt import NativeExample, Reader

ALIGNED, MEDIA = "aligned/", "media/"


@dataclass(frozen=True)
class NativeReading:
    """All of a sample's preparation: a processor reads media and texts together; see `loading.reading.Reading`."""

    reader: Reader
    reads_texts: bool = True

    @cached_property
    def settings(self) -> str:
        """A hash of family, template, limits, configuration, processor and tokenizer."""
        reader, processor = self.reader, self.reader.processor
        parts = [
            getattr(processor, name, None)
            for name in ("image_processor", "feature_extractor", "video_processor")
        ]
        backend: Any = getattr(reader.tokenizer, "backend_tokenizer", None)
        words = (
            json.dumps(reader.tokenizer.get_vocab(), sort_keys=True) if backend is None else backend.to_str()
        )
        all_settings = (
            type(processor).__name__,
            [(type(p).__name__, p.to_json_string()) for p in parts if p is not None],
            sorted(
                (k, repr(v))
                for k, v in vars(processor).items()
                if isinstance(v, str | int | float | bool | None)
            ),
            (type(reader.tokenizer).__name__, words),
            (
                repr(reader.family),
                reader.template,
                reader.limit,
                reader.stops,
                reader.config.to_json_string(),
            ),
        )
        return hashlib.sha256(repr(all_settings).encode()).hexdigest()

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """The example's tensors by name."""
        example = self.reader.prepare(sample)
        return {
            "ids": example.ids,
            "answer": torch.tensor(example.answer, dtype=torch.int64),
            "earlier": torch.tensor(example.earlier, dtype=torch.int64).reshape(-1, 2),
            "truncated": torch.tensor(example.truncated),
            **{ALIGNED + name: tensor for name, tensor in example.aligned.items()},
            **{MEDIA + name: tensor for name, tensor in example.media.items()},
        }


def example_of(sample: Sample, tensors: Mapping[str, Tensor]) -> NativeExample:
    """The example of a sample, from the tensors of its reading."""
    return NativeExample(
        sample.uid,
        sample.kind,
        tensors["ids"],
        _under(ALIGNED, tensors),
        _under(MEDIA, tensors),
        tuple(tensors["answer"].tolist()),
        sample.answer,
        bool(tensors["truncated"]),
        tuple((int(first), int(last)) for first, last in tensors["earlier"].tolist()),
    )


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a prefix, in name order."""
    return {n.removeprefix(prefix): tensors[n] for n in sorted(tensors) if n.startswith(prefix)}
