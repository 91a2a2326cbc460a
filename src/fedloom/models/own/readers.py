"""Raw pictures, sounds and texts into the inputs of clients' own encoders, in any process."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fedloom.data.sample import SAMPLE_RATE, Sample
from fedloom.models.image_processing import Pixels
from fedloom.models.plain_tokenizer import PlainTokenizer


class Reader(Protocol):
    """One raw input to the encoder's keyword arguments, without a batch dimension."""

    @property
    def settings(self) -> str:
        """All that decides the results, beside the input."""

    def __call__(self, raw: Any) -> dict[str, Tensor]:
        """The arguments by name."""


@dataclass(frozen=True)
class PictureReader:
    """Pictures, uint8 (3, H, W)."""

    pixels: Pixels

    @property
    def settings(self) -> str:
        """The image processor."""
        return self.pixels.settings

    def __call__(self, raw: Tensor) -> dict[str, Tensor]:
        """`pixel_values` float32 (3, S, S)."""
        return {"pixel_values": self.pixels.normal(self.pixels.sized(raw)[None])[0]}


@dataclass(frozen=True)
class SoundReader:
    """Waveforms, float32 (T,) at 16 kHz."""

    extractor: Any

    @property
    def settings(self) -> str:
        """The feature extractor."""
        return repr((type(self.extractor).__name__, self.extractor.to_json_string()))

    def __call__(self, raw: Tensor) -> dict[str, Tensor]:
        """`input_values`, as the extractor makes them."""
        wave = raw.numpy().astype(np.float32)
        encoding = self.extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return {"input_values": encoding["input_values"][0]}


@dataclass(frozen=True)
class TextReader:
    """Texts, cut or padded to `length` tokens."""

    tokenize: PlainTokenizer
    length: int

    @property
    def settings(self) -> str:
        """The length."""
        return repr(self.length)

    def __call__(self, raw: str) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, int64 (length,)."""
        encoding = self.tokenize(
            raw, truncation=True, max_length=self.length, padding="max_length", return_tensors="pt"
        )
        return {n: encoding[n][0] for n in ("input_ids", "attention_mask")}


@dataclass(frozen=True)
class BankReading:
    """A sample's media for every encoder of their modality; see `loading.reading.Reading`.

    `readers`: by modality, the readers by name.
    """

    readers: Mapping[str, Mapping[str, Reader]]
    reads_texts: bool = False

    @property
    def settings(self) -> str:
        """The settings of all readers."""
        return repr([(m, n, r.settings) for m, own in sorted(self.readers.items()) for n, r in own.items()])

    def __call__(self, sample: Sample) -> dict[str, Tensor]:
        """The encoders' inputs as `<reader>/<argument>`; the sample is decoded once."""
        named: dict[str, Tensor] = {}
        for modality in sample.modalities:
            raw = sample.modalities[modality]
            for name, reader in self.readers.get(modality, {}).items():
                named |= {f"{name}/{argument}": tensor for argument, tensor in reader(raw).items()}
        return named
