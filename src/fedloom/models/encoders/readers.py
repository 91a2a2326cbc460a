"""Raw pictures and sounds into the inputs of a tower, by its own processor from transformers, without torchvision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import SAMPLE_RATE
from fedloom.models.image_processing import Pixels, fixed_size


class Reader(Protocol):
    """Makes a tower's input: `read` for each sample, once; `arguments` for a batch of what `read` gave."""

    processor: Any

    def read(self, raw: Tensor) -> Tensor:
        """The input of one sample, without the batch axis; equal shapes for all samples."""

    def cuts(self, raw: Tensor) -> bool:
        """Whether `read` drops the end of the sample."""

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        """The tower's arguments for a batch of inputs."""


class PictureReader:
    """Pictures of one size: resized and cropped to uint8 (3, S, S), then rescaled and normalised on the model's device."""

    def __init__(self, processor: Any, source: str, field: str) -> None:
        """Raises ExperimentError for a processor that gives pictures of several shapes."""
        self.processor = processor
        self.pixels = Pixels(None, None, processor=processor)
        fixed_size(self.pixels, source, field)

    def read(self, raw: Tensor) -> Tensor:
        """uint8 (3, H, W) to uint8 (3, S, S)."""
        return self.pixels.sized(raw)

    def cuts(self, raw: Tensor) -> bool:
        """False."""
        return False

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        """`pixel_values` float32 (B, 3, S, S)."""
        return {"pixel_values": self.pixels.normal(x)}


class PatchReader:
    """Pictures as rows of patches (SigLIP 2 with free sizes): every picture is made square first: all have equal shapes."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.grid = math.isqrt(processor.max_num_patches)
        self.side = self.grid * processor.patch_size
        self.pixels = Pixels((self.side, self.side), None, mean=(0.0,) * 3, std=(1.0,) * 3)

    def read(self, raw: Tensor) -> Tensor:
        """uint8 (3, H, W) to float32 (patches, 3 P^2)."""
        batch = self.processor(
            self.pixels.sized(raw).numpy(), input_data_format="channels_first", return_tensors="pt"
        )
        patches: Tensor = batch["pixel_values"][0, : self.grid**2]
        return patches.contiguous()

    def cuts(self, raw: Tensor) -> bool:
        """False."""
        return False

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        """`pixel_values` (B, patches, 3 P^2) with a full mask and the square grid."""
        mask = torch.ones(x.shape[:2], dtype=torch.int32, device=x.device)
        shapes = torch.full((len(x), 2), self.grid, dtype=torch.int64, device=x.device)
        return {"pixel_values": x, "pixel_attention_mask": mask, "spatial_shapes": shapes}


class SoundReader:
    """Sounds of one length: cut or padded to `seconds` as the feature extractor does it, at its own sample rate."""

    def __init__(self, processor: Any, name: str, seconds: float) -> None:
        """`name`: the tower's main argument. `seconds`: the length that the tower reads; longer sounds are cut."""
        self.processor, self.name = processor, name
        self.rate = int(processor.sampling_rate)
        self.raw = own_seconds(processor) is None
        """Whether the tower reads waveforms, not spectra."""
        self.read_seconds(seconds)

    def read_seconds(self, seconds: float) -> None:
        """Cut or pad every sound to this length."""
        self.seconds, self.samples = seconds, round(seconds * self.rate)
        if hasattr(self.processor, "n_samples"):  # Whisper's, which counts a part of a second as a fraction
            self.processor.n_samples = self.samples
            self.processor.nb_max_frames = self.samples // self.processor.hop_length

    def read(self, raw: Tensor) -> Tensor:
        """float32 (T,) at 16 kHz to the tower's input."""
        wave = raw.numpy().astype(np.float32)
        if self.rate != SAMPLE_RATE:
            from scipy.signal import resample_poly

            common = math.gcd(self.rate, SAMPLE_RATE)
            wave = resample_poly(wave, self.rate // common, SAMPLE_RATE // common).astype(np.float32)
        options = {"padding": "max_length", "max_length": self.samples} if self.raw else {}
        batch = self.processor(wave[: self.samples], sampling_rate=self.rate, return_tensors="pt", **options)
        features: Tensor = batch[self.name][0]
        return features.contiguous()

    def cuts(self, raw: Tensor) -> bool:
        """Whether the sound is longer than the tower reads."""
        return len(raw) > round(self.seconds * SAMPLE_RATE)

    def arguments(self, x: Tensor) -> dict[str, Tensor]:
        """The main argument, and a mask of the samples before the padding for a tower that was trained with one."""
        arguments = {self.name: x}
        if self.raw and self.processor.return_attention_mask:
            last = x.shape[1] - (x != 0).flip(1).int().argmax(1)
            arguments["attention_mask"] = (torch.arange(x.shape[1], device=x.device) < last[:, None]).long()
        if "is_longer" in self.processor.model_input_names:  # CLAP: no sound is longer than it reads
            arguments["is_longer"] = torch.zeros(len(x), 1, dtype=torch.bool, device=x.device)
        return arguments


@dataclass(frozen=True)
class TowerPreprocessing:
    """The readers of an encoder's towers by modality."""

    readers: Mapping[str, Reader]

    @property
    def settings(self) -> str:
        """Each reader's type, length and processor."""
        return repr(
            [
                (
                    m,
                    type(r).__name__,
                    getattr(r, "seconds", None),
                    type(r.processor).__name__,
                    r.processor.to_json_string(),
                )
                for m, r in sorted(self.readers.items())
            ]
        )

    def preprocess(self, modality: str, raw: Tensor) -> Tensor:
        """One raw sample to the tower's input, without the batch axis."""
        return self.readers[modality].read(raw)

    def cuts(self, modality: str, raw: Tensor) -> bool:
        """Whether a sound is longer than its tower reads."""
        return self.readers[modality].cuts(raw)


def picture_reader(folder: str | Path, field: str) -> Reader:
    """The reader of a checkpoint of pictures. Raises ExperimentError."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    if hasattr(processor, "max_num_patches"):
        return PatchReader(processor)
    return PictureReader(processor, str(folder), field)


def own_seconds(processor: Any) -> float | None:
    """Seconds that a feature extractor always gives; None where it takes sounds of any length."""
    known: Mapping[str, Any] = vars(processor)
    if "chunk_length" in known:  # Whisper
        return float(known["chunk_length"])
    if "max_length_s" in known:  # CLAP
        return float(known["max_length_s"])
    if "max_length" in known:  # the Audio Spectrogram Transformer: frames of 10 ms
        return float(known["max_length"]) / 100
    return None


def sound_reader(folder: str | Path, name: str, seconds: float | None, field: str) -> SoundReader:
    """The reader of a checkpoint of sounds, of its own length or else of `seconds`; `name` is its tower's main argument.

    Raises ExperimentError without a length.
    """
    from transformers import AutoFeatureExtractor

    processor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
    own = own_seconds(processor)
    if seconds is None and own is None:
        raise ExperimentError(
            f"model.audio_seconds: {field} {folder} reads sounds of any length; say how many seconds it shall read"
        )
    return SoundReader(processor, name, own or seconds)  # type: ignore[arg-type]
